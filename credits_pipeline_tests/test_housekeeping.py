"""A year unattended: Dagster's history, the warehouse and the memory of the process stay within bounds."""

import os
import resource
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest

from credits_pipeline import clock, config, housekeeping, launch
from credits_pipeline.simulator import SimulatedAPI
from credits_pipeline.warehouse import Warehouse
from credits_pipeline_tests.test_daily_run import spender

BEGIN = datetime(2025, 3, 1, 0, 5, tzinfo=UTC)


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
        con.execute(
            "update runs set create_timestamp = ? where run_id = ?", (f"{at:%Y-%m-%d %H:%M:%S.%f}", run_id)
        )
    con.close()


def events(file: Path, run_id: str) -> int:
    if not file.exists():
        return -1
    with closing(sqlite3.connect(file)) as con:
        count = con.execute("select count(*) from event_logs where run_id = ?", (run_id,)).fetchall()[0][0]
    return int(count)


def traces(home: Path, run_id: str) -> dict[str, bool]:
    """What is left of a run."""
    history = home / "history" / "runs"
    return {
        "file": (history / f"{run_id}.db").exists(),
        "events": events(history / f"{run_id}.db", run_id) > 0,
        "output": (home / "storage" / run_id).exists(),
        "materialized": events(history / "index.db", run_id) > 0,
    }


def test_logs_go_after_two_months_runs_after_more_than_the_api_remembers_and_no_day_is_forgotten_before(
    home: Path,
) -> None:
    ages = {"yesterday": 1, "59 days": 59, "61 days": 61, "a year": 366, "401 days": 401}
    now = datetime(2026, 6, 17, 3, 0, tzinfo=UTC)
    with launch.instance(config.load(os.environ)) as instance, clock.frozen(now):
        runs = {}
        for name, days in ages.items():
            at = now - timedelta(days=days)
            runs[name] = dg.materialize([small], partition_key=f"{at:%Y-%m-%d}", instance=instance).run_id
            happened(home, runs[name], at)
        assert housekeeping.sweep(instance) == housekeeping.Swept(runs=1, logs=2)
        assert housekeeping.sweep(instance) == housekeeping.Swept(runs=0, logs=0)
        assert instance.all_logs(runs["61 days"]) == [], "the page of a run that was seen before still opens"
        kept = instance.get_materialized_partitions(dg.AssetKey("small"))
        assert {run.run_id for run in instance.get_runs()} == set(runs.values()) - {runs["401 days"]}
    whole = {"file": True, "events": True, "output": True, "materialized": True}
    assert traces(home, runs["yesterday"]) == traces(home, runs["59 days"]) == whole
    only_known = {"file": True, "events": False, "output": False, "materialized": True}
    assert traces(home, runs["61 days"]) == traces(home, runs["a year"]) == only_known
    assert not any(traces(home, runs["401 days"]).values())
    assert {"2026-06-16", "2026-04-17", "2025-06-16"} <= kept


def test_a_run_that_goes_on_is_left_alone_however_old(home: Path) -> None:
    now = datetime(2026, 6, 17, 3, 0, tzinfo=UTC)
    with launch.instance(config.load(os.environ)) as instance, clock.frozen(now):
        job = dg.define_asset_job("job").resolve(asset_graph=dg.Definitions([small]).resolve_asset_graph())
        run = instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED)
        happened(home, run.run_id, now - timedelta(days=500))
        assert housekeeping.sweep(instance) == housekeeping.Swept(runs=0, logs=0)
        assert instance.has_run(run.run_id)


def test_the_job_does_it_by_schedule_every_night(home: Path) -> None:
    with launch.instance(config.load(os.environ)) as instance:
        assert housekeeping.housekeeping.execute_in_process(instance=instance).success
    assert housekeeping.housekeeping_schedule.default_status == dg.DefaultScheduleStatus.RUNNING


def size_mb(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


@pytest.fixture
def days() -> int:
    """400, or fewer for a quick look: YEAR_DAYS=40."""
    return int(os.environ.get("YEAR_DAYS", "400"))


@pytest.fixture
def a_year(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[clock.FrozenClock]:
    with clock.frozen(BEGIN) as held, SimulatedAPI([spender(days=900)]) as api:
        for name, value in api.environment().items():
            monkeypatch.setenv(name, value)
        yield held


@pytest.mark.heavy
def test_400_daily_runs_leave_bounded_files_and_memory(
    home: Path, tmp_path: Path, a_year: clock.FrozenClock, days: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setattr(tempfile, "tempdir", None)
    settings = config.load(os.environ)
    # A quarter of the days is to lie behind each limit, however few days there are.
    monkeypatch.setattr(housekeeping, "LOGS_KEPT", timedelta(days=60 * days / 400))
    monkeypatch.setattr(housekeeping, "RUNS_KEPT", timedelta(days=days / 2))
    figures = []
    with launch.instance(settings) as instance:
        for number in range(1, days + 1):
            assert launch.run_job(instance, "daily_credits", partition=clock.today().isoformat())
            (newest,) = instance.get_runs(limit=1)
            happened(home, newest.run_id, clock.now())
            a_year.advance(timedelta(days=1))
            housekeeping.sweep(instance)
            if number % (days // 4) == 0:
                figures.append(
                    {
                        "runs": number,
                        "dagster_home_mb": round(size_mb(home), 1),
                        "warehouse_mb": round(size_mb(settings.data_dir), 1),
                        "temporary_mb": round(size_mb(temporary), 1),
                        "memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
                    }
                )
                print(figures[-1], flush=True)
    half, _, last = figures[1:]
    assert last["dagster_home_mb"] < 1.3 * half["dagster_home_mb"]
    assert last["temporary_mb"] < 1
    assert last["memory_mb"] < 1.3 * half["memory_mb"]
    with Warehouse(settings.warehouse_path).reading() as con:
        assert con.execute("select count(*) from raw.credits_snapshots").fetchall() == [(days,)]
