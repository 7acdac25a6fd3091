"""What the API said, stored and asked for: readings are appended, bills are replaced by whole days."""

import re
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final

from credits_pipeline import clock
from credits_pipeline.text import literal
from credits_pipeline.warehouse.connection import WarehouseError
from credits_pipeline.warehouse.file import naive

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection as Connection

SETTLED_AFTER: Final = timedelta(days=1, hours=48)
"""After a day's begin: when its bill is taken as final, since the vendor does not say when it is."""


_CONFLICT: Final = """
    with readings as (
        select *, lag(account) over by_time as account_before, lag(total_usage) over by_time as usage_before
        from raw.credits_snapshots where account in ($old, $new)
        window by_time as (order by observed_at, total_usage)
    )
    select format('usage falls from {:.2f} to {:.2f} on {}', usage_before::double, total_usage::double, snapshot_date)
    -- Figures can be a minute old, and corrections happen.
    from readings where account <> account_before and total_usage < usage_before * 0.99
    union all
    select format('{:.2f} and {:.2f} USD were billed on {}', o.credits_usd::double, n.credits_usd::double, usage_date)
    from raw.model_usage_days as o inner join raw.model_usage_days as n using (usage_date)
    where o.account = $old and n.account = $new and o.credits_usd <> n.credits_usd
        and least(o.fetched_at, n.fetched_at) >= usage_date + interval 3 day
    limit 1
"""
_SUPERSEDED: Final = """
    delete from {table} where (account, {of}) in (
        select if(o.fetched_at < n.fetched_at, o.account, n.account), {of}
        from {days} as o inner join {days} as n using ({of})
        where o.account = $old and n.account = $new
    )
"""
# Each with the table that says when a part of it was fetched, and the columns that name the part.
_FETCHED_TABLES: Final = (
    ("raw.model_usage", "raw.model_usage_days", "usage_date"),
    ("raw.model_usage_days", "raw.model_usage_days", "usage_date"),
    ("raw.usage_breakdown", "raw.usage_breakdown_days", "usage_date, dimension"),
    ("raw.usage_breakdown_days", "raw.usage_breakdown_days", "usage_date, dimension"),
)
_SUPERSEDED_KEYS: Final = """
    delete from raw.api_keys as earlier where account in ($old, $new) and exists (
        from raw.api_keys as later
        where later.account in ($old, $new) and later.key_hash = earlier.key_hash
            and later.observed_at::date = earlier.observed_at::date and later.observed_at > earlier.observed_at
    )
"""
_TABLES_WITH_ACCOUNTS: Final = """
    select schema_name || '.' || table_name from duckdb_columns()
    where database_name = 'warehouse' and schema_name in ('raw', 'ops') and column_name = 'account' order by all
"""


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
    def writing(self, purpose: str) -> AbstractContextManager["Connection"]:
        """A read-write connection inside one transaction. `purpose` is shown to those who have to wait."""

    @abstractmethod
    def reading(self, purpose: str = "reading") -> AbstractContextManager["Connection"]:
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

    def newest_reading(self, account: str) -> Reading | None:
        """The account's latest reading, by time and not by arrival, or None."""
        columns = [column.name for column in fields(Reading)]
        with self.reading("reading the history of an account") as con:
            found = con.execute(
                f"select {', '.join(columns)} from raw.credits_snapshots where account = ?"
                " order by observed_at desc, rowid desc limit 1",
                [account],
            ).fetchone()
        if found is None:
            return None
        values = dict(zip(columns, found, strict=True))
        return Reading(**values | {"observed_at": values["observed_at"].replace(tzinfo=UTC)})

    def read_at(self) -> dict[str, datetime]:
        """When each account was read last (naive, UTC)."""
        with self.reading("looking at the newest readings") as con:
            newest = "select account, max(observed_at) from raw.credits_snapshots group by account"
            return dict(con.execute(newest).fetchall())

    def has_history(self, account: str) -> bool:
        """Whether the account was ever seen with credits or spend: then a reply of {0, 0} is not believed."""
        with self.reading("reading the history of an account") as con:
            found = con.execute(
                """
                from raw.credits_snapshots
                select 1 where account = $account and (total_credits <> 0 or total_usage <> 0)
                union all
                from raw.model_usage_days select 1 where account = $account and credits_usd <> 0
                limit 1
                """,
                {"account": account},
            ).fetchall()
        return bool(found)

    def rename_account(self, old: str, new: str) -> int:
        """Call the account `old` `new` from now on, and return how many rows of raw and ops it had.

        Where `new` has rows already, both become one account: of a day that both know, the later fetch stays.
        Raises WarehouseError, and changes nothing, if there is no `old`, or if the two cannot be one account.
        Rebuild the SQL and publish afterwards.
        """
        names = {"old": old, "new": new}
        with self.writing(f"renaming {old}") as con:
            if conflict := con.execute(_CONFLICT, names).fetchone():
                raise WarehouseError(f"{old} and {new} are not one account: {conflict[0]}. Nothing was renamed.")
            for table, days, of in _FETCHED_TABLES:
                con.execute(_SUPERSEDED.format(table=table, days=days, of=of), names)
            con.execute(_SUPERSEDED_KEYS, names)
            con.execute(
                "update ops.alerts_sent set alert_key = regexp_replace(alert_key, $key, '/' || $new || '\\1')"
                " where account = $old",
                names | {"key": f"/{re.escape(old)}(/|$)"},
            )
            renamed = 0
            for (table,) in con.execute(_TABLES_WITH_ACCOUNTS).fetchall():
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
        Raises ValueError for a row outside the range and for two rows of the same day, member and model.
        """
        if len({(row.usage_date, dimension and row.member, row.model) for row in rows}) < len(rows):
            raise ValueError(f"two rows of {account} for one day, member and model")
        table, only = _table_of(dimension)
        days = _days(first, last)
        if not {row.usage_date for row in rows} <= set(days):
            raise ValueError(f"a row of {account} lies outside {first} to {last}")
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
            sums = {day: Decimal(0) for day in days if not (day in stored and at < stored[day][1] <= now)}
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
        self, account: str, keys: Sequence[Any], *, observed_at: datetime, run_id: str, con: "Connection"
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


def replace_rows(con: "Connection", table: str, rows: Sequence[object]) -> None:
    """Have the table hold exactly `rows`: what is configured, for the SQL to read."""
    con.execute(f"delete from {table}")
    insert(con, table, rows)


def _table_of(dimension: str) -> tuple[str, str]:
    """The table of a bill, and the condition for its rows."""
    return ("raw.usage_breakdown", f"dimension = {literal(dimension)}") if dimension else ("raw.model_usage", "true")


def insert(con: "Connection", table: str, rows: Sequence[object], **constants: object) -> None:
    """Append rows, of which each has an attribute per column that `constants` does not give.

    As typed lists: a pandas object column would be typed from a sample, which makes 2 of the Decimal 1.5.
    """
    kinds = {name: kind for name, kind, *_ in con.execute(f"describe {table}").fetchall()}
    columns = [
        [constants[name]] * len(rows) if name in constants else [getattr(row, name) for row in rows] for name in kinds
    ]
    values = [_parameters(column, kind) for column, kind in zip(columns, kinds.values(), strict=True)]
    con.execute(f"insert into {table} select {', '.join(f'unnest(?::{kind}[])' for kind in kinds.values())}", values)


def _parameters(column: list[Any], kind: str) -> list[Any]:
    if kind.startswith("DECIMAL"):  # as text, since DuckDB 1.5.6 takes the parameter Decimal('1E+3') for 1
        return [None if value is None else f"{value:f}" for value in column]
    return [value and naive(value) for value in column] if kind == "TIMESTAMP" else column


def _days(first: date, last: date) -> list[date]:
    return [first + timedelta(days=n) for n in range((last - first).days + 1)]
