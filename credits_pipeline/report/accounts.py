"""The accounts as people see them: most urgent first, and apart from them those that have no key any more."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from credits_pipeline import wording
from credits_pipeline.config import Settings
from credits_pipeline.warehouse import fetch_dicts

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection as Connection

Row = dict[str, Any]
SQL = Path(__file__).with_name("accounts.sql")


def accounts(con: "Connection", settings: Settings) -> tuple[list[Row], list[Row]]:
    """Rows of `accounts.sql`, most urgent first: with a key, then without one.

    An account that has a key and was never read or billed has only a name. Where no key is configured at all, as in a
    copy of the tables on another machine, nothing is known about keys, and every account counts as having one.
    """
    sql = SQL.read_text(encoding="utf-8")
    nothing = {column[0]: None for column in con.execute(sql).description or ()}
    rows = {row["account"]: row for row in fetch_dicts(con, sql)}
    keyed = {account.name for account in settings.accounts} or set(rows)
    read = [rows.get(name, {**nothing, "account": name}) for name in keyed]
    others = [row for name, row in rows.items() if name not in keyed]
    return sorted(read, key=wording.urgency), sorted(others, key=wording.urgency)


def answer(row: Row, settings: Settings, **seen: Any) -> wording.Answer:
    """What wording.answer says of the row; None of its figures exist where the account was never read."""
    return wording.answer(row if row["status"] else None, after=settings.stale_after, **seen)
