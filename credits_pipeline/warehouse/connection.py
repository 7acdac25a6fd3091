"""Connections to DuckDB: always UTC, nothing from the network; and what goes wrong with a file, in a sentence."""

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from credits_pipeline import clock, files
from credits_pipeline.errors import CreditsError
from credits_pipeline.text import literal, quoted

if TYPE_CHECKING:  # loaded when a file is opened
    import duckdb

Connection: TypeAlias = "duckdb.DuckDBPyConnection"

STORAGE_VERSION: Final = "v1.1.0"
"""The file format: every driver from 1.1.3 to 2.0.1 opens it; the default of 2.0 opens in no 1.x."""

_MEMORY_SHARE: Final = 0.625
"""DuckDB takes 80 % of what the machine or container has, 0.625 of that is half: Dagster and others live there too."""

_POLL_S: Final = 0.1
_REMEDY: Final = "run `make restore` to go back to a backup"


class WarehouseError(CreditsError):
    """The warehouse could not do what was asked; the message says why and what to do."""


class WarehouseBusy(WarehouseError):
    """Somebody else held the file for longer than we wait."""


class WarehouseCorrupt(WarehouseError):
    """The file is damaged, or is no warehouse of ours."""


def connect(path: Path) -> Connection:
    """An empty in-memory database to attach files to; it spills beside `path` and downloads nothing."""
    import duckdb

    con = duckdb.connect(
        config={
            "temp_directory": str(files.beside(path, ".tmp")),
            "autoinstall_known_extensions": "false",
            "autoload_known_extensions": "false",
            "allow_community_extensions": "false",
        }
    )
    con.execute("set TimeZone = 'UTC'")
    amount, unit = con.execute("select current_setting('memory_limit')").fetchall()[0][0].split()
    con.execute(f"set memory_limit = '{float(amount) * _MEMORY_SHARE:.1f} {unit}'")
    return con


def attach(con: Connection, path: Path, name: str = "warehouse", *, read_only: bool = False) -> None:
    options = ["type duckdb", "read_only" if read_only else "read_write"]
    if not path.exists():  # an existing file keeps the format that it has
        options.append(f"storage_version '{STORAGE_VERSION}'")
    con.execute(f"attach {literal(str(path))} as {name} ({', '.join(options)})")


def attach_patiently(con: Connection, path: Path, deadline: float, *, read_only: bool, remedy: str = _REMEDY) -> None:
    """Attach as `warehouse`; wait for another program that has the file open, until `deadline` of our clock."""
    import duckdb

    while True:
        try:
            return attach(con, path, read_only=read_only)
        except duckdb.Error as error:
            renamed = _renamed(error, path, remedy, opening=True)
            if not isinstance(renamed, WarehouseBusy) or clock.monotonic() >= deadline:
                raise renamed from error
        clock.sleep(_POLL_S)


@contextmanager
def transaction(con: Connection) -> Iterator[None]:
    """What is done inside is committed at the end, and undone by any exception."""
    con.execute("begin transaction")
    try:
        yield
        con.execute("commit")
    except BaseException:
        with suppress(Exception):  # what failed matters more, and closing undoes it too
            con.execute("rollback")
        raise


def copy_database(con: Connection, target: Path) -> None:
    """Copy the whole warehouse into a new file; every block is read, so that a damaged one is found."""
    attach(con, target, "target")
    con.execute("copy from database warehouse to target; checkpoint target; detach target")


def write_parquet(con: Connection, schema: str, folder: Path, database: str = "warehouse") -> None:
    """Make `folder`, with each table of a schema as a Parquet file in it."""
    folder.mkdir()
    for table in tables_of(con, schema, database):
        file = folder / f"{table}.parquet"
        con.execute(f"copy {quoted(database, schema, table)} to {literal(str(file))} (format parquet)")


def tables_of(con: Connection, schema: str, database: str = "warehouse") -> list[str]:
    """The names of the tables, not the views, in a schema."""
    named = "select table_name from duckdb_tables() where database_name = ? and schema_name = ? order by all"
    return [name for (name,) in con.execute(named, [database, schema]).fetchall()]


def relations_of(con: Connection, schema: str, database: str = "warehouse") -> list[str]:
    """The names of the tables and views in a schema."""
    named = "select table_name from information_schema.tables where table_catalog = ? and table_schema = ? order by all"
    return [name for (name,) in con.execute(named, [database, schema]).fetchall()]


def fetch_dicts(con: Connection, sql: str | Path, parameters: Any = None) -> list[dict[str, Any]]:
    """The rows of a query, or of the query in a file, each a dict by column name."""
    cursor = con.execute(sql.read_text(encoding="utf-8") if isinstance(sql, Path) else sql, parameters)
    names = [column[0] for column in cursor.description or ()]
    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


# -- errors --------------------------------------------------------------------------------------

# Signs in what DuckDB or the operating system says → our sentence.
_SENTENCES: Final[dict[tuple[str, ...], str]] = {
    ("No space left on device", "File too large", "Disk quota exceeded"):
        "No room to write {path}: free some space, then run this again.",
    ("Permission denied", "Read-only file system", "Operation not permitted"):
        "No permission to use {path}: make it and its directory readable and writable for this user.",
    ("a database file with version number",):
        "{path} was written by a newer DuckDB than the one installed: update this program.",
}  # fmt: skip
_LOCKED: Final = ("Could not set lock on file", "Unique file handle conflict")
_TORN: Final = (
    "not a valid DuckDB database file", "Corrupt database file", "Could not read enough bytes", "replaying WAL",
    "Serialization Error", "checksum",
)  # fmt: skip


@contextmanager
def named_errors(path: Path) -> Iterator[None]:
    """Give the failures of a file their own type and a sentence; let every other exception through."""
    import duckdb

    try:
        yield
    except (duckdb.Error, OSError) as error:
        renamed = _renamed(error, path)
        if renamed is error:
            raise
        raise renamed from error


def _renamed(error: Exception, path: Path, remedy: str = _REMEDY, *, opening: bool = False) -> Exception:
    message = str(error)
    reason = message.split("\n", 1)[0]
    named = re.search(r'"(/[^"]+)"', message)  # it may be about the log, the spill file or a copy
    place = getattr(error, "filename", None) or (named[1] if named else path)
    for signs, sentence in _SENTENCES.items():
        if any(sign in message for sign in signs):
            return WarehouseError(sentence.format(path=place))
    if any(sign in message for sign in _LOCKED):  # without our lock: a BI tool, a notebook, a DuckDB shell
        holder = re.search(r"Conflicting lock is held in (.*?\))", message)
        return WarehouseBusy(busy(path, f"another program{f', {holder[1]}' if holder else ''}"))
    if any(sign in message for sign in _TORN) or (opening and "INTERNAL Error" in message):
        return WarehouseCorrupt(f"{path} is damaged: {remedy} ({reason}).")
    return WarehouseError(f"{path} cannot be opened: {reason}") if opening else error


def busy(path: Path | str, who: str) -> str:
    return f"{path} is held by {who}: let it finish or stop it, then run this again."
