"""The published copy (`credits.duckdb`), which BI tools open, and the same marts as Parquet: replaced as a whole."""

import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias

from credits_pipeline import clock, config, files
from credits_pipeline.text import literal, quoted
from credits_pipeline.warehouse import connection
from credits_pipeline.warehouse.connection import Connection, WarehouseError, relations_of, tables_of
from credits_pipeline.warehouse.file import WarehouseFile, naive, remove_leftovers, temporary

if TYPE_CHECKING:
    import pandas as pd

Described: TypeAlias = tuple[str, str, str | None, str]
"""A mart, or a column of it: the table, the column or '', the comment, the type or ''."""

_PUBLISHED_WAIT_S: Final = 10.0
"""How long a reader waits if someone opened the published copy for writing, which nobody should."""


class Publisher(WarehouseFile):
    def publish(self, target: Path, *, run_id: str, published_at: datetime, version: str, is_simulated: bool) -> None:
        """Replace the file `target` by a copy of the marts: tables only, comments kept, of one instant.

        Whoever has the old file open goes on reading it; whoever opens it next gets the new one, mode 0444.
        A crash at any point leaves the old file or the new one. `marts.published` says what is in it.
        `parquet`, beside it, becomes a link to a folder with the same tables as Parquet; the folder before is kept.
        """
        target = target.absolute()
        with self._held("publishing") as deadline:
            files.make_directory(target.parent)
            files.refuse_what_is_no_file(target)
            fresh, parquet = temporary(target), target.with_name("parquet")
            folder, before = temporary(parquet), parquet.resolve()
            try:
                with self._open(deadline, read_only=True) as con:
                    connection.attach(con, fresh, "published")
                    # One transaction, not one per comment: each waits for the disk.
                    con.execute("begin transaction; create schema published.marts")
                    for table in tables_of(con, "marts"):
                        mart = quoted("marts", table)
                        con.execute(f"create table published.{mart} as from warehouse.{mart}")
                    described, as_of = about_marts(con)
                    describe(con, "published", "table", described)
                    write_published(con, as_of, run_id, published_at, version, is_simulated)
                    con.execute("commit; checkpoint published")
                    connection.write_parquet(con, "marts", folder, "published")
                    con.execute("detach published")
                # DuckDB has released both files by now, so opening them here cannot drop its locks.
                replace_published(fresh, target)
                _replace_folder(folder, parquet)
            finally:
                remove_leftovers(target)
                kept = {before.name, parquet.resolve().name}
                for leftover in target.parent.glob(".parquet.*"):
                    if leftover.name not in kept:
                        shutil.rmtree(leftover)


@contextmanager
def open_published(path: Path) -> Iterator[Connection]:
    """A read-only connection to the published copy; its tables are in the schema `marts`.

    It goes on seeing the generation it was opened on. Raises WarehouseError where there is none yet.
    """
    path = path.absolute()
    files.refuse_what_is_no_file(path)
    if not path.exists():
        raise WarehouseError(f"There is no {path} yet: run `make run` first (the demo's copy is in data/demo).")
    with connection.named_errors(path), connection.connect(path) as con:
        if (lake := config.current().lake) and lake.is_bucket:
            from credits_pipeline.warehouse.engine import load_extensions

            load_extensions(con, lake)
        deadline = clock.monotonic() + _PUBLISHED_WAIT_S
        connection.attach_patiently(con, path, deadline, read_only=True, remedy="run `make run` to publish it anew")
        con.execute("use warehouse")
        yield con


def read_mart(name: str, path: Path | None = None) -> "pd.DataFrame":
    """A table of the schema `marts` as a pandas DataFrame, its rows in the table's order.

    Columns are backed by Arrow, so that nothing is rounded on the way: money is decimal128(18, 9) in USD (its
    values are `Decimal`), counts are int64 also where some are missing, days are dates, instants are UTC.

    `path` is a published copy; by default the one in the configured data directory.
    Raises WarehouseError where there is none yet, or no such table in it.
    """
    import pandas as pd

    path = path or config.current().published_path
    with open_published(path) as con:
        names = relations_of(con, "marts")
        if name not in names:
            raise WarehouseError(f"There is no mart {name!r} in {path}: there are {', '.join(names)}.")
        table = con.sql(f"from marts.{quoted(name)}").to_arrow_table()
    frame: pd.DataFrame = table.to_pandas(types_mapper=pd.ArrowDtype)
    return frame


def replace_published(fresh: Path, target: Path) -> None:
    files.set_mode(fresh, 0o444)
    files.move_into_place(fresh, target)
    # A log that a tool left beside the old file would be replayed onto this one.
    files.beside(target, ".wal").unlink(missing_ok=True)


def _replace_folder(fresh: Path, link: Path) -> None:
    for file in fresh.iterdir():
        files.sync(file)
        files.set_mode(file, 0o444)
    files.set_mode(fresh, 0o755)
    if not link.is_symlink():
        shutil.rmtree(link, ignore_errors=True)  # what `scp -r` makes of a link
    pointer = fresh / "link"
    pointer.symlink_to(fresh.name)
    pointer.replace(link)
    files.sync(link.parent)


def about_marts(con: Connection) -> tuple[list[Described], datetime | None]:
    """What the marts of `warehouse` and their columns are, and the instant of the newest reading in them."""
    described = con.execute(
        """
        select table_name, '', comment, '' from duckdb_tables()
        where database_name = 'warehouse' and schema_name = 'marts'
        union all
        select table_name, column_name, comment, data_type from duckdb_columns()
        where database_name = 'warehouse' and schema_name = 'marts'
        """
    ).fetchall()
    if "credits_readings" not in tables_of(con, "marts"):
        return described, None
    [(as_of,)] = con.execute("select max(observed_at) from marts.credits_readings").fetchall()
    return described, as_of


def describe(con: Connection, catalog: str, kind: str, described: Iterable[Described]) -> None:
    """Comment on marts, each a `kind`, and on their columns.

    As one script: hundreds of statements by themselves cost more than the copy that they describe.
    """
    con.execute(
        ";".join(
            f"comment on {'column' if column else kind} {quoted(catalog, 'marts', table, *filter(None, [column]))}"
            f" is {literal(comment)}"
            for table, column, comment, _ in described
            if comment
        )
    )


def write_published(
    con: Connection, as_of: datetime | None, run_id: str, published_at: datetime, version: str, is_simulated: bool
) -> None:
    con.execute(Path(__file__).with_suffix(".sql").read_text(encoding="utf-8"))
    row = [run_id, naive(published_at), as_of, version, is_simulated]
    con.execute("insert into published.marts.published values (?, ?, ?, ?, ?)", row)
