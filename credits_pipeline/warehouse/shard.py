"""A shard of the warehouse in a lake: a DuckLake catalog of its own, kept by PostgreSQL, over Parquet files.

A shard has one writer at a time, behind an advisory lock of PostgreSQL that ends with its process; readers see the last
commit and wait for nobody. The same tables, SQL and transactions as in `warehouse.duckdb`.
"""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from credits_pipeline import clock
from credits_pipeline.config import LakeSettings
from credits_pipeline.text import literal
from credits_pipeline.warehouse import connection, engine
from credits_pipeline.warehouse.connection import Connection, WarehouseBusy, WarehouseError, tables_of
from credits_pipeline.warehouse.file import apply, holder, steps, version_of
from credits_pipeline.warehouse.published import Described, about_marts
from credits_pipeline.warehouse.tables import Tables

if TYPE_CHECKING:
    from psycopg2.extensions import cursor as Cursor

_POLL_S: Final = 0.2
_IN_TODAYS_FORM: Final[set[str]] = set()  # shards that this process has found so
_NO_CHECK: Final = " check (source in ('api', 'import'))"  # DuckLake knows no checks; only our own code writes here
# Signs in what DuckDB says → our sentence.
_SIGNS: Final[dict[tuple[str, ...], str]] = {
    ("onflict", "another transaction"): "{shard} was changed by another process meanwhile: run this again.",
    ("connection to server", "server closed the connection", "terminating connection", "Failed to connect"):
        "PostgreSQL (CREDITS_LAKE) does not answer, so nothing of {shard} was changed: {reason}",
    ("HTTP", "Could not connect", "onnection refused", "IO Error"):
        "The lake's storage (CREDITS_LAKE_DATA) does not answer, so nothing of {shard} was changed: {reason}",
}  # fmt: skip


@dataclass(frozen=True)
class ShardFiles:
    """The Parquet files of a shard's marts as of one commit, and how its tables and columns are described."""

    shard: int
    snapshot: int
    paths: Mapping[str, list[str]]  # by table
    described: list[Described]
    as_of: datetime | None  # of the newest reading, naive UTC


class Shard(Tables):
    """The shard `number` of a lake, opened for the length of one call or one `with` block, never longer."""

    def __init__(
        self, settings: LakeSettings, generation: int, number: int, folder: Path, *, lock_timeout_s: float = 60
    ) -> None:
        self.settings, self.generation, self.number = settings, generation, number
        self.schema = f"credits_{generation}_{number:04}"
        self.data = f"{settings.data}/{generation}/{number:04}/"
        self._folder, self._lock_timeout_s = folder, lock_timeout_s
        self.limits: dict[str, object] = {}  # settings of DuckDB: what a worker may use of its machine

    def __str__(self) -> str:
        return f"shard {self.number} of the lake"

    def holds(self, account: str) -> bool:
        return shard_of(account, self.settings.shards) == self.number

    @contextmanager
    def writing(self, purpose: str) -> Iterator[Connection]:
        """As to a file. Raises WarehouseBusy, or WarehouseError where PostgreSQL or the storage does not answer."""
        with self.held(purpose), self.opened() as con:
            if todo := self._steps_to_go(con):
                apply(con, todo, len(steps()))
            with connection.transaction(con):
                yield con

    @contextmanager
    def reading(self, purpose: str = "reading") -> Iterator[Connection]:
        """A connection to the last commit. An absent shard is created empty, an older one migrated, first."""
        with self.opened() as con:
            todo = self._steps_to_go(con)
        if todo:
            with self.writing("preparing its tables"):
                pass
        with self.opened() as con:
            yield con

    def tidy(self, published: Mapping[int, int], kept: timedelta, orphans_kept: timedelta) -> None:
        """Forget states older than `kept` but the `published` one (by shard), join small files, remove the others.

        Files that no state ever named are removed after `orphans_kept`.
        """
        since, orphans = (f"now() - interval '{span.total_seconds()} seconds'" for span in (kept, orphans_kept))
        with self.held("tidying"), self.opened() as con:
            old = con.execute(
                f"select list(snapshot_id) from ducklake_snapshots('warehouse') where snapshot_time < {since}"
                " and snapshot_id <> ? and snapshot_id < (select id from ducklake_current_snapshot('warehouse'))",
                [published.get(self.number, -1)],
            ).fetchall()[0][0]
            if old:
                con.execute(f"call ducklake_expire_snapshots('warehouse', versions => {old})")
            con.execute("call ducklake_rewrite_data_files('warehouse')")
            con.execute("call ducklake_merge_adjacent_files('warehouse')")
            con.execute(f"call ducklake_cleanup_old_files('warehouse', older_than => {since})")
            con.execute(f"call ducklake_delete_orphaned_files('warehouse', older_than => {orphans})")

    def mart_files(self) -> ShardFiles:
        """The files of the marts, of one commit."""
        with self.reading("listing the tables to publish") as con, connection.transaction(con):  # one state for all
            paths = {}
            for name in tables_of(con, "marts"):
                found = con.execute(f"from ducklake_list_files('warehouse', '{name}', schema => 'marts')").fetchall()
                paths[name] = [row[0] for row in found]
            described, as_of = about_marts(con)
            [(snapshot,)] = con.execute("from ducklake_current_snapshot('warehouse')").fetchall()
        return ShardFiles(self.number, snapshot, paths, described, as_of)

    def remove(self) -> None:
        """Remove the shard with all its files: of a generation that is over."""
        with self.held("removing it", is_over=True):
            with self.opened() as con:
                for schema in ("raw", "ops", "marts", "staging", "intermediate"):
                    con.execute(f"drop schema if exists {schema} cascade")
                con.execute("call ducklake_expire_snapshots('warehouse', older_than => now())")
                con.execute("call ducklake_cleanup_old_files('warehouse', cleanup_all => true)")
                con.execute("call ducklake_delete_orphaned_files('warehouse', cleanup_all => true)")
            engine.forget()
            with postgres(self.settings) as pg:
                pg.execute(f"drop schema if exists {self.schema} cascade")

    def attach_as(self, name: str, *, read_only: bool = False) -> str:
        """The statement that attaches the catalog. Tables without a file would not be published: no inlining."""
        return (
            f"attach {literal(f'ducklake:postgres:{self.settings.catalog}')} as {name} (data_path {literal(self.data)},"
            f" metadata_schema '{self.schema}', data_inlining_row_limit 0{', read_only' if read_only else ''})"
        )

    @contextmanager
    def opened(self) -> Iterator[Connection]:
        """The shard, as its last commit left it. Raises WarehouseError where catalog or storage fail."""
        import duckdb

        try:
            with engine.attached(self.settings, self.attach_as("warehouse"), self._folder, self.limits) as con:
                yield con
        except duckdb.Error as error:
            reason = str(error).split("\n", 1)[0]
            for signs, sentence in _SIGNS.items():
                if any(sign in str(error) for sign in signs):
                    raise WarehouseError(sentence.format(shard=self, reason=reason)) from error
            raise

    def _steps_to_go(self, con: Connection) -> list[str]:
        if self.attach_as("warehouse") in _IN_TODAYS_FORM:
            return []
        known = steps()
        version = version_of(con, str(self), len(known)) if tables_of(con, "ops") else 0
        if version == len(known):
            _IN_TODAYS_FORM.add(self.attach_as("warehouse"))
        return [step.replace(_NO_CHECK, "") for step in known[version:]]

    @contextmanager
    def held(self, purpose: str, *, is_over: bool = False) -> Iterator[None]:
        """Be the only writer of the shard. The lock is a session's: it goes when the process does."""
        deadline = clock.monotonic() + self._lock_timeout_s
        key = int.from_bytes(hashlib.sha256(self.schema.encode()).digest()[:7])
        with postgres(self.settings, f"{holder()} ({purpose})") as pg:
            while not ask(pg, "select pg_try_advisory_lock(%s)", key)[0][0]:
                if clock.monotonic() >= deadline:
                    holders = ask(
                        pg,
                        "select application_name from pg_locks join pg_stat_activity using (pid) where locktype ="
                        " 'advisory' and granted and (classid::bigint << 32) + objid::bigint = %s",
                        key,
                    )
                    who = ", ".join(name for (name,) in holders) or "another process"
                    raise WarehouseBusy(connection.busy(str(self), who))
                clock.sleep(_POLL_S)
            if not is_over and self.generation < max(layouts(pg), default=0):
                raise WarehouseError("The lake has got another number of shards meanwhile: run this again.")
            yield


def shard_of(account: str, shards: int) -> int:
    """The same on every machine and in every release: where an account's rows are."""
    return int.from_bytes(hashlib.sha256(account.encode()).digest()[:8]) % shards


SHARD_OF: Final = "('0x' || sha256(account)[1:16])::ubigint % {shards}"
"""The same in SQL."""


def layouts(pg: "Cursor") -> dict[int, int]:
    """The shards of every generation of the lake (it counts changes of their number), the present one last."""
    if ask(pg, "select to_regclass('credits.layout')") == [(None,)]:
        return {}
    return dict(ask(pg, "select generation, shards from credits.layout order by generation"))


def set_layout(pg: "Cursor", generation: int, shards: int) -> None:
    """From now on the lake has this many shards. Raises WarehouseError if another process said so first."""
    import psycopg2

    try:
        pg.execute(
            "create schema if not exists credits; create table if not exists credits.layout"
            " (generation int primary key, shards int not null, since timestamptz not null default now())"
        )
        pg.execute("insert into credits.layout (generation, shards) values (%s, %s)", [generation, shards])
    except psycopg2.Error as error:
        raise WarehouseError(f"The lake could not be laid out ({error}): run this again.") from error


def ask(pg: "Cursor", query: str, *values: object) -> list[tuple[Any, ...]]:
    pg.execute(query, values)
    found: list[tuple[Any, ...]] = pg.fetchall()
    return found


@contextmanager
def postgres(settings: LakeSettings, name: str = "credits_pipeline") -> Iterator["Cursor"]:
    """The PostgreSQL server of the lake, each statement its own transaction."""
    try:
        import psycopg2
    except ImportError:
        raise WarehouseError("CREDITS_LAKE needs packages that are not installed: run `make cluster`") from None
    try:
        pg = psycopg2.connect(settings.catalog, application_name=name)
    except psycopg2.Error as error:
        raise WarehouseError(
            f"PostgreSQL (CREDITS_LAKE) does not answer: {str(error).strip().splitlines()[0]}. Start it, or correct the"
            " service in ~/.pg_service.conf, then run this again."
        ) from error
    try:
        pg.autocommit = True
        yield pg.cursor()
    finally:
        pg.close()
