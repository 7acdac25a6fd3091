"""Keep Dagster's own history from growing for ever: a job, its schedule, and the function behind both.

Measured: a daily run leaves 2.6 MB in a file of its own with every event of the run, and 0.9 MB in the index of what
was materialized. Ticks are Dagster's own to purge (`retention` in dagster.yaml).
"""

from datetime import timedelta
from typing import Final

import dagster as dg

from credits_pipeline import clock, config
from credits_pipeline.launch.instance import is_ours

LOGS_KEPT: Final = timedelta(days=60)
"""Events and output of a run: for looking into what went wrong, which is done soon or never."""

RUNS_KEPT: Final = timedelta(days=400)
"""Runs, and which partitions they filled: longer than the 365 days that the API can be asked for, so that the UI
shows no day as missing that could still be fetched."""

MOST_RUNS: Final = 500
"""Kept whole within those limits: five months of three runs a night, two days of one every five minutes. Of older ones
one per job, day and outcome is kept."""

ENDED: Final = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED]


def sweep(instance: dg.DagsterInstance) -> tuple[int, int]:
    """Remove what is beyond the limits from this project's history. Doing it twice is the same as once.

    Returns how many runs were forgotten, and of how many others the logs were removed.
    """
    from credits_pipeline.launch.history import EventLog  # here, for it needs SQLAlchemy

    runs = [record for record in instance.get_run_records(dg.RunsFilter(statuses=ENDED)) if is_ours(record.dagster_run)]
    kinds: set[object] = set()
    forgotten = logs = 0
    for number, record in enumerate(runs):  # the newest first
        run, age = record.dagster_run, clock.now() - record.create_timestamp
        tags = {name: value for name, value in run.tags.items() if "partition" in name}
        kind = (run.job_name, run.asset_selection, run.status, *sorted(tags.items()))
        if age > RUNS_KEPT or (number >= MOST_RUNS and kind in kinds):
            instance.compute_log_manager.delete_logs(prefix=[run.run_id])
            instance.delete_run(run.run_id)
            forgotten += 1
        elif age > LOGS_KEPT or number >= MOST_RUNS:
            instance.compute_log_manager.delete_logs(prefix=[run.run_id])
            if isinstance(instance.event_log_storage, EventLog):
                logs += instance.event_log_storage.delete_logs(run.run_id)
        kinds.add(kind)
    return forgotten, logs


@dg.op(description="Removes what is beyond the limits from Dagster's history.")
def remove_old_history(context: dg.OpExecutionContext) -> None:
    context.log.info("{} runs forgotten, the logs of {} others removed".format(*sweep(context.instance)))


@dg.op(
    description="Of a lake: joins small files, removes those that no state of a week and no `credits.duckdb` names.",
    pool="warehouse",
)
def tidy_lake() -> None:
    from credits_pipeline.warehouse.lake import Lake

    Lake(config.current()).tidy()


@dg.job(
    description=f"Forgets logs after {LOGS_KEPT.days} days and runs after {RUNS_KEPT.days}, and beyond the newest "
    f"{MOST_RUNS} runs all but one per job and day."
)
def housekeeping() -> None:
    remove_old_history()
    if config.current().lake:
        tidy_lake()


housekeeping_schedule = dg.ScheduleDefinition(
    name="housekeeping",
    job=housekeeping,
    cron_schedule="45 2 * * *",  # after the night's readings and history
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.RUNNING,
)
