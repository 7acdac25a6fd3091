"""A lake of its own for every test: a database in one PostgreSQL server, a folder, a clock that all processes see."""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from datetime import datetime, timedelta
from pathlib import Path

import dagster as dg
import duckdb
import pytest

from credits_pipeline import clock, config
from credits_pipeline.warehouse import Tables, open_warehouse
from credits_pipeline_tests.cluster import servers
from credits_pipeline_tests.conftest import NOW
from credits_pipeline_tests.defs.test_daily_run import failures


def green(result: dg.ExecuteInProcessResult) -> None:
    assert result.success, failures(result)


@pytest.fixture(scope="session")
def pg(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.Postgres]:
    with servers.postgres(tmp_path_factory.mktemp("postgres")) as server:
        yield server


class Lake:
    """Where the test's lake is; `use` points this process, and what it starts, at it."""

    def __init__(self, folder: Path, pg: servers.Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self._monkeypatch = folder, monkeypatch
        self.published, self.clock = folder / "lake_home" / "credits.duckdb", folder / "clock"
        name = f"test_{abs(hash(folder))}"
        service = folder / "pg_service.conf"
        service.write_text(pg.service.read_text().replace("dbname=credits", f"dbname={name}"))
        pg.psql("postgres", f"create database {name}")
        self.database, self.environ = name, {"PGSERVICEFILE": str(service)}
        self.set_clock(NOW)

    def use(self, shards: int = 2, data: str = "", cluster: str = "", **more: str) -> None:
        chosen = {
            "CREDITS_LAKE": "postgres:service=credits", "CREDITS_LAKE_DATA": data or str(self.folder / "lake"),
            "CREDITS_SHARDS": str(shards), "CREDITS_CLUSTER": cluster,
            "CREDITS_DATA_DIR": str(self.published.parent), "TEST_CLOCK": str(self.clock),
        }  # fmt: skip
        for variable, value in {**self.environ, **chosen, **more}.items():
            self._monkeypatch.setenv(variable, value)

    def set_clock(self, at: datetime) -> None:
        self.clock.write_text(at.isoformat())

    def start_workers(self, workers: int = 2, **environ: str) -> AbstractContextManager[servers.Cluster]:
        """Workers with the test's clock; `use` the address that they get."""
        options = ("--preload", "credits_pipeline_tests.cluster.worker")
        return servers.cluster(self.folder / "dask", {**environ}, workers, *options)

    def ask(self, query: str) -> list[tuple[object, ...]]:
        """Of the published copy."""
        with duckdb.connect(str(self.published), read_only=True) as con:
            return con.execute(query).fetchall()

    def each(self, do: Callable[[Tables], object]) -> list[object]:
        return open_warehouse(config.current()).each(do)


@pytest.fixture
def lake(tmp_path: Path, pg: servers.Postgres, monkeypatch: pytest.MonkeyPatch) -> Lake:
    return Lake(tmp_path, pg, monkeypatch)


@pytest.fixture
def days_go_by(lake: Lake, now: clock.FrozenClock) -> Callable[[int], None]:
    """Move the clock on, here and in the workers."""

    def move(days: int) -> None:
        now.advance(timedelta(days=days))
        lake.set_clock(clock.now())

    return move


@pytest.fixture(scope="session", autouse=True)
def _definitions_of_a_lake() -> None:
    """As a process that has CREDITS_LAKE from the start defines them: a failed test does not stop what comes after."""
    os.environ.update(servers.certificates())  # before Dask is imported, which reads them once
    told = {"CREDITS_LAKE": "postgres:service=x", "CREDITS_LAKE_DATA": "/nowhere", "CREDITS_SHARDS": "1"}
    told["CREDITS_ENV_FILE"] = ""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in told.items():
            patch.setenv(name, value)
        import credits_pipeline.definitions  # noqa: F401
