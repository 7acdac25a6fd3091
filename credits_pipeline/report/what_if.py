"""What spend and run-out would be if part of a model's tokens went to another, at the prices of our own bills."""

from datetime import date
from pathlib import Path

from credits_pipeline import wording
from credits_pipeline.config import Settings
from credits_pipeline.errors import CreditsError
from credits_pipeline.report.accounts import Row
from credits_pipeline.warehouse import fetch_dicts, open_published

SQL = Path(__file__).with_name("what_if.sql")


def text(settings: Settings, *, model: str, other: str, share: float, account: str | None) -> str:
    """A few lines. Raises CreditsError where `other` has no price yet, or `model` saw no use in the last 30 days."""
    asked = {"model": model, "other": other, "share": share, "account": account}
    with open_published(settings.published_path) as con:
        rows = fetch_dicts(con, SQL, asked)
    models = f"{wording.name(model)} → {wording.name(other)}"
    if not rows:
        raise CreditsError(
            f"{wording.name(model)} was billed for no token in the last 30 days{f' of {account}' if account else ''}:"
            " name a model as marts.spend_summary_by_model does"
        )
    if len(rows) > 1:
        raise CreditsError(
            f"these accounts use {wording.name(model)}, name one: {', '.join(r['account'] for r in rows)}"
        )
    [row] = rows
    if row["other_price"] is None:
        raise CreditsError(
            f"{row['account']} was never billed for a token of {wording.name(other)}: its price is unknown"
        )
    if row["status"] != "ok":
        raise CreditsError(f"{row['account']} has no run-out date that could move: {row['explanation']}")
    daily, new, fewer, more = (
        wording.usd(row[name]) for name in ("daily", *(f"new_daily{x}" for x in ("", "_fewer", "_more")))
    )
    dates = " and ".join(_about(row[f"run_out_p50_{tokens}"]) for tokens in ("fewer", "more"))
    lines = [
        f"{row['account']}, as of {wording.instant(row['as_of'])}: {models}, {wording.percent(share)} of the tokens",
        f"per million tokens   {_price(row, '')} → {_price(row, 'other_')}",
        f"an average day       {daily} → {new}",
        f"now    {_sentence(row['now'])}",
        f"then   {_sentence(row['then'])}",
        "Assumed: the same tokens, priced as billed in the 30 days up to the last use of each, in and out together.",
        f"With 10\u00a0% fewer or more tokens, as other tokenizers make: {fewer} and {more} a day, {dates}.",
    ]
    return "\n" + "\n".join(f"  {line}" for line in lines)


def _price(row: Row, which: str) -> str:
    return f"{wording.usd(row[f'{which}price'])} (to {wording.day(row[f'{which}last_date'])})"


def _sentence(dates: Row) -> str:
    said = wording.dated({**dates, "days_left_p50": 0})  # nobody asks how urgent it would be
    return f"{said.headline} {said.detail}"


def _about(day: date | None) -> str:
    return f"about {wording.day(day)}" if day else "longer than a year"
