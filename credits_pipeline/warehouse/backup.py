"""Backups of the warehouse, and their way back: only our own tables come along."""

import shutil
from pathlib import Path

from credits_pipeline import files
from credits_pipeline.warehouse import connection
from credits_pipeline.warehouse.connection import Connection, WarehouseBusy, WarehouseCorrupt, WarehouseError, tables_of
from credits_pipeline.warehouse.file import WarehouseFile, stamp, temporary, version_of


class Backups(WarehouseFile):
    def backup(self, into: Path) -> Path:
        """Write a consistent copy of everything into a new directory below `into`, and return that directory.

        It holds `warehouse.duckdb`, which `restore` takes, and the raw and mart tables as Parquet
        (`raw/…`, `marts/…`) for any other tool. A backup that was cut short never looks like a whole one.
        """
        into = into.absolute()
        with self._held("making a backup") as deadline:
            files.make_directory(into)
            finished = into / f"credits-{stamp()}"
            fresh = temporary(finished)
            try:
                with self._open(deadline, read_only=True) as con:
                    fresh.mkdir(mode=0o700)
                    connection.copy_database(con, fresh / "warehouse.duckdb")
                    for schema in ("raw", "marts"):
                        connection.write_parquet(con, schema, fresh / schema)
                for file in fresh.rglob("*.*"):
                    files.sync(file)
                made = files.unused(finished)
                files.move_into_place(fresh, made)
                return made
            finally:
                shutil.rmtree(fresh, ignore_errors=True)

    def restore(self, source: Path) -> Path | None:
        """Put a backup in the warehouse's place; return where the earlier file is kept, if there was one.

        `source` is a directory made by `backup`, or the `warehouse.duckdb` in it. The rows of its raw and ops tables
        are copied into a new file, so that a damaged backup changes nothing and a forged one brings nothing else
        along. Rebuild the SQL and publish afterwards.
        """
        source = source.absolute()
        source = source / "warehouse.duckdb" if source.is_dir() else source
        files.refuse_what_is_no_file(source)
        if not source.exists():
            raise WarehouseError(f"There is no backup at {source}: name a directory that `make backup` has made.")
        with self._held("restoring a backup") as deadline:
            if self.path.exists() and source.samefile(self.path):
                raise WarehouseError(f"{source} is the warehouse itself: name a backup.")
            fresh = temporary(self.path)
            self._copy_backup(source, fresh, deadline)
            kept = self._keep_aside(deadline)
            files.move_into_place(fresh, self.path)
        return kept

    def _copy_backup(self, source: Path, fresh: Path, deadline: float) -> None:
        """Our tables as they are in `source`, in a new file of the form that `source` has."""
        import duckdb

        try:
            with connection.named_errors(source), connection.connect(self.path) as con:
                connection.attach_patiently(con, source, deadline, read_only=True)
                version = version_of(con, source, len(self._steps))
                con.execute("detach warehouse")
                connection.attach(con, fresh)
                self._apply(con, 0, version)
                connection.attach(con, fresh)
                connection.attach(con, source, "backup", read_only=True)
                _copy_our_tables(con)
                con.execute("checkpoint warehouse")
        except (WarehouseCorrupt, duckdb.Error) as error:
            raise WarehouseCorrupt(f"{source} is damaged or no backup of ours: take another one.") from error

    def _keep_aside(self, deadline: float) -> Path | None:
        """Give the present file, whole or damaged, a second name, and take its log away from it."""
        kept = files.unused(files.beside(self.path, f".before-restore-{stamp()}"))
        log = files.beside(self.path, ".wal")
        if self.path.exists():
            # Opened once: then no other program has it, and what its log holds is in it.
            with connection.connect(self.path) as con:
                try:
                    connection.attach_patiently(con, self.path, deadline, read_only=False)
                except WarehouseBusy:
                    raise
                except WarehouseError:
                    pass  # damaged or too new: file and log are kept as they are
            shutil.copyfile(self.path, kept)  # a copy, so that at no moment the file is missing
            files.sync(kept)
        if log.exists():
            log.replace(files.beside(kept, ".wal"))
        return kept if kept.exists() else None


def _copy_our_tables(con: Connection) -> None:
    """From `backup` into `warehouse`. A view in a table's place would run what somebody else wrote, so it is none."""
    with connection.transaction(con):
        for schema in ("raw", "ops"):
            if missing := set(tables_of(con, schema)) - set(tables_of(con, schema, "backup")):
                raise WarehouseCorrupt(f"no {missing}")
            for table in tables_of(con, schema):
                if table != "schema_version":  # written already
                    name = f"{schema}.{table}"
                    con.execute(f"insert into warehouse.{name} by name select * from backup.{name}")
