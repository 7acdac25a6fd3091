"""A year unattended: Dagster's history, the warehouse and the memory of the process stay within bounds."""

import logging
import os
import sqlite3
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.remote_origin import InProcessCodeLocationOrigin
from dagster._core.scheduler.instigation import TickStatus
from dagster._core.test_utils import create_test_daemon_workspace_context
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from dagster._core.workspace.load_target import InProcessWorkspaceLoadTarget
from dagster._daemon.sensor import execute_sensor_iteration
from dagster._scheduler.scheduler import launch_scheduled_runs

from credits_pipeline import clock, config, launch
from credits_pipeline.defs import housekeeping
from credits_pipeline.simulator import SimulatedAccount
from credits_pipeline_tests.defs.test_daily_run import raw
from credits_pipeline_tests.faulty import Fault

BEGIN = datetime(2025, 3, 1, 12, tzinfo=UTC)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("CREDITS_DATA_DIR", str(tmp_path / "data"))
    return tmp_path / "home"


@dg.asset(partitions_def=dg.DailyPartitionsDefinition("2025-01-01"))
def small() -> None:
    print("said")


def happened(home: Path, run_id: str, at: datetime) -> None:
    """Dagster stamps a run with the machine's clock; here it is to have happened at another time."""
    with sqlite3.connect(home / "history" / "runs.db") as con:
        con.execute("update runs set create_timestamp = ? where run_id = ?", (f"{at:%Y-%m-%d %H:%M:%S.%f}", run_id))
    con.close()


def events(file: Path, run_id: str) -> int:
    with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as con:
        return int(con.execute("select count(*) from event_logs where run_id = ?", (run_id,)).fetchone()[0])


def traces(home: Path, run_id: str) -> dict[str, bool]:
    """What is left of a run."""
    history = home / "history" / "runs"
    is_there = (history / f"{run_id}.db").exists()
    return {
        "file": is_there,
        "events": is_there and events(history / f"{run_id}.db", run_id) > 0,
        "output": (home / "storage" / run_id).exists(),
        "materialized": events(history / "index.db", run_id) > 0,
    }


NIGHT = datetime(2026, 6, 17, 3, 0, tzinfo=UTC)


@pytest.fixture
def kept(home: Path) -> Iterator[dg.DagsterInstance]:
    """Dagster's history in `home`, in the night when it is swept."""
    with launch.open_instance(config.current()) as instance, clock.frozen(NIGHT):
        yield instance


def ran(instance: dg.DagsterInstance, home: Path, day: str, at: datetime, *, ours: bool = True) -> str:
    tags = {launch.instance.PROCESS_TAG: "here/1"} if ours else {}
    run_id = dg.materialize([small], partition_key=day, instance=instance, tags=tags).run_id
    happened(home, run_id, at)
    return run_id


def test_logs_go_after_two_months_runs_after_more_than_the_api_remembers_and_no_day_is_forgotten_before(home, kept):
    ages = {"yesterday": 1, "59 days": 59, "61 days": 61, "a year": 366, "401 days": 401}
    ended = {name: NIGHT - timedelta(days=days) for name, days in ages.items()}
    runs = {name: ran(kept, home, f"{at:%Y-%m-%d}", at) for name, at in ended.items()}
    assert housekeeping.sweep(kept) == (1, 2)
    assert housekeeping.sweep(kept) == (0, 0)
    assert kept.all_logs(runs["61 days"]) == [], "the page of a run that was seen before still opens"
    assert {run.run_id for run in kept.get_runs()} == set(runs.values()) - {runs["401 days"]}
    whole = {"file": True, "events": True, "output": True, "materialized": True}
    assert traces(home, runs["yesterday"]) == traces(home, runs["59 days"]) == whole
    only_known = {"file": True, "events": False, "output": False, "materialized": True}
    assert traces(home, runs["61 days"]) == traces(home, runs["a year"]) == only_known
    assert not any(traces(home, runs["401 days"]).values())
    days = kept.get_materialized_partitions(dg.AssetKey("small"))
    assert {"2026-06-16", "2026-04-17", "2025-06-16"} <= days


def test_of_hundreds_of_runs_a_day_the_newest_are_kept_whole_and_one_per_day_before(home, kept, monkeypatch):
    monkeypatch.setattr(housekeeping, "MOST_RUNS", 3)
    runs = [
        ran(kept, home, f"2026-06-{day}", NIGHT - timedelta(minutes=60 - number))
        for number, day in enumerate((15, 15, 16, 16, 16, 17, 17))
    ]
    assert housekeeping.sweep(kept) == (3, 1)
    assert housekeeping.sweep(kept) == (0, 0)
    days = kept.get_materialized_partitions(dg.AssetKey("small"))
    assert days == {"2026-06-15", "2026-06-16", "2026-06-17"}
    assert [traces(home, run)["events"] for run in runs] == [False, False, False, False, True, True, True]
    assert [traces(home, run)["file"] for run in runs] == [False, True, False, False, True, True, True]


def test_a_run_that_goes_on_and_one_of_another_project_are_left_alone_however_old(home, kept):
    job = dg.define_asset_job("rebuild").resolve(asset_graph=dg.Definitions([small]).resolve_asset_graph())
    run = kept.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED)
    happened(home, run.run_id, NIGHT - timedelta(days=500))
    theirs = ran(kept, home, "2025-01-02", NIGHT - timedelta(days=500), ours=False)
    assert housekeeping.housekeeping.execute_in_process(instance=kept).success
    assert kept.has_run(run.run_id)
    assert all(traces(home, theirs).values())


def size_mb(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


DAEMON = """
# The daemon works off what it finds in this process: Dagster's launcher for tests, everything else as installed.
run_launcher: {module: dagster._core.launcher.sync_in_memory_run_launcher, class: SyncInMemoryRunLauncher}
run_coordinator: {module: dagster._core.run_coordinator, class: DefaultRunCoordinator}
"""

# When the daemon looks at the schedules each night (UTC): half a minute after the time of each.
SCHEDULED = (time(0, 5, 30), time(1, 30, 30), time(2, 45, 30))
# And at the sensors. Once a day: 400 days of a look every 30 s would be a million looks, of 0.3 s each.
SENSED = time(12)
# At most, from the middle to the end. The data may grow: they are a year longer.
GROWTH = {"dagster_home_mb": 1.2, "data_mb": 1.5, "temporary_mb": 1.0, "memory_mb": 1.15}
# Of 8 s each on two free cores; or fewer for a quick look.
DAYS = int(os.environ.get("YEAR_DAYS", "400"))
OUTAGE_EVERY = 25  # nights from one on which the API fails to the next


def account() -> SimulatedAccount:
    """Two months of history and two years to come: two models every day, a top-up every five months."""
    first = BEGIN.date() - timedelta(days=60)
    usage = [{"vendor/a": Decimal("2.5") + n % 7, "vendor/b": Decimal("0.123456789")} for n in range(800)]
    ledger = {first + timedelta(days=n): models for n, models in enumerate(usage)}
    credits = [(datetime.combine(first, time(), UTC) + timedelta(days=150 * n), Decimal(900)) for n in range(5)]
    return SimulatedAccount.from_ledger("default", "sk-or-v1-simulated-default", days=ledger, credits=credits)


@pytest.mark.heavy
def test_a_year_of_schedules_and_sensors_leaves_bounded_files_and_memory(home, tmp_path, now, simulate, monkeypatch):
    """Dagster's own evaluation of all schedules and sensors, and of the purge of their ticks, by our clock."""
    now.set(BEGIN)
    monkeypatch.setattr("dagster._time._mockable_get_current_datetime", clock.now)
    monkeypatch.setattr("dagster._time._mockable_get_current_timestamp", lambda: clock.now().timestamp())
    api = simulate(account())
    log, due = logging.getLogger("daemon"), {}
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setattr(tempfile, "tempdir", None)
    settings = config.current()
    launch.instance.dagster_home(settings)
    with (home / "dagster.yaml").open("a", encoding="utf-8") as file:
        file.write(DAEMON)
    # Half of the days are to lie behind each limit, however few days there are: else nothing were seen of a bound.
    monkeypatch.setattr(housekeeping, "LOGS_KEPT", timedelta(days=60 * DAYS / 400))
    monkeypatch.setattr(housekeeping, "RUNS_KEPT", timedelta(days=DAYS / 2))
    module = {"module_name": "credits_pipeline.definitions", "attribute": "defs"}
    ours = LoadableTargetOrigin(executable_path=sys.executable, **module)
    target = InProcessWorkspaceLoadTarget(InProcessCodeLocationOrigin(ours, location_name="credits_pipeline"))
    figures: list[dict[str, float]] = []
    with (
        launch.open_instance(settings) as instance,
        create_test_daemon_workspace_context(target, instance) as process,
    ):
        list(launch_scheduled_runs(process, log, clock.now(), due))  # they count from when they are first seen
        for number in range(DAYS):
            night = BEGIN.date() + timedelta(days=number + 1)
            if number % OUTAGE_EVERY == OUTAGE_EVERY - 1:
                api.misbehave(Fault.status(500), times=None)
            for at in SCHEDULED:
                now.set(max(clock.now(), datetime.combine(night, at, UTC)))
                assert list(filter(None, launch_scheduled_runs(process, log, clock.now(), due))) == []
                api.behave()
            now.set(datetime.combine(night, SENSED, UTC))
            assert list(filter(None, execute_sensor_iteration(process, log, None, None))) == []
            if (number + 1) % max(DAYS // 40, 1) == 0:
                sizes = {"dagster_home": home, "data": settings.data_dir, "temporary": temporary}
                pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])  # held now: this can fall
                seen = {"days": number + 1, "memory_mb": pages * os.sysconf("SC_PAGE_SIZE") / 1e6}
                figures.append(seen | {f"{name}_mb": size_mb(folder) for name, folder in sizes.items()})
                print({name: round(value, 1) for name, value in figures[-1].items()}, flush=True)
        watching = instance.all_instigator_state(instigator_type=InstigatorType.SENSOR)
        ticks = Counter(
            (state.instigator_type, tick.status)
            for state in instance.all_instigator_state()
            for tick in instance.get_ticks(state.instigator_origin_id, state.selector_id)
        )
        outages = DAYS // OUTAGE_EVERY
        ran = Counter((run.job_name, run.is_success) for run in instance.get_runs())
    print(dict(ran), dict(ticks), flush=True)
    assert {job for job, _ in ran} == {"daily_credits", "backfill_history", "housekeeping"}
    assert TickStatus.FAILURE not in {status for _, status in ticks}, "no schedule and no sensor failed"
    skipped = ticks[InstigatorType.SENSOR, TickStatus.SKIPPED]
    assert skipped <= 3 * len(watching), "ticks that found nothing to do are kept for two days"
    half, last = figures[len(figures) // 2 - 1], figures[-1]
    for name, growth in GROWTH.items():
        assert last[name] < growth * half[name] + 1, name
    assert len(raw("from raw.credits_snapshots")) == DAYS - outages
    billed = raw(f"select usage_date from raw.model_usage_days where usage_date >= '{BEGIN.date()}'")
    assert len(billed) == len(set(billed)) == DAYS + 1
