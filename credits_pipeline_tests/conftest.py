"""Shared fixtures: a simulated API, an environment that points at it, a Dagster instance, a clock in the past."""

import os
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime
from pathlib import Path

import dagster as dg
import hypothesis
import pytest
from dagster._core.storage.event_log import InMemoryEventLogStorage

from credits_pipeline import clock
from credits_pipeline.launch.history import PlansOnce
from credits_pipeline.simulator import SimulatedAccount
from credits_pipeline.warehouse import Warehouse
from credits_pipeline_tests.faulty import FaultyAPI

# A Wednesday whose whole year before it lies after the default CREDITS_START_DATE.
TODAY = date(2026, 6, 17)
NOW = datetime(2026, 6, 17, 0, 5, tzinfo=UTC)

with clock.frozen(NOW):  # which days are partitions is decided once
    import credits_pipeline.defs.partitions  # noqa: F401


# A test on a busy machine is slow, not wrong; and nothing is left in the folder that it is run from.
hypothesis.settings.register_profile("ours", deadline=None, database=None)
hypothesis.settings.load_profile("ours")

# Many real processes, kills, nights of runs and second computations: minutes of them, so `make test-slow` and CI run
# these. What each of them promises has a quick test as well, or is a story of many runs.
SLOW = {
    *("test_alerts", "test_dbt_parity", "test_faults", "test_housekeeping", "test_keys", "test_readers"),
    *("test_recipes", "test_recovery", "test_publish", "test_secrets", "test_sensors", "test_what_people_read"),
    # Single tests of other modules:
    "test_a_backfill_of_a_range_fetches_that_range",
    "test_a_bill_that_moved_is_shown_in_the_metadata",
    "test_a_daily_run_that_failed_is_run_again_later_and_later_while_the_day_lasts",
    "test_a_renamed_account_keeps_its_history_under_its_new_name",
    "test_a_run_that_crosses_midnight_is_refused_and_the_next_one_heals_it",
    "test_a_run_twice_a_day_appends_two_honest_readings",
    "test_an_asset_check_can_be_run_without_building_its_model",
    "test_nothing_is_rebuilt_while_a_backfill_from_the_ui_goes_on",
    "test_paths_on_the_command_line_may_begin_with_a_tilde",
    "test_readings_logged_earlier_become_history",
    "test_the_first_thing_done_by_hand_is_followed_by_a_rebuild_that_finds_all_tables",
    "test_the_same_input_gives_the_same_rows_in_any_order_and_with_any_number_of_threads",
    "test_the_schedule_asks_for_the_whole_year_of_an_account_added_later",
    "test_what_cannot_be_shown_of_a_table_costs_neither_the_table_nor_its_checks",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if not SLOW.isdisjoint((item.path.stem, item.name.partition("[")[0])):
            item.add_marker(pytest.mark.slow)
        if item.path.parent.name == "cluster":
            item.add_marker(pytest.mark.cluster)


@pytest.fixture(autouse=True)
def _no_settings_of_the_developer(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees a real key, a real data directory or a real Dagster home."""
    for name in [name for name in os.environ if name.startswith(("OPENROUTER_", "CREDITS_", "DAGSTER_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("CREDITS_ENV_FILE", "")


@pytest.fixture
def now() -> Iterator[clock.FrozenClock]:
    with clock.frozen(NOW) as held:
        yield held


class InMemoryLog(PlansOnce, InMemoryEventLogStorage):
    """Plans a run of a year as our log does: Dagster's own would take two minutes for it."""


@pytest.fixture
def instance(monkeypatch: pytest.MonkeyPatch) -> Iterator[dg.DagsterInstance]:
    monkeypatch.setattr("dagster._core.storage.event_log.InMemoryEventLogStorage", InMemoryLog)
    with dg.DagsterInstance.ephemeral() as held:
        yield held


@pytest.fixture
def warehouse(tmp_path: Path) -> Warehouse:
    return Warehouse(tmp_path / "data" / "warehouse.duckdb", lock_timeout_s=5)


@pytest.fixture
def simulate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, now: clock.FrozenClock
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
