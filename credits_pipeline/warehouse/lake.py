"""The warehouse in a lake: the same door as to a file, with the accounts in shards behind it.

An account's rows are in one shard, by its name. What is remembered of alerts is in the first. The published copy is a
small file of views over exactly the Parquet files of one commit of every shard.
"""

import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from datetime import datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any, Final, TypeVar

from credits_pipeline import files
from credits_pipeline.config import Settings
from credits_pipeline.text import literal, quoted
from credits_pipeline.warehouse import AnyWarehouse, Warehouse, cluster, connection
from credits_pipeline.warehouse.connection import Connection, WarehouseError, relations_of, tables_of
from credits_pipeline.warehouse.engine import load_extensions
from credits_pipeline.warehouse.file import remove_leftovers, temporary
from credits_pipeline.warehouse.published import describe, replace_published, write_published
from credits_pipeline.warehouse.shard import SHARD_OF, Shard, ShardFiles, layouts, postgres, set_layout, shard_of

T = TypeVar("T")

STATES_KEPT: Final = timedelta(days=7)
"""How long a shard's former states and their files stay: longer than anybody has an old `credits.duckdb` open."""

ORPHANS_KEPT: Final = timedelta(days=2)
"""Files that no state names are a killed builder's, or one's that is under way: no build takes this long."""


class Lake(AnyWarehouse):
    """The shards of the lake that `settings` name, created at first use."""

    def __init__(self, settings: Settings, *, lock_timeout_s: float = 60) -> None:
        assert settings.lake
        self._settings, self._lake, self._lock_timeout_s = settings, settings.lake, lock_timeout_s
        self._listed: list[ShardFiles] | None = None

    def each(self, do: Callable[..., T], *args: Any) -> list[T]:
        """What `do(shard, *args)` returns for each shard, by the workers of CREDITS_CLUSTER where there are any."""
        self._listed = None  # it may write
        return cluster.on_each(self._settings, self._generation, do, *args)

    def of(self, account: str) -> Shard:
        return self._shard(shard_of(account, self._lake.shards))

    @contextmanager
    def reading(self, purpose: str = "reading") -> Iterator[Connection]:
        """The marts of all shards as published, and what is remembered of alerts."""
        with self._whole(purpose) as con:
            if (path := self._settings.published_path).exists():
                connection.attach(con, path, "published", read_only=True)
                for name in relations_of(con, "marts", "published"):
                    con.execute(f"create view whole.marts.{quoted(name)} as from published.marts.{quoted(name)}")
            yield con

    @contextmanager
    def built(self, purpose: str) -> Iterator[Connection]:
        """The marts of all shards as of their last commit, whether they are published yet or not."""
        found = self._files()
        with self._whole(purpose) as con:
            _create_views(con, "whole", found)
            yield con

    @contextmanager
    def _whole(self, purpose: str) -> Iterator[Connection]:
        with self._shard(0).reading(purpose) as con:
            con.execute("attach ':memory:' as whole; create schema whole.marts; create schema whole.ops")
            con.execute(
                "create view whole.ops.alerts_sent as select rowid, * from warehouse.ops.alerts_sent; use whole"
            )
            yield con
            con.execute("use warehouse; detach whole; detach database if exists published")

    def writing(self, purpose: str) -> AbstractContextManager[Connection]:
        """To what is remembered of alerts; the rest is written shard by shard."""
        return self._shard(0).writing(purpose)

    def publish(self, target: Path, *, run_id: str, published_at: datetime, version: str, is_simulated: bool) -> None:
        """Replace the file `target` by views of the marts of every shard's last commit; the rest as for a file."""
        target = target.absolute()
        files.make_directory(target.parent)
        files.refuse_what_is_no_file(target)
        fresh, found = temporary(target), self._files()
        as_of = max((part.as_of for part in found if part.as_of), default=None)
        try:
            with connection.connect(target) as con:
                load_extensions(con, self._lake)
                connection.attach(con, fresh, "published")
                con.execute("begin transaction; create schema published.marts; create schema published.lake")
                _create_views(con, "published", found)
                write_published(con, as_of, run_id, published_at, version, is_simulated)
                con.execute("create table published.lake.shards (generation bigint, shard bigint, snapshot bigint)")
                rows = [(self._generation, part.shard, part.snapshot) for part in found]
                con.executemany("insert into published.lake.shards values (?, ?, ?)", rows)
                con.execute("commit; checkpoint published; detach published")
            replace_published(fresh, target)
            # What was published before the warehouse was a lake: nobody writes it any longer.
            if (link := target.with_name("parquet")).is_symlink():
                link.unlink()
            for folder in target.parent.glob(".parquet.*"):
                shutil.rmtree(folder)
        finally:
            remove_leftovers(target)

    def tidy(self, kept: timedelta = STATES_KEPT, orphans_kept: timedelta = ORPHANS_KEPT) -> None:
        """Remove what neither a state of late nor the published copy needs, and former generations."""
        published: dict[tuple[int, int], int] = {}
        if (path := self._settings.published_path).exists():
            with connection.connect(path) as con:
                connection.attach(con, path, "published", read_only=True)
                if "shards" in tables_of(con, "lake", "published"):
                    published = {(g, n): at for g, n, at in con.execute("from published.lake.shards").fetchall()}
        snapshots = {number: at for (generation, number), at in published.items() if generation == self._generation}
        cluster.on_each(self._settings, self._generation, Shard.tidy, snapshots, kept, orphans_kept)
        with postgres(self._lake) as pg:
            for generation, shards in layouts(pg).items():
                if generation < self._generation and all(generation != used for used, _ in published):
                    for number in range(shards):
                        Shard(self._lake, generation, number, self._settings.data_dir).remove()
                    pg.execute("delete from credits.layout where generation = %s", [generation])

    def _files(self) -> list[ShardFiles]:
        if self._listed is None:
            self._listed = cluster.on_each(self._settings, self._generation, Shard.mart_files)
        return self._listed

    def _shard(self, number: int) -> Shard:
        return Shard(self._lake, self._generation, number, self._settings.data_dir, lock_timeout_s=self._lock_timeout_s)

    @cached_property
    def _generation(self) -> int:
        wanted = self._lake.shards
        with postgres(self._lake) as pg:
            if not (found := layouts(pg)):
                if (path := self._settings.warehouse_path).exists():
                    raise WarehouseError(
                        f"The lake is empty, and there is a warehouse in {path}: run `make reshard SHARDS={wanted}` to"
                        " move it into the lake, or move the file away to begin anew."
                    )
                set_layout(pg, 1, wanted)
                return 1
        generation = max(found)
        if (shards := found[generation]) != wanted:
            raise WarehouseError(
                f"The lake has {shards} shards and CREDITS_SHARDS says {wanted}: set it to {shards}, or run"
                f" `make reshard SHARDS={wanted}` first."
            )
        return generation


def reshard(settings: Settings, shards: int) -> int:
    """Spread all rows over `shards` new shards, from the present ones or a warehouse in a file; return how many rows.

    Nothing is written anywhere else meanwhile, and nothing is changed until all is there: what there was stays until
    the new state is published. Raises WarehouseError.
    """
    lake = settings.lake
    assert lake
    with postgres(lake) as pg, ExitStack() as held:
        generations = layouts(pg)
        generation = max(generations, default=0)
        present = generations.get(generation, 0)
        if present == shards:
            raise WarehouseError(f"The lake has {shards} shards already.")
        if not present and not settings.warehouse_path.exists():
            raise WarehouseError("There is nothing to move yet: set CREDITS_SHARDS, and the first run begins the lake.")
        olds = [Shard(lake, generation, number, settings.data_dir) for number in range(present)]
        for old in olds:
            held.enter_context(old.held("moving its rows into new shards"))
        if not present:
            with Warehouse(settings.warehouse_path).reading("bringing it to today's form"):
                pass
        rows = 0
        for number in range(shards):
            new = Shard(lake, generation + 1, number, settings.data_dir)
            pg.execute(f"drop schema if exists {new.schema} cascade")  # what an attempt that was cut short left
            rows += _move(settings, olds, new, SHARD_OF.format(shards=shards) + f" = {number}")
        set_layout(pg, generation + 1, shards)
    return rows


def _move(settings: Settings, olds: list[Shard], new: Shard, is_its_own: str) -> int:
    """Copy the rows for which `is_its_own` holds to `new` from `olds`, or from the file where there are none."""
    rows = 0
    with new.reading("preparing its tables"):
        pass
    with new.held("taking rows"), new.opened() as con:
        for number in range(max(len(olds), 1)):
            if olds:
                con.execute(olds[number].attach_as("source", read_only=True))
            else:
                connection.attach(con, settings.warehouse_path, "source", read_only=True)
            with connection.transaction(con):
                for schema in ("raw", "ops"):
                    for table in tables_of(con, schema, "source"):
                        if table in {"schema_version", "account_plans", "teams"}:  # written by every build
                            continue
                        where = str(new.number == 0) if schema == "ops" else is_its_own
                        insert = f"insert into {schema}.{table} by name from source.{schema}.{table} where {where}"
                        [(moved,)] = con.execute(insert).fetchall()
                        rows += moved
            con.execute("detach source")
    return rows


def _create_views(con: Connection, catalog: str, found: list[ShardFiles]) -> None:
    """A view of each mart over the files of all shards, described as the newest shard describes it."""
    described = max(found, key=lambda part: len(part.described)).described
    differ = len({len(part.described) for part in found}) > 1  # one not rebuilt since an update lacks new columns
    columns: dict[str, dict[str, str]] = {}
    for table, column, _, kind in described:
        columns.setdefault(table, {})
        if column:
            columns[table][column] = kind
    for table, kinds in columns.items():
        paths = [path for part in found for path in part.paths.get(table, [])]
        if paths:
            files_of_all = f"[{', '.join(map(literal, paths))}], union_by_name = {differ}"
            query = f"select {', '.join(map(quoted, kinds))} from read_parquet({files_of_all})"
        else:
            query = f"select {', '.join(f'null::{kind} as {quoted(name)}' for name, kind in kinds.items())} limit 0"
        con.execute(f"create view {quoted(catalog, 'marts', table)} as {query}")
    describe(con, catalog, "view", described)
