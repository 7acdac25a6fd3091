"""The one door to `warehouse.duckdb`: who may open it, when, and in which form.

One process at a time holds the warehouse, behind a file lock that DuckDB's own lock backs up; everything that
is written is one transaction. All instants are UTC, all money is USD in DECIMAL(18,9).
"""

import os
import shutil
import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from credits_pipeline import clock, files
from credits_pipeline.warehouse import connection
from credits_pipeline.warehouse.connection import (
    Connection,
    WarehouseBusy,
    WarehouseCorrupt,
    WarehouseError,
    transaction,
)

MIGRATIONS: Final = Path(__file__).parent / "migrations"
"""One file per schema version, in order: a new warehouse runs all, an older one those it has not seen."""


class WarehouseFile:
    """The warehouse at `path`, opened for the length of one call or one `with` block, never longer."""

    def __init__(self, path: Path, *, lock_timeout_s: float = 60, migrations: Path = MIGRATIONS) -> None:
        self.path = path.absolute()
        self.lock_timeout_s = lock_timeout_s
        self._steps = steps(migrations)

    @contextmanager
    def writing(self, purpose: str) -> Iterator[Connection]:
        """A read-write connection inside one transaction: committed at the end, undone by any exception.

        The file is created or migrated first where needed. `purpose` is shown to those who have to wait.
        Raises WarehouseBusy, WarehouseCorrupt, or WarehouseError where disk, permissions or versions forbid it.
        """
        with self._held(purpose) as deadline, self._open(deadline, read_only=False) as con, transaction(con):
            yield con

    @contextmanager
    def reading(self, purpose: str = "reading") -> Iterator[Connection]:
        """A read-only connection. An absent warehouse is created empty, an older one migrated, first."""
        with self._held(purpose) as deadline, self._open(deadline, read_only=True) as con:
            yield con

    @contextmanager
    def _held(self, purpose: str) -> Iterator[float]:
        """Hold the lock beside the file, creating files for our eyes only; yields the deadline for DuckDB's own."""
        deadline = clock.monotonic() + self.lock_timeout_s
        lock = files.beside(self.path, ".lock")

        def is_busy() -> WarehouseBusy:
            return WarehouseBusy(connection.busy(self.path, lock.read_text("utf-8") or "another process"))

        with connection.named_errors(self.path):
            files.refuse_what_is_no_file(self.path)
            with files.only_one(lock, otherwise=is_busy, timeout_s=self.lock_timeout_s):
                with suppress(OSError):  # on a full disk one can still read; the note is only for those who wait
                    lock.write_text(f"{holder()} ({purpose}) since {clock.now():%Y-%m-%d %H:%M:%S} UTC", "utf-8")
                before = os.umask(0o077)  # DuckDB has no setting for the mode of its files
                try:
                    yield deadline
                finally:
                    os.umask(before)
                    remove_leftovers(self.path)

    @contextmanager
    def _open(self, deadline: float, *, read_only: bool) -> Iterator[Connection]:
        """The file as the catalog `warehouse`, whole and of today's form."""
        with connection.connect(self.path) as con:
            if not self.path.exists():
                self._create(con)
            connection.attach_patiently(con, self.path, deadline, read_only=read_only)
            if (version := version_of(con, self.path, len(self._steps))) < len(self._steps):
                self._migrate(con, version, deadline)
                connection.attach_patiently(con, self.path, deadline, read_only=read_only)
            con.execute("use warehouse")
            yield con

    def _create(self, con: Connection) -> None:
        if (log := files.beside(self.path, ".wal")).exists():
            raise WarehouseCorrupt(f"{log} has lost its database: put {self.path.name} back, or run `make restore`.")
        # Under another name first: a process killed half-way must not leave a file that looks damaged.
        fresh = temporary(self.path)
        connection.attach(con, fresh)
        self._apply(con, 0, len(self._steps))
        files.move_into_place(fresh, self.path)

    def _migrate(self, con: Connection, version: int, deadline: float) -> None:
        """Bring the file to today's form in one transaction, with a copy of the old one kept beside it."""
        fresh = temporary(self.path)
        connection.copy_database(con, fresh)
        con.execute("detach warehouse")
        files.move_into_place(fresh, files.unused(files.beside(self.path, f".version-{version}-{stamp()}")))
        connection.attach_patiently(con, self.path, deadline, read_only=False)
        self._apply(con, version, len(self._steps))

    def _apply(self, con: Connection, old: int, new: int) -> None:
        """Bring the attached warehouse from one version to another in one transaction, and detach it."""
        con.execute("use warehouse")
        apply(con, self._steps[old:new], new)
        con.execute("checkpoint")  # detaching does it too, but says nothing when there is no room
        con.execute("use memory")
        con.execute("detach warehouse")


def steps(migrations: Path = MIGRATIONS) -> list[str]:
    return [step.read_text(encoding="utf-8") for step in sorted(migrations.glob("*.sql"))]


def version_of(con: Connection, where: Path | str, known: int) -> int:
    """How many steps the warehouse that is attached as `warehouse` has been through; `where` it is, for messages."""
    version = 0
    if "schema_version" in connection.tables_of(con, "ops"):
        told = "select coalesce(max(try_cast(version as bigint)), 0) from warehouse.ops.schema_version"
        version = con.execute(told).fetchall()[0][0]
    if version < 1:
        raise WarehouseCorrupt(
            f"{where} is a DuckDB file but no warehouse of this program: move it away, or run `make restore`."
        )
    if version > known:
        raise WarehouseError(
            f"{where} was written by a newer release of this program (its tables have version {version}, "
            f"this release knows up to {known}): update this program."
        )
    return version


def apply(con: Connection, new_steps: list[str], version: int) -> None:
    """Take the warehouse in use through `new_steps` to `version`, in one transaction."""
    with transaction(con):
        for step in new_steps:
            con.execute(step)
        con.execute("delete from ops.schema_version")
        con.execute("insert into ops.schema_version values (?, ?)", [version, naive(clock.now())])


def temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}.new")


def remove_leftovers(path: Path) -> None:
    """Remove what a killed process began to write; only under the lock, where nobody else is writing one."""
    for leftover in path.parent.glob(f".{path.name}.*.new*"):
        leftover.unlink(missing_ok=True)
    shutil.rmtree(files.beside(path, ".tmp"), ignore_errors=True)  # where DuckDB spills


def stamp() -> str:
    return f"{clock.now():%Y%m%dT%H%M%SZ}"


def naive(instant: datetime) -> datetime:
    """As TIMESTAMP columns hold it: without a zone, in UTC."""
    if instant.tzinfo is None:
        raise ValueError(f"{instant} has no time zone: pass an aware datetime")
    return instant.astimezone(UTC).replace(tzinfo=None)


def holder() -> str:
    """This process, as those who wait for it read of it."""
    return f"process {os.getpid()} on {socket.gethostname()}"
