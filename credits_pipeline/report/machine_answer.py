"""The answer for programs: as JSON, and whether credits are soon gone. Its shape is described in docs/machines.md."""

import json
from datetime import date, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from credits_pipeline import clock, wording
from credits_pipeline.config import Settings
from credits_pipeline.errors import CreditsError
from credits_pipeline.report.accounts import Row, accounts
from credits_pipeline.warehouse import fetch_dicts, open_published

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection as Connection

# New keys and marts may come; whatever goes away or changes its meaning is a new version.
VERSION = 1
MARTS_OF_ONE_ROW = ("credits_runway", "spend_summary", "month_outlook", "topup_outlook")
MARTS = ("topup_plan", "credit_lots", "key_limits")


def text(settings: Settings) -> str:
    """Each account, the most urgent first: the sentences of the terminal, and its rows of the marts.

    Raises WarehouseError where there are no tables yet.
    """
    with open_published(settings.published_path) as con:
        rows = accounts(con, settings)
        [published] = fetch_dicts(con, "from marts.published")
        tables = {mart: _by_account(con, mart) for mart in (*MARTS_OF_ONE_ROW, *MARTS)}
    found = [_account(row, settings) for row in rows]
    for account in found:
        mine = {mart: table.get(account["account"], []) for mart, table in tables.items()}
        account |= {mart: next(iter(mine[mart]), None) for mart in MARTS_OF_ONE_ROW}
        account |= {mart: mine[mart] for mart in MARTS}
    answer = {"version": VERSION, "published": published, "accounts": found}
    return json.dumps(answer, default=_plain, indent=2, allow_nan=False)


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
    unknown = [row["account"] for row in rows if not row["as_of"] or _is_stale(row, settings)]
    if unknown and not gone:
        raise CreditsError(f"whether credits are gone is not known, because these were not read: {', '.join(unknown)}")
    return gone


def _account(row: Row, settings: Settings) -> dict[str, Any]:
    said = wording.answer(row, seen_at=clock.now(), after=settings.stale_after)
    headline, detail = (said.headline, said.detail) if row["has_key"] else (wording.no_key(row), "")
    return {
        "account": row["account"],
        "has_key": row["has_key"],
        "is_stale": _is_stale(row, settings),
        "headline": headline,
        "detail": detail,
    }


def _is_stale(row: Row, settings: Settings) -> bool:
    return wording.is_stale(row["as_of"], clock.now(), settings.stale_after)


def _by_account(con: "Connection", mart: str) -> dict[str, list[Row]]:
    rows: dict[str, list[Row]] = {}
    for row in fetch_dicts(con, f"from marts.{mart}"):
        rows.setdefault(row.pop("account"), []).append(row)
    return rows


def _plain(value: Any) -> float | str:
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, datetime):
        return f"{value.isoformat()}Z"
    if isinstance(value, date):
        return value.isoformat()
    raise TypeError(f"{value!r} has no place in JSON")
