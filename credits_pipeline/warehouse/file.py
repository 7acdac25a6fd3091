"""The one door to DuckDB: the warehouse (`warehouse.duckdb`) and its published copy (`credits.duckdb`).

One process at a time holds the warehouse, behind a file lock that DuckDB's own lock backs up; everything that
is written is one transaction. BI tools open the published copy, which is replaced as a whole.
All instants are UTC, all money is USD in DECIMAL(18,9).
"""

import errno
import itertools
import json
import os
import re
import shutil
import socket
import stat
import threading
import uuid
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import ROUND_HALF_EVEN, Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

import filelock

from credits_pipeline import clock
from credits_pipeline.errors import CreditsError
from credits_pipeline.files import is_alive
from credits_pipeline.text import literal, quoted

if TYPE_CHECKING:
    import duckdb
    import pandas as pd

SETTLED_AFTER: Final = timedelta(hours=48)
"""After a day's end: when its bill is taken as final, since the vendor does not say when it is."""

STORAGE_VERSION: Final = "v1.1.0"
"""The file format: every driver from 1.1.3 to 2.0.0 opens it; the default of 2.0 opens in no 1.x."""

_MEMORY_SHARE: Final = 0.625
"""DuckDB's own limit is 80 % of the memory; 0.625 of that is half."""

_POLL_S: Final = 0.1
"""Between two attempts at a lock: short compared with a run (seconds), long with one attempt (under 1 ms)."""

_PUBLISHED_WAIT_S: Final = 10.0
"""How long a reader waits if someone opened the published copy for writing, which nobody should."""

_LEFTOVER_AFTER_S: Final = 86_400.0
"""Age from which an unfinished backup is one that was cut short: making one takes seconds to minutes."""

_BILLIONTH: Final = Decimal("0.000000001")
_MONEY_LIMIT: Final = Decimal(10) ** 9

MIGRATIONS: Final = Path(__file__).parent / "migrations"
"""One file per schema version, in order: a new warehouse runs all, an older one those it has not seen."""


class WarehouseError(CreditsError):
    """The warehouse could not do what was asked; the message says why and what to do."""


class WarehouseBusy(WarehouseError):
    """Somebody else held the file for longer than we wait."""


class WarehouseCorrupt(WarehouseError):
    """The file is damaged, or is no warehouse of ours."""


class WarehouseTooNew(WarehouseError):
    """The file was written by a newer release of this program or of DuckDB."""


class WarehouseDiskFull(WarehouseError):
    """Nothing more can be written: disk, quota or file size limit."""


class WarehouseNotPermitted(WarehouseError):
    """The operating system does not let us read or write here."""


class NotPublished(WarehouseError):
    """There is no published copy yet."""


class UnknownMart(WarehouseError):
    """The published copy has no table of that name."""


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


class UsageRow(Protocol):
    """What was billed to one account on one UTC day for one model; money in USD."""

    @property
    def usage_date(self) -> date: ...
    @property
    def model(self) -> str: ...
    @property
    def credits_usd(self) -> Decimal: ...
    @property
    def byok_usd(self) -> Decimal: ...
    @property
    def requests(self) -> int: ...
    @property
    def prompt_tokens(self) -> int: ...
    @property
    def completion_tokens(self) -> int: ...
    @property
    def reasoning_tokens(self) -> int: ...
    @property
    def cached_tokens(self) -> int: ...


class Warehouse:
    """The warehouse at `path`, opened for the length of one call or one `with` block, never longer."""

    def __init__(self, path: Path, *, lock_timeout_s: float = 60, migrations: Path = MIGRATIONS) -> None:
        self.path = _absolute(path)
        self.lock_timeout_s = lock_timeout_s
        self.migrations = migrations

    @contextmanager
    def writing(self, purpose: str) -> Iterator["duckdb.DuckDBPyConnection"]:
        """A read-write connection inside one transaction: committed at the end, undone by any exception.

        The file is created or migrated first where needed. `purpose` is shown to those who have to wait.
        Raises WarehouseBusy, WarehouseCorrupt, WarehouseTooNew, WarehouseDiskFull, WarehouseNotPermitted.
        """
        with self._held(purpose) as deadline, self._open(deadline, read_only=False) as con:
            con.execute("begin transaction")
            try:
                yield con
                con.execute("commit")
            except BaseException:
                with suppress(Exception):  # what failed matters more, and closing undoes it too
                    con.execute("rollback")
                raise

    @contextmanager
    def reading(self, purpose: str = "reading") -> Iterator["duckdb.DuckDBPyConnection"]:
        """A read-only connection. An absent warehouse is created empty, an older one migrated, first."""
        with self._held(purpose) as deadline, self._open(deadline, read_only=True) as con:
            yield con

    # -- readings ---------------------------------------------------------------------------------

    def append_readings(
        self, readings: Iterable[Reading], con: "duckdb.DuckDBPyConnection | None" = None
    ) -> int:
        """Append readings, all or none, and return how many. Reading twice appends two honest rows.

        Pass `con` to append inside a `writing` block.
        """
        rows = list(readings)
        if not rows:
            return 0
        columns: dict[str, tuple[str, list[Any]]] = {
            "account": ("varchar", [r.account for r in rows]),
            "snapshot_date": ("date", [r.snapshot_date for r in rows]),
            "observed_at": ("timestamp", [_utc(r.observed_at) for r in rows]),
            "total_credits": ("decimal(18,9)", [_money(r.total_credits) for r in rows]),
            "total_usage": ("decimal(18,9)", [_money(r.total_usage) for r in rows]),
            "key_fingerprint": ("varchar", [r.key_fingerprint for r in rows]),
            "run_id": ("varchar", [r.run_id for r in rows]),
            "source": ("varchar", [r.source for r in rows]),
            "payload": ("varchar", [r.payload for r in rows]),
        }
        with self._within(con, "storing readings") as inner:
            _insert(inner, "raw.credits_snapshots", columns)
        return len(rows)

    def newest_reading(self, account: str) -> Reading | None:
        """The account's latest reading, by time and not by arrival, or None."""
        with self.reading("reading the history of an account") as con:
            found = con.execute(
                """
                select account, snapshot_date, observed_at, total_credits, total_usage,
                    key_fingerprint, run_id, source, payload
                from raw.credits_snapshots where account = ?
                order by observed_at desc, rowid desc limit 1
                """,
                [account],
            ).fetchall()
        if not found:
            return None
        account, snapshot_date, observed_at, *rest = found[0]
        return Reading(account, snapshot_date, observed_at.replace(tzinfo=UTC), *rest)

    def has_history(self, account: str) -> bool:
        """Whether the account was ever seen with credits or spend: then a reply of {0, 0} is not believed."""
        with self.reading("reading the history of an account") as con:
            found = con.execute(
                """
                select exists (
                    from raw.credits_snapshots
                    where account = $account and (total_credits <> 0 or total_usage <> 0)
                ) or exists (
                    from raw.model_usage_days where account = $account and credits_usd <> 0
                )
                """,
                {"account": account},
            ).fetchall()
        return bool(found[0][0])

    # -- what was billed --------------------------------------------------------------------------

    def replace_usage(
        self,
        account: str,
        first: date,
        last: date,
        rows: Sequence[UsageRow],
        *,
        fetched_at: datetime,
        run_id: str,
        con: "duckdb.DuckDBPyConnection | None" = None,
    ) -> dict[date, tuple[Decimal | None, Decimal]]:
        """Replace the account's UTC days `first` to `last` (inclusive) by `rows`, all at once.

        A day without rows becomes a day known to be zero. Of two fetches of a day the later one wins, in
        whichever order they arrive. Returns the sum in USD of every day that was replaced, before (None: not
        known) and after. Pass `con` to replace several accounts inside one `writing` block.
        Raises ValueError for a row outside the range and for two rows of the same day and model.
        """
        days = [first + timedelta(days=n) for n in range((last - first).days + 1)]
        _check_usage(rows, first, last)
        with self._within(con, f"storing the usage of {account}") as inner:
            stored = _stored_days(inner, account, first, last)
            # A fetch from the future was taken while the clock was wrong: it must not shut out right ones.
            now = _utc(clock.now())
            kept = {day for day, (_, at) in stored.items() if _utc(fetched_at) < at <= now}
            replaced = [day for day in days if day not in kept]
            sums = dict.fromkeys(replaced, money(Decimal(0)))
            rows = [row for row in rows if row.usage_date in sums]
            for row in rows:
                sums[row.usage_date] += money(row.credits_usd)
            for table in ("raw.model_usage", "raw.model_usage_days"):
                inner.execute(
                    f"delete from {table} where account = ? and usage_date in (select unnest(?::date[]))",
                    [account, replaced],
                )
            _insert(inner, "raw.model_usage", _usage_columns(account, rows))
            _insert(
                inner,
                "raw.model_usage_days",
                {
                    "account": ("varchar", [account] * len(replaced)),
                    "usage_date": ("date", replaced),
                    "credits_usd": ("decimal(18,9)", [_money(sums[day]) for day in replaced]),
                    "fetched_at": ("timestamp", [_utc(fetched_at)] * len(replaced)),
                    "run_id": ("varchar", [run_id] * len(replaced)),
                },
            )
        return {day: (stored[day][0] if day in stored else None, sums[day]) for day in replaced}

    def unsettled_days(self, accounts: Collection[str], first: date, last: date) -> dict[str, list[date]]:
        """Per account, the UTC days `first` to `last` (inclusive) whose bill is unknown or may still change.

        A day is settled when it was fetched at least 48 h after its end.
        """
        days = [first + timedelta(days=n) for n in range((last - first).days + 1)]
        with self.reading("looking for days to fetch") as con:
            fetched = con.execute(
                """
                select account, usage_date, fetched_at from raw.model_usage_days
                where usage_date between ? and ?
                """,
                [first, last],
            ).fetchall()
        now = _utc(clock.now())
        settled = {(account, day) for account, day, at in fetched if _settled_from(day) <= at <= now}
        return {account: [day for day in days if (account, day) not in settled] for account in accounts}

    # -- the published copy -----------------------------------------------------------------------

    def publish(
        self, target: Path, *, run_id: str, published_at: datetime, version: str, is_simulated: bool
    ) -> None:
        """Replace the file `target` by a copy of the marts: tables only, comments kept, of one instant.

        Whoever has the old file open goes on reading it; whoever opens it next gets the new one, mode 0444.
        A crash at any point leaves the old file or the new one. `marts.published` says what is in it.
        """
        target = _absolute(target)
        with self._held("publishing") as deadline:
            _make_directory(target.parent)
            for path in (target, _wal(target)):
                _refuse_what_is_no_file(path)
            _remove_leftovers(target)
            fresh = _temporary(target)
            try:
                with self._open(deadline, read_only=True) as con:
                    _attach(con, fresh, "published", read_only=False)
                    con.execute("begin transaction")  # one, not one per comment: each waits for the disk
                    _copy_marts(con)
                    _write_published(con, run_id, published_at, version, is_simulated)
                    con.execute("commit")
                    con.execute("checkpoint published")
                    con.execute("detach published")
                # DuckDB has released both files by now, so opening them here cannot drop its locks.
                fresh.chmod(0o444)
                # A log left beside the old file would be replayed onto the new one by whoever opens it next;
                # a second time, for a reader that opened the old one for writing in between.
                _wal(target).unlink(missing_ok=True)
                _move_into_place(fresh, target)
                _wal(target).unlink(missing_ok=True)
            finally:
                _remove_leftovers(target)

    # -- the lock and the file --------------------------------------------------------------------

    @contextmanager
    def _within(
        self, con: "duckdb.DuckDBPyConnection | None", purpose: str
    ) -> Iterator["duckdb.DuckDBPyConnection"]:
        if con is not None:
            yield con
        else:
            with self.writing(purpose) as own:
                yield own

    @contextmanager
    def _held(self, purpose: str) -> Iterator[float]:
        """Hold the file lock, creating files for our eyes only; yields the deadline for DuckDB's own lock."""
        deadline = clock.monotonic() + self.lock_timeout_s
        with _named_errors(self.path):
            _make_directory(self.path.parent)
            for suffix in ("", ".wal", ".lock", ".holder"):
                _refuse_what_is_no_file(_beside(self.path, suffix))
            lock = filelock.FileLock(
                _beside(self.path, ".lock"), mode=0o600, preserve_lock_file=True, thread_local=False
            )
            self._acquire(lock, deadline)
            try:
                holder = _beside(self.path, ".holder")
                _write_holder(holder, purpose)
                try:
                    _remove_leftovers(self.path)
                    with _private_files():
                        yield deadline
                finally:
                    _remove_leftovers(self.path)
                    holder.unlink(missing_ok=True)
            finally:
                lock.release()

    def _acquire(self, lock: filelock.BaseFileLock, deadline: float) -> None:
        while True:
            try:
                lock.acquire(blocking=False)
                return
            except filelock.Timeout:
                if clock.monotonic() >= deadline:
                    raise WarehouseBusy(_busy(self.path, _holder(_beside(self.path, ".holder")))) from None
            clock.sleep(_POLL_S)

    @contextmanager
    def _open(self, deadline: float, *, read_only: bool) -> Iterator["duckdb.DuckDBPyConnection"]:
        """The file as the catalog `warehouse`, whole and of today's form."""
        con = _connect(self.path)
        try:
            if not self.path.exists():
                self._create(con)
            _attach_patiently(con, self.path, deadline, read_only=read_only)
            newest = len(self._steps())
            version = _schema_version(con, self.path, newest)
            if version < newest:
                con.execute("detach warehouse")
                self._migrate(con, version, deadline)
                _attach_patiently(con, self.path, deadline, read_only=read_only)
            con.execute("use warehouse")
            yield con
        finally:
            con.close()

    def _steps(self) -> list[str]:
        return [step.read_text(encoding="utf-8") for step in sorted(self.migrations.glob("*.sql"))]

    def _create(self, con: "duckdb.DuckDBPyConnection") -> None:
        if _wal(self.path).exists():
            raise WarehouseCorrupt(
                f"{_wal(self.path)} has lost its database: put {self.path.name} back, or run `make restore`."
            )
        # Under another name first: a process killed half-way must not leave a file that looks damaged.
        fresh = _temporary(self.path)
        _attach(con, fresh, "warehouse", read_only=False)
        _apply(con, self._steps(), newest=len(self._steps()))
        _move_into_place(fresh, self.path)

    def _migrate(self, con: "duckdb.DuckDBPyConnection", version: int, deadline: float) -> None:
        """Bring the file to today's form in one transaction, with a copy of the old one kept beside it."""
        _attach_patiently(con, self.path, deadline, read_only=True)
        fresh = _temporary(self.path)
        _copy_database(con, "warehouse", fresh)
        con.execute("detach warehouse")
        _move_into_place(fresh, _unused(_beside(self.path, f".version-{version}-{_stamp()}")))
        _attach_patiently(con, self.path, deadline, read_only=False)
        _apply(con, self._steps()[version:], newest=len(self._steps()))

    # -- backups ---------------------------------------------------------------------------

    def backup(self, into: Path) -> Path:
        """Write a consistent copy of everything into a new directory below `into`, and return that directory.

        It holds `warehouse.duckdb`, which `restore` takes, and the raw and mart tables as Parquet
        (`raw/…`, `marts/…`) for any other tool. A backup that was cut short never looks like a whole one.
        """
        into = _absolute(into)
        with self._held("making a backup") as deadline:
            _make_directory(into)
            name = f"credits-{_stamp()}"
            for leftover in into.glob(
                ".credits-*.new"
            ):  # not another warehouse's, which may be writing its own
                if clock.now().timestamp() - leftover.stat().st_mtime > _LEFTOVER_AFTER_S:
                    shutil.rmtree(leftover, ignore_errors=True)
            fresh = _temporary(into / name)
            try:
                with self._open(deadline, read_only=True) as con:
                    fresh.mkdir(mode=0o700)
                    _copy_database(con, "warehouse", fresh / "warehouse.duckdb")
                    for schema in ("raw", "marts"):
                        (fresh / schema).mkdir()
                        for table in _tables(con, schema):
                            _write_parquet(con, schema, table, fresh / schema / f"{table}.parquet")
                _sync(fresh / "warehouse.duckdb")
                finished = _renamed_directory(fresh, into / name)
                _sync(into)
            finally:
                shutil.rmtree(fresh, ignore_errors=True)
        return finished

    def restore(self, source: Path) -> Path | None:
        """Put a backup in the warehouse's place; return where the earlier file is kept, if there was one.

        `source` is a directory made by `backup`, or the `warehouse.duckdb` in it. It is read whole first, and must
        have our tables and nothing that runs by itself, so that a damaged or forged backup changes nothing.
        Rebuild the SQL and publish afterwards.
        """
        source = _absolute(source)
        source = source / "warehouse.duckdb" if source.is_dir() else source
        _refuse_what_is_no_file(source)
        if not source.exists():
            raise WarehouseError(
                f"There is no backup at {source}: name a directory that `make backup` has made."
            )
        with self._held("restoring a backup") as deadline:
            if self.path.exists() and source.samefile(self.path):
                raise WarehouseError(f"{source} is the warehouse itself: name a backup.")
            fresh = _temporary(self.path)
            try:
                with _named_errors(source):
                    self._copy_backup(source, fresh, deadline)
            except WarehouseCorrupt as error:
                raise WarehouseCorrupt(
                    f"{source} is damaged or no backup of ours: take another one."
                ) from error
            kept = self._keep_aside(deadline)
            _move_into_place(fresh, self.path)
        return kept

    def _copy_backup(self, source: Path, fresh: Path, deadline: float) -> None:
        con = _connect(self.path)
        try:
            _attach_patiently(con, source, deadline, read_only=True)
            steps = self._steps()
            _check_form(con, source, steps[: _schema_version(con, source, len(steps))])
            _copy_database(con, "warehouse", fresh)
        finally:
            con.close()

    def _keep_aside(self, deadline: float) -> Path | None:
        """Give the present file, whole or damaged, a second name, and take its log away from it."""
        kept = _unused(_beside(self.path, f".before-restore-{_stamp()}"))
        if self.path.exists():
            self._wait_for_others(deadline)
            _second_name(self.path, kept)
        if _wal(self.path).exists():
            _wal(self.path).replace(_wal(kept))
        return kept if kept.exists() else None

    def _wait_for_others(self, deadline: float) -> None:
        """Open the present file once: then no other program has it, and what its log holds is in it."""
        con = _connect(self.path)
        try:
            _attach_patiently(con, self.path, deadline, read_only=False)
        except (WarehouseCorrupt, WarehouseTooNew):
            pass  # then file and log are kept as they are
        finally:
            con.close()


@contextmanager
def open_published(path: Path) -> Iterator["duckdb.DuckDBPyConnection"]:
    """A read-only connection to the published copy; its tables are in the schema `marts`.

    It goes on seeing the generation it was opened on. Raises NotPublished where there is none yet.
    """
    path = _absolute(path)
    _refuse_what_is_no_file(path)
    if not path.exists():
        raise NotPublished(f"There is no {path} yet: run `make run` first (the demo's copy is in data/demo).")
    with _named_errors(path):
        con = _connect(path)
        try:
            _attach_published(con, path)
            yield con
        finally:
            con.close()


def read_mart(name: str, path: Path | None = None) -> "pd.DataFrame":
    """A table of the schema `marts` as a pandas DataFrame, its rows in the table's order.

    Columns are backed by Arrow, so that nothing is rounded on the way: money is decimal128(18, 9) in USD (its
    values are `Decimal`), counts are int64 also where some are missing, days are dates, instants are UTC.

    `path` is a published copy; by default the one in the configured data directory.
    Raises NotPublished, or UnknownMart, which lists the tables that there are.
    """
    import pandas as pd

    if path is None:
        from credits_pipeline import config

        path = config.current().published_path
    with open_published(path) as con:
        names = _tables(con, "marts")
        if name not in names:
            raise UnknownMart(f"There is no mart {name!r} in {path}: there are {', '.join(names)}.")
        table = con.sql(f"from marts.{quoted(name)}").to_arrow_table()
    frame: pd.DataFrame = table.to_pandas(types_mapper=pd.ArrowDtype)
    return frame


def fetch_dicts(con: "duckdb.DuckDBPyConnection", sql: str, parameters: Any = None) -> list[dict[str, Any]]:
    """The rows of a query, each a dict by column name."""
    cursor = con.execute(sql, parameters)
    names = [column[0] for column in cursor.description or ()]
    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


# -- DuckDB --------------------------------------------------------------------------------------


def _connect(beside: Path) -> "duckdb.DuckDBPyConnection":
    """An empty in-memory database to attach files to; it spills beside the file and downloads nothing."""
    import duckdb

    con = duckdb.connect(
        ":memory:",
        config={
            "temp_directory": str(_beside(beside, ".tmp")),
            "autoinstall_known_extensions": "false",
            "autoload_known_extensions": "false",
            "allow_community_extensions": "false",
        },
    )
    con.execute("set TimeZone = 'UTC'")
    # DuckDB takes four fifths of what the machine or container has; Dagster and others live there too.
    amount, unit = con.execute("select current_setting('memory_limit')").fetchall()[0][0].split()
    con.execute(f"set memory_limit = '{float(amount) * _MEMORY_SHARE:.1f} {unit}'")
    return con


def _attach(con: "duckdb.DuckDBPyConnection", path: Path, name: str, *, read_only: bool) -> None:
    options = ["type duckdb", "read_only" if read_only else "read_write"]
    if not path.exists():  # an existing file keeps the format that it has
        options.append(f"storage_version '{STORAGE_VERSION}'")
    con.execute(f"attach {literal(str(path))} as {name} ({', '.join(options)})")


def _attach_patiently(
    con: "duckdb.DuckDBPyConnection", path: Path, deadline: float, *, read_only: bool
) -> None:
    """Attach as `warehouse`; wait for another program that has the file open, until the deadline."""
    import duckdb

    while True:
        try:
            _attach(con, path, "warehouse", read_only=read_only)
            return
        except duckdb.Error as error:
            if not _is_lock(str(error)) or clock.monotonic() >= deadline:
                raise _renamed(error, path, opening=True) from error
        clock.sleep(_POLL_S)


def _attach_published(con: "duckdb.DuckDBPyConnection", path: Path) -> None:
    try:
        _attach_patiently(con, path, clock.monotonic() + _PUBLISHED_WAIT_S, read_only=True)
    except WarehouseCorrupt as error:
        raise WarehouseCorrupt(f"{path} is damaged: run `make run` to publish it anew.") from error
    con.execute("use warehouse")


def _schema_version(con: "duckdb.DuckDBPyConnection", path: Path, newest: int) -> int:
    if "schema_version" not in _tables(con, "ops"):
        raise WarehouseCorrupt(
            f"{path} is a DuckDB file but no warehouse of this program: move it away, or run `make restore`."
        )
    found = con.execute("from warehouse.ops.schema_version").fetchall()
    version = found[0][0] if len(found) == 1 else None
    if not isinstance(version, int) or version < 1:
        raise WarehouseCorrupt(f"{path} does not say which version it has: run `make restore`.")
    if version > newest:
        raise WarehouseTooNew(
            f"{path} was written by a newer release of this program (its tables have version {version}, "
            f"this release knows up to {newest}): update this program."
        )
    return version


def _check_form(con: "duckdb.DuckDBPyConnection", path: Path, steps: list[str]) -> None:
    """Refuse a file whose raw tables are not those of its version, or that holds more than tables.

    A view or macro in their place would be executed by the next build, and can read any file of this user.
    """
    con.execute("attach ':memory:' as form")
    con.execute("use form")
    for step in steps:
        con.execute(step)
    con.execute("use memory")
    wrong = con.execute(
        """
        with columns as (
            select database_name, schema_name || '.' || table_name || '.' || column_name || ' ' || data_type as name
            from duckdb_columns() where schema_name in ('raw', 'ops') and not internal
        ),
        ours as (select name from columns where database_name = 'form'),
        theirs as (select name from columns where database_name = 'warehouse')
        select 'no ' || name from ours where name not in (from theirs)
        union all select name from theirs where name not in (from ours)
        union all select 'the view ' || view_name from duckdb_views()
            where database_name = 'warehouse' and not internal
        union all select 'the macro ' || function_name from duckdb_functions()
            where database_name = 'warehouse' and not internal
        union all select 'the table ' || table_name from duckdb_tables()
            where database_name = 'warehouse' and contains(table_name, '/')
        order by all
        """
    ).fetchall()
    con.execute("detach form")
    if wrong:
        raise WarehouseCorrupt(f"{path} is not a backup of this program: it has {wrong[0][0]}.")


def _apply(con: "duckdb.DuckDBPyConnection", steps: list[str], *, newest: int) -> None:
    """Run the steps on the attached warehouse in one transaction, and detach it."""
    con.execute("use warehouse")
    con.execute("begin transaction")
    for step in steps:
        con.execute(step)
    con.execute("delete from ops.schema_version")
    con.execute("insert into ops.schema_version values (?, ?)", [newest, _utc(clock.now())])
    con.execute("commit")
    con.execute("checkpoint")  # detaching does it too, but says nothing when there is no room
    con.execute("use memory")
    con.execute("detach warehouse")


def _copy_database(con: "duckdb.DuckDBPyConnection", name: str, target: Path) -> None:
    """Copy everything into a new file; every block is read, so that a damaged one is found."""
    _attach(con, target, "copy_of_it", read_only=False)
    con.execute(f"copy from database {name} to copy_of_it")
    con.execute("checkpoint copy_of_it")
    con.execute("detach copy_of_it")


def _write_parquet(con: "duckdb.DuckDBPyConnection", schema: str, table: str, file: Path) -> None:
    con.execute(f"copy warehouse.{schema}.{quoted(table)} to {literal(str(file))} (format parquet)")
    _sync(file)


def _insert(con: "duckdb.DuckDBPyConnection", table: str, columns: dict[str, tuple[str, list[Any]]]) -> None:
    """Insert columns of equal length as typed lists: a pandas object column is typed from a sample."""
    lists = ", ".join(f"unnest(?::{kind}[])" for kind, _ in columns.values())
    con.execute(
        f"insert into {table} ({', '.join(columns)}) select {lists}",
        [values for _, values in columns.values()],
    )


def _stored_days(
    con: "duckdb.DuckDBPyConnection", account: str, first: date, last: date
) -> dict[date, tuple[Decimal, datetime]]:
    """The account's days that are stored: what was billed (USD), and when it was fetched (UTC)."""
    found = con.execute(
        """
        select usage_date, credits_usd, fetched_at from raw.model_usage_days
        where account = ? and usage_date between ? and ?
        """,
        [account, first, last],
    ).fetchall()
    return {day: (usd, at) for day, usd, at in found}


def _usage_columns(account: str, rows: Sequence[UsageRow]) -> dict[str, tuple[str, list[Any]]]:
    return {
        "account": ("varchar", [account] * len(rows)),
        "usage_date": ("date", [r.usage_date for r in rows]),
        "model": ("varchar", [r.model for r in rows]),
        "credits_usd": ("decimal(18,9)", [_money(r.credits_usd) for r in rows]),
        "byok_usd": ("decimal(18,9)", [_money(r.byok_usd) for r in rows]),
        "requests": ("bigint", [r.requests for r in rows]),
        "prompt_tokens": ("bigint", [r.prompt_tokens for r in rows]),
        "completion_tokens": ("bigint", [r.completion_tokens for r in rows]),
        "reasoning_tokens": ("bigint", [r.reasoning_tokens for r in rows]),
        "cached_tokens": ("bigint", [r.cached_tokens for r in rows]),
    }


def _check_usage(rows: Sequence[UsageRow], first: date, last: date) -> None:
    seen = set()
    for row in rows:
        if not first <= row.usage_date <= last:
            raise ValueError(f"a row of {row.usage_date} lies outside {first} to {last}")
        if (row.usage_date, row.model) in seen:
            raise ValueError(f"two rows of {row.usage_date} for the model {row.model!r}")
        seen.add((row.usage_date, row.model))


def _tables(con: "duckdb.DuckDBPyConnection", schema: str) -> list[str]:
    found = con.execute(
        """
        select table_name from duckdb_tables()
        where database_name = 'warehouse' and schema_name = ? order by table_name
        """,
        [schema],
    ).fetchall()
    return [name for (name,) in found]


def _copy_marts(con: "duckdb.DuckDBPyConnection") -> None:
    con.execute("create schema published.marts")
    for name in _tables(con, "marts"):
        table = f"marts.{quoted(name)}"
        con.execute(f"create table published.{table} as from warehouse.{table}")
    described = con.execute(
        """
        select table_name, null, comment from duckdb_tables()
        where database_name = 'warehouse' and schema_name = 'marts' and comment is not null
        union all
        select table_name, column_name, comment from duckdb_columns()
        where database_name = 'warehouse' and schema_name = 'marts' and comment is not null
        """
    ).fetchall()
    comments = [
        (
            f"{'column' if column else 'table'} {quoted('published', 'marts', table, *filter(None, [column]))}",
            comment,
        )
        for table, column, comment in described
    ]
    _comment(con, comments)


def _comment(con: "duckdb.DuckDBPyConnection", comments: Iterable[tuple[str, str]]) -> None:
    """As one script: hundreds of statements by themselves cost more than the copy that they describe."""
    con.execute(";".join(f"comment on {what} is {literal(comment)}" for what, comment in comments))


def _write_published(
    con: "duckdb.DuckDBPyConnection", run_id: str, published_at: datetime, version: str, is_simulated: bool
) -> None:
    newest = "null"
    if "credits_readings" in _tables(con, "marts"):
        newest = "(select max(observed_at) from warehouse.marts.credits_readings)"
    con.execute(
        f"""
        create table published.marts.published as select
            ?::varchar as run_id, ?::timestamp as published_at, {newest}::timestamp as as_of,
            ?::varchar as version, ?::boolean as is_simulated
        """,
        [run_id, _utc(published_at), version, is_simulated],
    )
    table = "published.marts.published"
    comments = {
        f"table {table}": "One row: which run made this file, when, and as of which reading.",
        f"column {table}.run_id": "Run that made this file.",
        f"column {table}.published_at": "UTC instant at which this file was made.",
        f"column {table}.as_of": "UTC instant of the newest reading of any account.",
        f"column {table}.version": "Version of the program that made this file.",
        f"column {table}.is_simulated": "True: the figures come from the simulated API, not from an account.",
    }
    _comment(con, comments.items())


# -- values --------------------------------------------------------------------------------------


def _utc(instant: datetime) -> datetime:
    """As TIMESTAMP columns hold it: a naive datetime in UTC."""
    if instant.tzinfo is None:
        raise ValueError(f"{instant} has no time zone: pass an aware datetime")
    return instant.astimezone(UTC).replace(tzinfo=None)


def money(value: Decimal) -> Decimal:
    """USD as DECIMAL(18,9) holds it: rounded to the billionth, halves to even.

    Raises ValueError for what is no finite Decimal, or has more than nine digits before the point.
    """
    if not isinstance(value, Decimal) or not value.is_finite():
        raise ValueError(f"{value!r} is no amount of money")
    rounded = value.quantize(_BILLIONTH, ROUND_HALF_EVEN) if abs(value) < _MONEY_LIMIT else value
    if abs(rounded) >= _MONEY_LIMIT:
        raise ValueError(f"{value:.3e} USD is beyond DECIMAL(18,9)")
    return rounded


def _money(value: Decimal) -> str:
    """Money as a parameter. As text, since DuckDB 1.5.6 takes the parameter Decimal('1E+3') for 1."""
    return f"{money(value):f}"


def _settled_from(day: date) -> datetime:
    return datetime.combine(day, time()) + timedelta(days=1) + SETTLED_AFTER


# -- files ---------------------------------------------------------------------------------------


def _absolute(path: Path) -> Path:
    """Absolute, with symlinks left as the user chose them."""
    return Path(os.path.abspath(path))  # noqa: PTH100


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _wal(path: Path) -> Path:
    return _beside(path, ".wal")


def _unused(path: Path) -> Path:
    """`path`, or the first of `path-2`, `path-3`, … that is not there yet."""
    names = itertools.chain([path], (_beside(path, f"-{number}") for number in itertools.count(2)))
    return next(name for name in names if not name.exists())


def _renamed_directory(fresh: Path, path: Path) -> Path:
    """Give a directory the first unused name; another process may take that one first."""
    while True:
        name = _unused(path)
        try:
            return fresh.rename(name)
        except OSError as error:
            if error.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
                raise


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}.new")


def _remove_leftovers(path: Path) -> None:
    """Remove what a killed process began to write; only under the lock, where nobody else is writing one."""
    for leftover in path.parent.glob(f".{path.name}.*.new*"):
        leftover.unlink(missing_ok=True)
    shutil.rmtree(_beside(path, ".tmp"), ignore_errors=True)  # where DuckDB spills


def _make_directory(path: Path) -> None:
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise WarehouseNotPermitted(f"{path} is no directory: name another one.") from None


def _refuse_what_is_no_file(path: Path) -> None:
    """Reading a pipe would block, and a link to an unmounted disk would get an empty file in place of the data."""
    try:
        if stat.S_ISREG(path.stat().st_mode):
            return
    except FileNotFoundError:
        if not path.is_symlink():
            return
    leads = f"leads to {os.readlink(path)}, where there is" if path.is_symlink() else "is"  # noqa: PTH115
    raise WarehouseNotPermitted(
        f"{path} {leads} no file: mount its disk or move it away, then run this again."
    )


def _move_into_place(fresh: Path, path: Path) -> None:
    """Give a finished file its name, so that a crash leaves the old file or the new one, whole."""
    _sync(fresh)
    fresh.replace(path)
    _sync(path.parent)


def _second_name(path: Path, name: Path) -> None:
    """As a hard link, so that at no moment the file is missing; as a copy where there are no links."""
    try:
        name.hardlink_to(path)
    except OSError:
        shutil.copy2(path, name)
        _sync(name)


def _stamp() -> str:
    return f"{clock.now():%Y%m%dT%H%M%SZ}"


def _sync(path: Path) -> None:
    """Have a file, or the entries of a directory, on the disk before going on."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


_umask_guard = threading.Lock()
_umask_users = 0
_umask_before = 0


@contextmanager
def _private_files() -> Iterator[None]:
    """Files created meanwhile are for our eyes only, DuckDB's log and spill files included.

    DuckDB has no setting for the mode of its files; the process's umask is the only handle.
    """
    global _umask_users, _umask_before
    with _umask_guard:
        if _umask_users == 0:
            _umask_before = os.umask(0o077)
        _umask_users += 1
    try:
        yield
    finally:
        with _umask_guard:
            _umask_users -= 1
            if _umask_users == 0:
                os.umask(_umask_before)


# -- who holds it --------------------------------------------------------------------------------


def _write_holder(path: Path, purpose: str) -> None:
    told = {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "purpose": purpose,
        "since": f"{clock.now():%Y-%m-%d %H:%M:%S} UTC",
    }
    with suppress(OSError):  # on a full disk one can still read; the note is only for those who wait
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(told, file)


def _holder(path: Path) -> str:
    """Who says to hold the lock; a note that a killed process left behind is ignored."""
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        pid, host = int(told["pid"]), str(told["host"])
        if host == socket.gethostname() and not is_alive(pid):
            return "another process"
        return f"process {pid} on {host} ({told['purpose']}) since {told['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"


def _busy(path: Path, who: str) -> str:
    return f"{path} is held by {who}: let it finish or stop it, then run this again."


# -- errors --------------------------------------------------------------------------------------

_LOCK = ("Could not set lock on file", "Unique file handle conflict")
_FULL = ("No space left on device", "File too large", "Disk quota exceeded")
_FORBIDDEN = ("Permission denied", "Read-only file system", "Operation not permitted")
_DAMAGED = (
    "not a valid DuckDB database file",
    "Corrupt database file",
    "Could not read enough bytes",
    "replaying WAL",
    "Serialization Error",
    "checksum",
)


def _is_lock(message: str) -> bool:
    return any(sign in message for sign in _LOCK)


@contextmanager
def _named_errors(path: Path) -> Iterator[None]:
    """Give the failures of a file their own type and a sentence; let every other exception through."""
    import duckdb

    try:
        yield
    except (duckdb.Error, OSError) as error:
        renamed = _renamed(error, path)
        if renamed is error:
            raise
        raise renamed from error


def _renamed(error: Exception, path: Path, *, opening: bool = False) -> Exception:
    message = str(error)
    if isinstance(error, OSError) and error.filename:
        path = Path(os.fsdecode(error.filename))
    first_line = message.split("\n", 1)[0]
    if _is_lock(message):
        return WarehouseBusy(_busy(path, _lock_holder(message)))
    if any(sign in message for sign in _FULL):
        return WarehouseDiskFull(
            f"No room to write {_file_in(message) or path}: free some space, then run this again."
        )
    if any(sign in message for sign in _FORBIDDEN):
        return WarehouseNotPermitted(
            f"No permission to use {_file_in(message) or path}: make it and its directory readable and writable "
            "for this user."
        )
    if "version number" in message and "read" in message:
        return WarehouseTooNew(
            f"{path} was written by a newer DuckDB than the one installed: update this program."
        )
    if any(sign in message for sign in _DAMAGED) or (opening and "INTERNAL Error" in message):
        return WarehouseCorrupt(
            f"{path} is damaged: run `make restore` to go back to a backup ({first_line})."
        )
    if opening:
        return WarehouseError(f"{path} cannot be opened: {first_line}")
    return error


def _file_in(message: str) -> str | None:
    """The file that an error of DuckDB is about: it may be another one than the warehouse."""
    found = re.search(r'"(/[^"]+)"', message)
    return found[1] if found else None


def _lock_holder(message: str) -> str:
    """Who has the file open without our lock: a BI tool, a notebook, a DuckDB shell."""
    if "Unique file handle conflict" in message:
        return "another DuckDB connection of this very process"
    _, _, rest = message.partition("Conflicting lock is held in ")
    who, told, _ = rest.partition(")")
    return f"another program, {who})" if told else "another program"
