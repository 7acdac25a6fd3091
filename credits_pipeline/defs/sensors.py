"""Sensors for what a run cannot report itself: that it failed, that it was killed, or that it never happened.

They run in the Dagster daemon: without it (`make run` from cron, say) nothing watches.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

import dagster as dg

from credits_pipeline import clock, config, wording
from credits_pipeline.launch.runs import end_dead_runs, reason
from credits_pipeline.warehouse import Warehouse, WarehouseError

if TYPE_CHECKING:
    import duckdb

    from credits_pipeline.alerts import notify as alerts

LOCK_WAIT_S: Final = 20
"""A sensor's tick may take 60 s, sending included: if the warehouse is held longer, the next tick tries again."""

REMIND_AFTER: Final = timedelta(hours=24)
"""A job that keeps failing for the same reason is reported again after this, not at every run."""

STALE_EVERY_S: Final = 600
"""Short against the limit of 36 h; also how soon a channel that failed is tried again."""

DEAD_EVERY_S: Final = 60
"""How long other runs wait for one whose process is gone."""

MOST_REASONS: Final = 5
"""Failed steps and checks named in one message: the first is usually the cause, the others its consequences."""


@dg.run_failure_sensor(
    name="run_failure",
    default_status=dg.DefaultSensorStatus.RUNNING,
    monitor_all_code_locations=True,  # a run from the command line belongs to none
    description="Sends an alert for a run that failed, whatever the job and whoever started it, with the failed steps "
    "and blocking checks. A job that fails again for the same reason is reported once a day until it has succeeded.",
)
def run_failure(context: dg.RunFailureSensorContext) -> dg.SkipReason | None:
    from credits_pipeline.alerts import notify as alerts

    settings = config.current()
    failed = context.dagster_run
    if context.repository_def and not belongs_to(failed, context.repository_def):
        return dg.SkipReason("a run of another project that shares this DAGSTER_HOME")
    alert = failure_alert(context)

    def detect(con: "duckdb.DuckDBPyConnection", active: Sequence["alerts.ActiveAlert"]) -> "alerts.Changes":
        resolved = {s.key for s in active if s.kind == alerts.RUN_FAILED and is_resolved(context.instance, s)}
        return alerts.Changes((alert,), frozenset(resolved))

    try:
        alerts.notify(settings, warehouse(settings), detect, run_id=failed.run_id, log=context.log)
    except (WarehouseError, OSError, alerts.AlertsBusy) as error:
        # A full disk or a damaged warehouse may be why the run failed: this alert then matters most.
        context.log.warning(f"this alert is not remembered: {error}")
        alerts.send_without_memory(settings, [alert], log=context.log)
    return None


@dg.sensor(
    name="stale_data",
    minimum_interval_seconds=STALE_EVERY_S,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Sends one alert when an account's latest reading is older than 36 hours, and no more until there is "
    "a new one. Also retries alerts that a channel did not accept.",
)
def stale_data(context: dg.SensorEvaluationContext) -> dg.SkipReason:
    from credits_pipeline.alerts import notify as alerts

    settings = config.current()
    watched = json.loads(context.cursor) if context.cursor else {}
    said = "every account with a key was read within the last 36 hours"

    def detect(con: "duckdb.DuckDBPyConnection", active: Sequence["alerts.ActiveAlert"]) -> "alerts.Changes":
        nonlocal watched, said
        newest = newest_readings(con, [account.name for account in settings.accounts])
        watched = {
            name: watched.get(name, clock.now().isoformat()) for name, at in newest.items() if at is None
        }
        found = stale_alerts(newest, watched)
        resolved = {s.key for s in active if s.kind == alerts.STALE and s.account in newest}
        if found:
            said = f"no new reading for 36 hours: {', '.join(str(alert.account) for alert in found)}"
        return alerts.Changes(tuple(found), frozenset(resolved - {alert.key for alert in found}))

    try:
        alerts.notify(settings, warehouse(settings), detect, log=context.log)
    except (WarehouseError, OSError, alerts.AlertsBusy) as error:
        return dg.SkipReason(f"could not look: {error}")
    context.update_cursor(json.dumps(watched))
    return dg.SkipReason(said)


@dg.sensor(
    name="dead_runs",
    minimum_interval_seconds=DEAD_EVERY_S,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Marks as failed the runs whose process was killed or lost in a power cut. Otherwise they would count "
    "as running for hours and block every other run.",
)
def dead_runs(context: dg.SensorEvaluationContext) -> dg.SkipReason:
    ended = end_dead_runs(context.instance)
    return dg.SkipReason(
        f"marked as failed: {', '.join(ended)}" if ended else "every run in progress has its process"
    )


SENSORS = [run_failure, stale_data, dead_runs]


def warehouse(settings: config.Settings) -> Warehouse:
    return Warehouse(settings.warehouse_path, lock_timeout_s=LOCK_WAIT_S)


# -- runs that failed --------------------------------------------------------------------------------------------


def belongs_to(run: dg.DagsterRun, project: dg.RepositoryDefinition) -> bool:
    """Whether a run belongs to the project; for assets materialized by hand, whose job is nameless, whether they do."""
    if run.job_name.startswith("__"):
        return bool((run.asset_selection or frozenset()) & project.asset_graph.get_all_asset_keys())
    return project.has_job(run.job_name)


def failure_alert(context: dg.RunFailureSensorContext) -> "alerts.Alert":
    """The alert about a failed run; its key is the job and the reason, so that a repetition is known as one."""
    from credits_pipeline.alerts import messages
    from credits_pipeline.alerts import notify as alerts

    failed = context.dagster_run
    reasons = [
        f"{event.step_key}: {first_line(reason(event))}" for event in context.get_step_failure_events()
    ]
    reasons = (reasons or [first_line(context.failure_event.message or "no reason given")])[:MOST_REASONS]
    reasons += failed_checks(context.instance, failed.run_id, told=reasons)[:MOST_REASONS]
    record = context.instance.get_run_record_by_id(failed.run_id)
    at = datetime.fromtimestamp(record.end_time, UTC) if record and record.end_time else clock.now()
    title, body = messages.run_failed(what_ran(failed), failed.run_id, at, reasons)
    return alerts.Alert(
        key=f"{alerts.RUN_FAILED}/{failed.job_name}/{digest(reasons)}",
        kind=alerts.RUN_FAILED,
        title=title,
        body=body,
        run_id=failed.run_id,
    )


def what_ran(run: dg.DagsterRun) -> str:
    """The job's name; for assets materialized by hand, which Dagster runs in a nameless job, the assets' names."""
    if not run.job_name.startswith("__"):
        return run.job_name
    return ", ".join(sorted(key.to_user_string() for key in run.asset_selection or ())) or "assets"


def failed_checks(instance: dg.DagsterInstance, run_id: str, told: Sequence[str]) -> list[str]:
    """The checks of a run that failed as errors, each with its failing rows and what `told` does not say yet."""
    events = instance.get_records_for_run(run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION).records
    found = []
    for event in events:
        check = event.event_log_entry.asset_check_evaluation
        if check and not check.passed and check.severity == dg.AssetCheckSeverity.ERROR:
            rows = check.metadata.get("failing_rows")
            counted = f" ({rows.value} rows)" if rows else ""
            plain = check.metadata.get("reason")  # the description is Markdown
            why = first_line(str(plain.value) if plain else check.description or "")
            news = bool(why) and not any(why in reason for reason in told)
            if news or counted:
                name = f"check {check.check_name} of {check.asset_key.to_user_string()}"
                found.append(f"{name} failed{counted}{f': {why}' if news else ''}")
    return found


def is_resolved(instance: dg.DagsterInstance, alert: "alerts.ActiveAlert") -> bool:
    """Whether a reported failure may be reported again: a day later, or when its job has succeeded since."""
    job = alert.key.split("/")[1]
    succeeded = dg.RunsFilter(
        job_name=job, statuses=[dg.DagsterRunStatus.SUCCESS], updated_after=alert.due_at
    )
    return clock.now() - alert.due_at >= REMIND_AFTER or instance.get_runs_count(succeeded) > 0


def digest(reasons: Sequence[str]) -> str:
    """The same for the same reasons, whatever days, counts and run ids they name."""
    return hashlib.sha256(re.sub(r"[0-9a-f-]*[0-9][0-9a-f-]*", "#", "\n".join(reasons)).encode()).hexdigest()[
        :12
    ]


def first_line(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if line.strip()), "")


# -- missing readings ---------------------------------------------------------------------------------------------


def newest_readings(con: "duckdb.DuckDBPyConnection", accounts: Sequence[str]) -> dict[str, datetime | None]:
    """When each account was last read; None where it never was."""
    rows = con.execute(
        "select account, max(observed_at) from raw.credits_snapshots group by account"
    ).fetchall()
    read = {account: at.replace(tzinfo=UTC) for account, at in rows}
    return {account: read.get(account) for account in accounts}


def stale_alerts(newest: dict[str, datetime | None], watched: dict[str, str]) -> list["alerts.Alert"]:
    """An alert per account without a reading in 36 hours (if never read, since it was first `watched`)."""
    from credits_pipeline.alerts import messages
    from credits_pipeline.alerts import notify as alerts

    ages = {
        account: clock.now() - (at or datetime.fromisoformat(watched[account]))
        for account, at in newest.items()
    }
    old = [account for account, age in ages.items() if age > wording.STALE_AFTER]
    found = []
    for account in old:
        title, body = messages.stale(account, newest[account], ages[account], is_alone=len(old) < len(newest))
        key = f"{alerts.STALE}/{account}"
        found.append(alerts.Alert(key, alerts.STALE, title, body, account=account, as_of=newest[account]))
    return found
