"""Keep Dagster's own history from growing for ever: a job, its schedule, and the function behind both.

Measured: a daily run leaves 2.6 MB in a file of its own with every event of the run, and 0.9 MB in the index of what
was materialized. That file is emptied and the run's captured output removed after two months. The run, and which
partitions it filled, stay longer than the API remembers a day, so that the bars of partitions in the UI never show
a day as missing that could still be asked for. Ticks are Dagster's own to purge (`retention` in dagster.yaml). The
figures themselves are in DuckDB: none of them is touched here.
"""

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

import dagster as dg

from credits_pipeline import clock
from credits_pipeline.launch.runs import is_ours

LOGS_KEPT: Final = timedelta(days=60)
"""Events and output of a run: for looking into what went wrong, which is done soon or never."""

RUNS_KEPT: Final = timedelta(days=400)
"""Runs and what they materialized: longer than the 365 days that the API can be asked for."""

LOCK_WAIT_S: Final = 20
"""For the web server, should it be reading just that run."""

ENDED: Final = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED]


@dataclass(frozen=True)
class Swept:
    """How many runs were forgotten, and of how many others the logs were removed."""

    runs: int
    logs: int


def sweep(instance: dg.DagsterInstance) -> Swept:
    """Remove what is older than the limits from this project's history. Doing it twice is the same as once."""
    forgotten = ended_before(instance, clock.now() - RUNS_KEPT)
    for run_id in forgotten:
        forget_checks(instance, run_id)
        instance.delete_run(run_id)
        remove_logs(instance, run_id)
        if file := events_file(instance, run_id):
            for suffix in ("", "-wal", "-shm"):
                file.with_name(file.name + suffix).unlink(missing_ok=True)
    old = ended_before(instance, clock.now() - LOGS_KEPT)
    return Swept(runs=len(forgotten), logs=sum(remove_logs(instance, run_id) for run_id in old))


def ended_before(instance: dg.DagsterInstance, limit_at: datetime) -> list[str]:
    """This project's runs made before an instant, except those that may still be going on."""
    ended = instance.get_runs(dg.RunsFilter(created_before=limit_at, statuses=ENDED))
    return [run.run_id for run in ended if is_ours(run)]


def remove_logs(instance: dg.DagsterInstance, run_id: str) -> bool:
    """Remove a run's events and output; what it materialized is in another file, which stays. False if it was done."""
    instance.compute_log_manager.delete_logs(prefix=[run_id])
    file = events_file(instance, run_id)
    if file is None or not file.exists():
        return False
    # Emptied, not removed: a web server that has shown the run before would find no table and fail at the page.
    with closing(sqlite3.connect(file, timeout=LOCK_WAIT_S)) as con:
        removed = con.execute("delete from event_logs").rowcount
        con.commit()
        if removed:
            con.execute("vacuum")
    return removed > 0


def events_file(instance: dg.DagsterInstance, run_id: str) -> Path | None:
    """Where a run's events are; None in other databases, which keep those of all runs in one table."""
    from dagster._core.storage.event_log.sqlite import SqliteEventLogStorage

    storage = instance.event_log_storage
    return Path(storage.path_for_shard(run_id)) if isinstance(storage, SqliteEventLogStorage) else None


def forget_checks(instance: dg.DagsterInstance, run_id: str) -> None:
    """Dagster forgets the results of checks with their asset only, so those of a run stay behind when it goes."""
    from dagster._core.storage.event_log.schema import AssetCheckExecutionsTable
    from dagster._core.storage.event_log.sqlite import SqliteEventLogStorage

    storage = instance.event_log_storage
    if isinstance(storage, SqliteEventLogStorage):
        with storage.index_connection() as con:
            con.execute(
                AssetCheckExecutionsTable.delete().where(AssetCheckExecutionsTable.c.run_id == run_id)
            )


@dg.op(description="Removes what is older than the limits from Dagster's history.")
def remove_old_history(context: dg.OpExecutionContext) -> None:
    swept = sweep(context.instance)
    context.log.info(f"{swept.runs} runs forgotten, the logs of {swept.logs} others removed")


@dg.job(description=f"Forgets logs after {LOGS_KEPT.days} days and runs after {RUNS_KEPT.days}.")
def housekeeping() -> None:
    remove_old_history()


housekeeping_schedule = dg.ScheduleDefinition(
    name="housekeeping",
    job=housekeeping,
    cron_schedule="45 2 * * *",  # after the night's readings and history
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.RUNNING,
)

JOBS = [housekeeping]
SCHEDULES = [housekeeping_schedule]
