"""The answer for a terminal, for programs and for Prometheus; whether credits are soon gone; and what would be, if.

The shape of the JSON is described in docs/machines.md. Everything raises WarehouseError where there are no tables yet.
"""

import json
from pathlib import Path
from typing import Any

from credits_pipeline import clock, config, files, wording
from credits_pipeline.config import Settings
from credits_pipeline.errors import CreditsError
from credits_pipeline.report.drawing import plain
from credits_pipeline.warehouse import Connection, fetch_dicts, open_published

Row = dict[str, Any]
FOLDER = Path(__file__).parent
# New keys and marts may come; whatever goes away or changes its meaning is a new version.
VERSION = 1
MARTS_OF_ONE_ROW = ("credits_runway", "spend_summary", "month_outlook", "topup_outlook")
MARTS = ("topup_plan", "credit_lots", "key_limits")


def accounts(con: Connection, settings: Settings) -> list[Row]:
    """Rows of `accounts.sql`, the most urgent first, and at the end the accounts that have no key any more.

    An account that has a key and was never read or billed has only a name.
    """
    stale_before = (clock.now() - settings.stale_after).replace(tzinfo=None)
    asked = {"accounts": [account.name for account in settings.accounts], "stale_before": stale_before}
    return fetch_dicts(con, FOLDER / "accounts.sql", asked)


def text(settings: Settings) -> str:
    """A few lines per account, the most urgent first, and where to look next."""
    with open_published(settings.published_path) as con:
        rows = accounts(con, settings)
        is_simulated = con.execute("select is_simulated from marts.published").fetchall() == [(True,)]
    said = wording.template(FOLDER / "answer.txt.j2").render(
        rows=rows,
        is_simulated=is_simulated,
        page=shown(settings.report_path),
        tables=shown(settings.published_path),
        ui="demo-ui" if settings.data_dir == config.PROJECT_ROOT / config.DEMO_DATA_DIR else "dev",
    )
    return said.rstrip()


def shown(path: Path) -> Path:
    """Relative to the project if it lies inside, so that it can be clicked or copied."""
    return path.relative_to(config.PROJECT_ROOT) if path.is_relative_to(config.PROJECT_ROOT) else path


def as_json(settings: Settings) -> str:
    """Each account, the most urgent first: the sentences of the terminal, and its rows of the marts."""
    with open_published(settings.published_path) as con:
        found = [_said(row) for row in accounts(con, settings)]
        [published] = fetch_dicts(con, "from marts.published")
        for mart in (*MARTS_OF_ONE_ROW, *MARTS):
            rows = _by_account(con, mart)
            for said in found:
                mine = rows.get(said["account"], [])
                said[mart] = mine if mart in MARTS else mine[0] if mine else None
    answer = {"version": VERSION, "published": published, "accounts": found}
    return json.dumps(answer, default=plain, indent=2, allow_nan=False)


def write_metrics(settings: Settings) -> None:
    """Put `metrics.prom` in place in one step, readable by all (mode 0444): metrics without a sample are left out."""
    with open_published(settings.published_path) as con:
        asked = {"accounts": [account.name for account in settings.accounts]}
        [file] = fetch_dicts(con, FOLDER / "metrics.sql", asked)
    files.write(settings.metrics_path, file["text"], mode=0o444)


def gone_within(settings: Settings, days: int, probability: float) -> list[str]:
    """The accounts whose credits are gone within `days` of the last close with at least this probability.

    Raises CreditsError where there are none, and of some account it is not known: never read, or not lately.
    """
    with open_published(settings.published_path) as con:
        rows = [row for row in accounts(con, settings) if row["has_key"]]
        curve = "select account, probability from marts.runway_curve where day_ahead = ?"
        chances = dict(con.execute(curve, [days]).fetchall())
    gone = [
        row["account"] for row in rows if row["status"] == "exhausted" or chances.get(row["account"], 0) >= probability
    ]
    unknown = [row["account"] for row in rows if not row["as_of"] or row["is_stale"]]
    if unknown and not gone:
        raise CreditsError(f"whether credits are gone is not known, because these were not read: {', '.join(unknown)}")
    return gone


def what_if(settings: Settings, *, model: str, other: str, share: float, account: str | None) -> str:
    """Spend and run-out if part of a model's tokens went to another, at the prices of our own bills, in a few lines.

    Raises CreditsError where `other` has no price yet, or `model` saw no use in the last 30 days.
    """
    asked = {"model": model, "other": other, "share": share, "account": account}
    with open_published(settings.published_path) as con:
        rows = fetch_dicts(con, FOLDER / "what_if.sql", asked)
    used, wanted = wording.name(model), wording.name(other)
    if not rows:
        raise CreditsError(
            f"{used} was billed for no token in the last 30 days{f' of {account}' if account else ''}: name a model as"
            " marts.spend_summary_by_model does"
        )
    if len(rows) > 1:
        raise CreditsError(f"these accounts use {used}, name one: {', '.join(row['account'] for row in rows)}")
    [row] = rows
    if row["other_price"] is None:
        raise CreditsError(f"{row['account']} was never billed for a token of {wanted}: its price is unknown")
    if row["status"] != "ok":
        raise CreditsError(f"{row['account']} has no run-out date that could move: {row['explanation']}")
    template = wording.template(FOLDER / "what_if.txt.j2")
    return template.render(row=row, used=used, wanted=wanted, share=share).rstrip()


def _said(row: Row) -> dict[str, Any]:
    answer = wording.answer(row)
    return {
        **{name: row[name] for name in ("account", "has_key", "is_stale")},
        "headline": answer.headline if row["has_key"] else wording.say("no_key", row),
        "detail": answer.detail if row["has_key"] else "",
    }


def _by_account(con: Connection, mart: str) -> dict[str, list[Row]]:
    rows: dict[str, list[Row]] = {}
    for row in fetch_dicts(con, f"from marts.{mart}"):
        rows.setdefault(row.pop("account"), []).append(row)
    return rows
