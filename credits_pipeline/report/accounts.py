"""The accounts as people see them: most urgent first, and at the end those that have no key any more."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from credits_pipeline.config import Settings
from credits_pipeline.warehouse import fetch_dicts

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection as Connection

Row = dict[str, Any]
SQL = Path(__file__).with_name("accounts.sql")


def accounts(con: "Connection", settings: Settings) -> list[Row]:
    """Rows of `accounts.sql`; an account that has a key and was never read or billed has only a name."""
    return fetch_dicts(con, SQL, {"accounts": [account.name for account in settings.accounts]})
