"""The two sensors: a run that failed is reported once per reason, data that stop coming once until they come again."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.remote_origin import ManagedGrpcPythonEnvCodeLocationOrigin
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin

from credits_pipeline import clock
from credits_pipeline.defs import sensors
from credits_pipeline.launch.instance import PROCESS_TAG, sign_of_life
from credits_pipeline.warehouse import Reading, Warehouse
from credits_pipeline_tests.conftest import NOW
from credits_pipeline_tests.receiver import Receiver

KEY = "sk-or-v1-of-a-test"


@dataclass(frozen=True)
class Told:
    """What went out, as `ops.alerts_sent` has it."""

    warehouse: Warehouse

    titles = property(lambda self: self._alerts("title"))
    bodies = property(lambda self: self._alerts("body"))

    def _alerts(self, column: str) -> list[str]:
        with self.warehouse.reading() as con:
            return [text for (text,) in con.execute(f"select {column} from ops.alerts_sent order by rowid").fetchall()]


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Told:
    """An environment with one account, and no channel but the log."""
    monkeypatch.setenv("OPENROUTER_API_KEY", KEY)
    monkeypatch.setenv("CREDITS_DATA_DIR", str(tmp_path / "data"))
    return Told(Warehouse(tmp_path / "data" / "warehouse.duckdb", lock_timeout_s=5))


@pytest.fixture
def receiver(told: Told, monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    """The same environment with a channel."""
    with Receiver() as running:
        monkeypatch.setenv("CREDITS_ALERT_URLS", running.url("/a"))
        yield running


mood = {"reason": "the key of acme was rejected (401): make a new one"}


@dg.asset
def readings() -> None:
    if mood["reason"]:
        raise dg.Failure(mood["reason"], allow_retries=False)


@dg.asset
def careless() -> None:
    raise ValueError("no such day: 2026-02-30\nsecond line")


JOBS = dg.Definitions(
    assets=[readings, careless],
    jobs=[
        dg.define_asset_job(name, selection=[asset])
        for name, asset in (("daily", readings), ("weekly", readings), ("careless_job", careless))
    ],
)


def sense(result: dg.ExecuteInProcessResult, instance: dg.DagsterInstance) -> None:
    """What the daemon does about a run that failed: evaluate the sensor for it."""
    context = dg.build_run_status_sensor_context(
        sensor_name="run_failure",
        dagster_event=result.get_run_failure_event(),
        dagster_instance=instance,
        dagster_run=result.dagster_run,
        repository_def=JOBS.get_repository_def(),
    )
    sensors.run_failure(context.for_run_failure())


@pytest.fixture
def report(instance: dg.DagsterInstance, told: Told) -> Iterator[Callable[..., None]]:
    """Run a job, and where it fails do what the daemon does."""

    def run(job: str, **options: Any) -> None:
        result = JOBS.resolve_job_def(job).execute_in_process(instance=instance, raise_on_error=False, **options)
        if not result.success:
            sense(result, instance)

    reason = mood["reason"]
    yield run
    mood["reason"] = reason


def test_a_failed_run_is_reported_with_the_job_or_assets_and_the_first_line_of_each_failed_step(report, told):
    report("daily")
    report("careless_job")
    report("__ASSET_JOB", asset_selection=[dg.AssetKey("readings")])  # materialized by hand
    assert told.titles == [f"The run of {what} failed" for what in ("daily", "careless_job", "readings")]
    daily, careless_job, _ = told.bodies
    assert "- readings: the key of acme was rejected (401): make a new one" in daily
    assert "- careless: ValueError: no such day: 2026-02-30" in careless_job
    assert "Traceback" not in careless_job
    assert "second line" not in careless_job


def test_the_same_failure_of_a_job_is_told_once_until_a_run_succeeded_or_another_reason_came(report, told):
    for day in range(3):
        mood["reason"] = f"the key was rejected on 2026-06-1{day}"
        report("daily")
    assert told.titles == ["The run of daily failed"]
    report("weekly")
    mood["reason"] = "the API answers 503"
    report("daily")
    assert told.titles[1:] == ["The run of weekly failed", "The run of daily failed"]
    for reason in ("", mood["reason"]):
        mood["reason"] = reason
        report("daily")
    assert told.titles[3:] == ["The run of daily failed"]


def test_a_run_that_is_tried_again_is_told_once_the_last_try_has_failed(report, instance, told, monkeypatch):
    monkeypatch.setattr(type(instance), "run_retries_enabled", True)  # as dagster.yaml has it
    for tries in ({"dagster/max_retries": "1"}, {"dagster/max_retries": "0"}):
        report("daily", tags=tries)
        assert len(told.titles) == (tries["dagster/max_retries"] == "0")


def test_a_failure_that_lasts_is_told_once_a_day(report, told):
    with clock.frozen(datetime.now(UTC)) as now:
        for _ in range(5):
            report("daily")
            now.advance(timedelta(hours=10))
    assert len(told.titles) == 2


@pytest.mark.parametrize("in_the_way", ["data", "data/warehouse.duckdb"])
def test_a_failure_is_told_also_when_data_directory_or_warehouse_are_what_fails(report, receiver, tmp_path, in_the_way):
    (tmp_path / in_the_way).parent.mkdir(exist_ok=True)
    (tmp_path / in_the_way).write_bytes(b"junk" * 10_000)
    report("daily")
    assert receiver.titles == ["The run of daily failed"]


class Watch:
    """The sensor as the daemon ticks it: with its cursor kept, and a program that forgets everything else."""

    def __init__(self, instance: dg.DagsterInstance, warehouse: Warehouse) -> None:
        self.instance, self.warehouse, self.cursor = instance, warehouse, None

    def tick(self) -> str:
        context = dg.build_sensor_context(instance=self.instance, cursor=self.cursor)
        result = sensors.stale_data(context)
        self.cursor = context.cursor
        assert isinstance(result, dg.SkipReason)
        return result.skip_message or ""

    def read(self, account: str = "default") -> None:
        now = clock.now()
        self.warehouse.append_readings([Reading(account, now.date(), now, Decimal(100), Decimal(50), "0123", "run")])


@pytest.fixture
def watch(instance: dg.DagsterInstance, told: Told, now: clock.FrozenClock) -> Watch:
    return Watch(instance, told.warehouse)


def test_data_older_than_36_hours_are_reported_once_until_there_is_a_new_reading(watch, told, now):
    watch.read()
    for hours, times in [(36, 0), (1, 1), (1, 1), (40, 1)]:
        now.advance(timedelta(hours=hours))
        watch.tick()
        assert len(told.titles) == times
    watch.read()
    assert watch.tick() == "no account with a key has gone without a reading for 36 hours"
    now.advance(timedelta(hours=37))
    assert watch.tick() == "no new reading for 36 hours: default"
    assert told.titles == ["default: no new reading for 37 hours"] * 2
    assert "latest reading of default is from 17 Jun 2026 00:05 UTC, 37 hours ago" in told.bodies[0]
    assert "Check that the Dagster daemon is running, that the schedule daily_credits is on" in told.bodies[0]


def test_a_weekend_without_readings_is_no_alarm_where_none_are_scheduled(watch, told, now, monkeypatch):
    monkeypatch.setenv("CREDITS_SNAPSHOT_CRON", "5 0 * * mon-fri")
    now.set(datetime(2026, 6, 19, 0, 5, tzinfo=UTC))  # a Friday
    watch.read()
    now.set(datetime(2026, 6, 22, 0, 4, tzinfo=UTC))
    assert watch.tick() == "no account with a key has gone without a reading for 84 hours"
    now.advance(timedelta(hours=13))
    watch.tick()
    assert told.titles == ["default: no new reading for 84 hours"]


def test_it_says_to_look_at_the_key_when_the_other_accounts_are_read(watch, told, now, monkeypatch):
    monkeypatch.setenv("OPENROUTER_API_KEY_ACME", KEY + "-acme")
    watch.read("acme")
    now.advance(timedelta(hours=37))
    watch.read()
    watch.tick()
    assert told.titles == ["acme: no new reading for 37 hours"]
    assert "check this account's key first" in told.bodies[0]


def test_an_account_that_was_never_read_is_reported_36_hours_after_it_was_first_seen(watch, told, now):
    for hours, told_of in ((0, 0), (37, 1), (0, 1)):
        now.advance(timedelta(hours=hours))
        watch.tick()
        assert json.loads(watch.cursor or "") == {"default": NOW.isoformat()}
        assert told.titles == ["default: no new reading for 37 hours"] * told_of
    assert "default has never been read since it was set up 37 hours ago" in told.bodies[0]


def test_a_tick_delivers_what_a_channel_had_not_taken(watch, receiver, now):
    receiver.refusing.add("/a")
    watch.read()
    now.advance(timedelta(hours=37))
    watch.tick()
    receiver.refusing.clear()
    now.advance(timedelta(minutes=10))
    watch.tick()
    watch.tick()
    assert len(receiver.messages) == 1


def test_a_tick_over_a_damaged_warehouse_says_why_it_could_not_look(watch, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "warehouse.duckdb").write_bytes(b"junk" * 10_000)
    assert watch.tick().startswith("could not look: ")


def test_a_run_from_the_command_line_that_fails_is_reported_by_the_daemon(instance, told, now):
    daemons_place = ManagedGrpcPythonEnvCodeLocationOrigin(
        LoadableTargetOrigin(module_name="credits_pipeline.definitions"), location_name="credits_pipeline"
    )

    def tick(cursor: str | None) -> str | None:
        context = dg.SensorEvaluationContext(
            instance_ref=None, instance=instance, cursor=cursor, sensor_name="run_failure",
            repository_def=JOBS.get_repository_def(), repository_name="__repository__",
            code_location_origin=daemons_place,
        )  # fmt: skip
        sensors.run_failure.evaluate_tick(context)
        return context.cursor

    cursor = tick(None)
    JOBS.resolve_job_def("daily").execute_in_process(instance=instance, raise_on_error=False)
    tick(cursor)
    assert told.titles == ["The run of daily failed"]


def test_failed_runs_of_another_project_in_the_same_history_are_none_of_our_alerts(instance, told):
    @dg.asset
    def theirs() -> None:
        raise dg.Failure("no")

    others = dg.Definitions([theirs], jobs=[dg.define_asset_job("their_job", selection=[theirs])])
    for job in ("their_job", "__ASSET_JOB"):
        sense(others.resolve_job_def(job).execute_in_process(instance=instance, raise_on_error=False), instance)
    assert told.titles == []


KILLED = """
import os, pathlib, socket, sys
socket.gethostname = lambda: "the-container-before"  # made anew after a kill, it has another name
from credits_pipeline.launch.instance import sign_of_life

print(sign_of_life(pathlib.Path(sys.argv[1]), os.getpid()), flush=True)
os.kill(os.getpid(), 9)
"""


def test_a_run_whose_process_died_is_ended_whatever_its_host_was_called_and_no_other_is(instance):
    home = Path(instance.root_directory)
    killed = subprocess.run([sys.executable, "-c", KILLED, home], capture_output=True, text=True, check=False)
    signed = {
        "dead": {PROCESS_TAG: killed.stdout.strip()},
        "alive": {PROCESS_TAG: sign_of_life(home, os.getpid())},
        "another project's": {},
    }
    daily = JOBS.resolve_job_def("daily")
    runs = {name: instance.create_run_for_job(daily, tags=tags) for name, tags in signed.items()}
    for run in runs.values():
        started = dg.DagsterEvent(dg.DagsterEventType.RUN_START.value, job_name="daily")
        instance.report_dagster_event(started, run.run_id)
    with dg.build_sensor_context(instance) as context:
        said = sensors.dead_runs(context)
    assert said.skip_message == f"marked as failed: {runs['dead'].run_id}"
    states = {name: instance.get_run_by_id(run.run_id).status.value for name, run in runs.items()}
    assert states == {"dead": "FAILURE", "alive": "STARTED", "another project's": "STARTED"}
