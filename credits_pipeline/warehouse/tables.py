"""What the API said, stored and asked for: readings are appended, bills are replaced by whole days."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from operator import attrgetter
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

from credits_pipeline import clock
from credits_pipeline.text import literal
from credits_pipeline.warehouse.connection import Connection, WarehouseError, fetch_dicts
from credits_pipeline.warehouse.file import naive

FOLDER: Final = Path(__file__).parent

SETTLED_AFTER: Final = timedelta(days=1, hours=48)
"""After a day's begin: when its bill is taken as final, since the vendor does not say when it is."""


@dataclass(frozen=True)
class Reading:
    """What `GET /credits` said at one instant: two lifetime counters in USD."""

    account: str
    snapshot_date: date
    observed_at: datetime
    total_credits: Decimal
    total_usage: Decimal
    key_fingerprint: str | None
    run_id: str
    source: str = "api"
    payload: str | None = None


class Tables(ABC):
    """The raw tables of some accounts: of all, or of those of one shard."""

    @abstractmethod
    def writing(self, purpose: str) -> AbstractContextManager[Connection]:
        """A read-write connection inside one transaction. `purpose` is shown to those who have to wait."""

    @abstractmethod
    def reading(self, purpose: str = "reading") -> AbstractContextManager[Connection]:
        """A read-only connection."""

    def holds(self, account: str) -> bool:
        """Whether the account's rows belong here."""
        return True

    def append_readings(self, readings: Iterable[Reading], con: "Connection | None" = None) -> int:
        """Append readings, all or none, and return how many. Reading twice appends two honest rows.

        Pass `con` to append inside a `writing` block.
        """
        rows = list(readings)
        if rows:
            with nullcontext(con) if con else self.writing("storing readings") as inner:
                insert(inner, "raw.credits_snapshots", rows)
        return len(rows)

    def read_at(self) -> dict[str, datetime]:
        """When each account was read last (naive, UTC)."""
        with self.reading("looking at the newest readings") as con:
            newest = "select account, max(observed_at) from raw.credits_snapshots group by account"
            return dict(con.execute(newest).fetchall())

    def has_history(self, account: str, con: Connection) -> bool:
        """Whether the account was ever seen with credits or spend: then a reply of {0, 0} is not believed."""
        return bool(fetch_dicts(con, FOLDER / "has_history.sql", {"account": account}))

    def rename_account(self, old: str, new: str) -> int:
        """Call the account `old` `new` from now on, and return how many rows of raw and ops it had.

        Where `new` has rows already, both become one account: of a day that both know, the later fetch stays.
        Raises WarehouseError, and changes nothing, if there is no `old`, or if the two cannot be one account.
        Rebuild the SQL and publish afterwards.
        """
        names = {"old": old, "new": new}
        with self.writing(f"renaming {old}") as con:
            for found in fetch_dicts(con, FOLDER / "one_account.sql", names):
                raise WarehouseError(f"{old} and {new} are not one account: {found['conflict']}. Nothing was renamed.")
            for name, value in names.items():
                con.execute(f"set variable {name}_name = {literal(value)}")
            con.execute((FOLDER / "renaming.sql").read_text(encoding="utf-8"))
            renamed = 0
            tables = con.execute(
                "select schema_name || '.' || table_name from duckdb_columns() where database_name = 'warehouse'"
                " and schema_name in ('raw', 'ops') and column_name = 'account' order by all"
            ).fetchall()
            for (table,) in tables:
                update = f"update {table} set account = $new where account = $old"
                renamed += con.execute(update, names).fetchall()[0][0]
            if not renamed:
                raise WarehouseError(f"There is no account {old}: nothing was renamed.")
        return renamed

    def replace_usage(
        self,
        account: str,
        first: date,
        last: date,
        rows: Sequence[Any],
        *,
        fetched_at: datetime,
        run_id: str,
        dimension: str = "",
        con: "Connection | None" = None,
    ) -> dict[date, tuple[Decimal | None, Decimal]]:
        """Replace the account's UTC days `first` to `last` (inclusive) by `rows`, all at once.

        A row has an attribute for every other column of `raw.model_usage`, or, with a `dimension`, of
        `raw.usage_breakdown`, of which only that dimension is replaced. A day without rows becomes a day known to
        be zero. Of two fetches of a day the later one wins, in whichever order they arrive. Returns the sum in USD of
        every day that was replaced, before (None: not known) and after. Pass `con` to replace several accounts inside
        one `writing` block.
        """
        table, only = _table_of(dimension)
        with nullcontext(con) if con else self.writing(f"storing the usage of {account}") as inner:
            stored = {
                day: (usd, at)
                for day, usd, at in inner.execute(
                    f"select usage_date, credits_usd, fetched_at from {table}_days"
                    f" where {only} and account = ? and usage_date between ? and ?",
                    [account, first, last],
                ).fetchall()
            }
            # A fetch from the future was taken while the clock was wrong: it must not shut out right ones.
            at, now = naive(fetched_at), naive(clock.now())
            sums = {day: Decimal(0) for day in _days(first, last) if not (day in stored and at < stored[day][1] <= now)}
            rows = [row for row in rows if row.usage_date in sums]
            for row in rows:
                sums[row.usage_date] += row.credits_usd
            for name in (table, f"{table}_days"):
                inner.execute(
                    f"delete from {name} where {only} and account = ? and usage_date in (select unnest(?::date[]))",
                    [account, list(sums)],
                )
            constants = {"account": account, "dimension": dimension}
            insert(inner, table, rows, **constants)
            totals = [SimpleNamespace(usage_date=day, credits_usd=usd) for day, usd in sums.items()]
            insert(inner, f"{table}_days", totals, **constants, fetched_at=fetched_at, run_id=run_id)
        return {day: (stored[day][0] if day in stored else None, usd) for day, usd in sums.items()}

    def replace_keys(
        self, account: str, keys: Sequence[Any], *, observed_at: datetime, run_id: str, con: Connection
    ) -> None:
        """Store an account's list of keys in place of the same keys' rows of the same UTC day, in a `writing` block.

        A key has an attribute for every other column of `raw.api_keys`.
        """
        con.execute(
            "delete from raw.api_keys"
            " where account = ? and observed_at::date = ? and key_hash in (select unnest(?::varchar[]))",
            [account, observed_at.date(), [key.key_hash for key in keys]],
        )
        insert(con, "raw.api_keys", keys, account=account, observed_at=observed_at, run_id=run_id)

    def unsettled_days(
        self, accounts: Collection[str], first: date, last: date, dimensions: Sequence[str] = ()
    ) -> dict[str, list[date]]:
        """Per account, the UTC days `first` to `last` (inclusive) whose bill is unknown or may still change.

        A day is settled when it was fetched at least 48 h after its end, and so was the breakdown by each of
        `dimensions`. Judged from what is stored alone, whatever became of the account's readings.
        """
        tables = [_table_of(dimension) for dimension in ("", *dimensions)]
        fetched = " intersect ".join(
            f"select account, usage_date from {table}_days"
            f" where {only} and usage_date between $1 and $2 and fetched_at between usage_date + $3 and $4"
            for table, only in tables
        )
        with self.reading("looking for days to fetch") as con:
            settled = set(con.execute(fetched, [first, last, SETTLED_AFTER, naive(clock.now())]).fetchall())
        mine = filter(self.holds, accounts)
        return {name: [day for day in _days(first, last) if (name, day) not in settled] for name in mine}


def replace_rows(con: Connection, table: str, rows: Sequence[object]) -> None:
    """Have the table hold exactly `rows`: what is configured, for the SQL to read."""
    con.execute(f"delete from {table}")
    insert(con, table, rows)


def _table_of(dimension: str) -> tuple[str, str]:
    """The table of a bill, and the condition for its rows."""
    return ("raw.usage_breakdown", f"dimension = {literal(dimension)}") if dimension else ("raw.model_usage", "true")


def insert(con: Connection, table: str, rows: Sequence[object], **constants: Any) -> None:
    """Append rows, of which each has an attribute per column that `constants` does not give.

    As typed lists: a pandas object column would be typed from a sample, which makes 2 of the Decimal 1.5.
    """
    kinds = {name: kind for name, kind, *_ in con.execute(f"describe {table}").fetchall()}
    selected, values = [], []
    for name, kind in kinds.items():
        column = [constants[name]] if name in constants else [*map(attrgetter(name), rows)]
        if kind.startswith("DECIMAL"):  # as text, since DuckDB 1.5.6 takes the parameter Decimal('1E+3') for 1
            column = [None if value is None else f"{value:f}" for value in column]
        elif kind == "TIMESTAMP":
            column = [value and naive(value) for value in column]
        # Without a name, DuckDB names a column after all the values in it, which takes as long as storing them.
        selected.append(f"?::{kind} as {name}" if name in constants else f"unnest(?::{kind}[]) as {name}")
        values.append(column[0] if name in constants else column)
    con.execute(f"insert into {table} select {', '.join(selected)}", values)


def _days(first: date, last: date) -> list[date]:
    return [first + timedelta(days=n) for n in range((last - first).days + 1)]
