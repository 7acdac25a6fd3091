"""Sensors for what a run cannot report itself: that it failed, that it was killed, or that it never happened.

They run in the Dagster daemon: without it (`make run` from cron, say) nothing watches.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

import dagster as dg

from credits_pipeline import clock, config
from credits_pipeline.alerts.due import Changes, by_age
from credits_pipeline.alerts.memory import Alert
from credits_pipeline.alerts.messages import message
from credits_pipeline.alerts.notify import notify, send_without_memory
from credits_pipeline.errors import CreditsError
from credits_pipeline.launch.instance import end_dead_runs
from credits_pipeline.launch.runs import reason
from credits_pipeline.warehouse import Connection, Tables, open_warehouse

LOCK_WAIT_S: Final = 20
"""A sensor's tick may take 60 s, sending included: if the warehouse is held longer, the next tick tries again."""
REMIND_AFTER: Final = timedelta(hours=24)
"""A job that keeps failing for the same reason is reported again after this, not at every run."""
STALE_EVERY_S: Final = 600
"""Short against the day and a half after which data are stale; also how soon a channel that failed is tried again."""
DEAD_EVERY_S: Final = 60
"""How long other runs wait for one whose process is gone."""
MOST_REASONS: Final = 5
"""Failed steps named in one message: the first is usually the cause, the others its consequences."""


@dg.run_failure_sensor(
    name="run_failure",
    default_status=dg.DefaultSensorStatus.RUNNING,
    monitor_all_code_locations=True,  # a run from the command line belongs to none
    description="Sends an alert for a run that failed, whatever the job and whoever started it, with what its failed "
    "steps said; of a run that Dagster tries again, once the last try has failed. A job that fails again for the same "
    "reason is reported once a day until it has succeeded.",
)
def run_failure(context: dg.RunFailureSensorContext) -> dg.SkipReason | None:
    instance = context.instance
    run = instance.get_run_by_id(context.dagster_run.run_id) or context.dagster_run
    if context.repository_def and not belongs_to(run, context.repository_def):
        return dg.SkipReason("a run of another project that shares this DAGSTER_HOME")
    if run.tags.get("dagster/will_retry") == "true":
        return dg.SkipReason("Dagster tries this run again: only the last try is reported")
    alert = failure_alert(context)

    def detect(_: Connection, active: Sequence[Alert], settings: config.Settings) -> Changes:
        resolved = (a.key for a in active if a.kind == "run_failed" and is_resolved(instance, a))
        return Changes((alert,), frozenset(resolved))

    settings = config.current()
    try:
        warehouse = open_warehouse(settings, lock_timeout_s=LOCK_WAIT_S)
        notify(settings, warehouse, detect, run_id=run.run_id, log=context.log)
    except (CreditsError, OSError) as error:
        # A full disk or a damaged warehouse may be why the run failed: this alert then matters most.
        context.log.warning(f"this alert is not remembered: {error}")
        send_without_memory(settings, alert, log=context.log)
    return None


@dg.sensor(
    name="stale_data",
    minimum_interval_seconds=STALE_EVERY_S,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Sends one alert when an account's latest reading is older than the schedule explains (36 hours for a "
    "daily one), and no more until there is a new one. Also retries alerts that a channel did not accept.",
)
def stale_data(context: dg.SensorEvaluationContext) -> dg.SkipReason:
    settings, watched = config.current(), json.loads(context.cursor or "{}")
    limit, read, old = settings.stale_after, dict[str, datetime](), list[str]()

    def detect(_: Connection, active: Sequence[Alert], settings: config.Settings) -> Changes:
        found = by_age(read, active, settings, watched, limit)
        old.extend(str(alert.account) for alert in found.due)
        return found

    try:
        warehouse = open_warehouse(settings, lock_timeout_s=LOCK_WAIT_S)
        for part in warehouse.each(Tables.read_at):
            read |= part
        notify(settings, warehouse, detect, log=context.log)
    except (CreditsError, OSError) as failed:
        return dg.SkipReason(f"could not look: {failed}")
    context.update_cursor(json.dumps(watched))
    hours = f"{limit / timedelta(hours=1):g} hours"
    late = f"no new reading for {hours}: {', '.join(old)}"
    return dg.SkipReason(late if old else f"no account with a key has gone without a reading for {hours}")


@dg.sensor(
    name="dead_runs",
    minimum_interval_seconds=DEAD_EVERY_S,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Marks as failed the runs whose process was killed or lost in a power cut. Otherwise they would count "
    "as running for hours and block every other run.",
)
def dead_runs(context: dg.SensorEvaluationContext) -> dg.SkipReason:
    ended = end_dead_runs(context.instance)
    return dg.SkipReason(f"marked as failed: {', '.join(ended)}" if ended else "every run in progress has its process")


SENSORS = [run_failure, stale_data, dead_runs]


def belongs_to(run: dg.DagsterRun, project: dg.RepositoryDefinition) -> bool:
    """Whether a run belongs to the project; for assets materialized by hand, whose job is nameless, whether they do."""
    if run.job_name.startswith("__"):
        return bool((run.asset_selection or frozenset()) & project.asset_graph.get_all_asset_keys())
    return project.has_job(run.job_name)


def failure_alert(context: dg.RunFailureSensorContext) -> Alert:
    """The alert about a failed run; its key is the job and the reasons, so that a repetition is known as one."""
    run, events = context.dagster_run, context.get_step_failure_events()
    said = [f"{event.step_key}: {reason(event).strip()}" for event in events]
    said = said or [(context.failure_event.message or "no reason given").strip()]
    reasons = [text.partition("\n")[0] for text in said[:MOST_REASONS]]
    record = context.instance.get_run_record_by_id(run.run_id)
    at = datetime.fromtimestamp(record.end_time, UTC) if record and record.end_time else clock.now()
    # The same for the same reasons, whatever days, counts and run ids they name.
    gist = re.sub(r"[0-9a-f-]*[0-9][0-9a-f-]*", "#", "\n".join(reasons))
    key = f"run_failed/{run.job_name}/{hashlib.sha256(gist.encode()).hexdigest()[:12]}"
    return Alert(key, "run_failed", *message("run_failed", what_ran(run), run.run_id, at, reasons))


def what_ran(run: dg.DagsterRun) -> str:
    """The job's name; for assets materialized by hand, which Dagster runs in a nameless job, the assets' names."""
    if not run.job_name.startswith("__"):
        return run.job_name
    return ", ".join(sorted(key.to_user_string() for key in run.asset_selection or ())) or "assets"


def is_resolved(instance: dg.DagsterInstance, alert: Alert) -> bool:
    """Whether a reported failure may be reported again: a day later, or when its job has succeeded since."""
    told_at = alert.due_at.replace(tzinfo=UTC) if alert.due_at else clock.now()
    succeeded = dg.RunsFilter(
        job_name=alert.key.split("/")[1], statuses=[dg.DagsterRunStatus.SUCCESS], updated_after=told_at
    )
    return clock.now() - told_at >= REMIND_AFTER or instance.get_runs_count(succeeded) > 0
