"""Shared fixtures: a simulated API, an environment that points at it, a Dagster instance, a clock in the past."""

import os
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime
from pathlib import Path

import dagster as dg
import hypothesis
import pytest

from credits_pipeline import clock
from credits_pipeline.simulator import SimulatedAccount
from credits_pipeline.warehouse import Warehouse
from credits_pipeline_tests.faulty import FaultyAPI

# A Wednesday whose whole year before it lies after the default CREDITS_START_DATE.
TODAY = date(2026, 6, 17)
NOW = datetime(2026, 6, 17, 0, 5, tzinfo=UTC)


# A test on a busy machine is slow, not wrong; and nothing is left in the folder that it is run from.
hypothesis.settings.register_profile("ours", deadline=None, database=None)
hypothesis.settings.load_profile("ours")

# Many real processes, kills and second computations: minutes of them, so CI runs these beside `make test`.
SLOW_MODULES = {
    "test_alerts",
    "test_dbt_parity",
    "test_faults",
    "test_housekeeping",
    "test_readers",
    "test_recipes",
    "test_recovery",
    "test_publish",
    "test_secrets",
    "test_watchdogs",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.stem in SLOW_MODULES:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(autouse=True)
def _no_settings_of_the_developer(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees a real key, a real data directory or a real Dagster home."""
    for name in [name for name in os.environ if name.startswith(("OPENROUTER_", "CREDITS_", "DAGSTER_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("CREDITS_ENV_FILE", "")


@pytest.fixture
def at_five_past_midnight() -> Iterator[clock.FrozenClock]:
    with clock.frozen(NOW) as held:
        yield held


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as held:
        yield held


@pytest.fixture
def warehouse(tmp_path: Path) -> Warehouse:
    return Warehouse(tmp_path / "data" / "warehouse.duckdb", lock_timeout_s=5)


@pytest.fixture
def simulate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_five_past_midnight: clock.FrozenClock
) -> Iterator[Callable[..., FaultyAPI]]:
    """Start a simulated API for the given accounts and point the environment at it."""
    running: list[FaultyAPI] = []

    def start(*accounts: SimulatedAccount) -> FaultyAPI:
        api = FaultyAPI(accounts).__enter__()
        running.append(api)
        for name, value in {**api.environment(), "CREDITS_DATA_DIR": str(tmp_path / "data")}.items():
            monkeypatch.setenv(name, value)
        return api

    yield start
    for api in running:
        api.close()


@pytest.fixture
def run_job(instance: dg.DagsterInstance) -> Callable[..., dg.ExecuteInProcessResult]:
    """Run a job as the scheduler would, in this process."""
    from credits_pipeline.definitions import defs

    def run(name: str, **options: object) -> dg.ExecuteInProcessResult:
        if name == "daily_credits":
            options = {"partition_key": clock.today().isoformat(), **options}
        return defs.resolve_job_def(name).execute_in_process(
            instance=instance, raise_on_error=False, run_config={"loggers": {"console": {}}}, **options
        )

    return run
