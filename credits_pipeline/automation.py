"""What runs when: two jobs, their schedules, and a sensor for whatever people materialize by hand."""

import os
from datetime import date, timedelta

import dagster as dg

from credits_pipeline import clock, config
from credits_pipeline.assets import alerts_sent, credits_snapshots, model_usage, published
from credits_pipeline.assets.partitions import today_key
from credits_pipeline.warehouse import Warehouse

RAW = dg.AssetSelection.assets(credits_snapshots.KEY, model_usage.KEY)
EVERYTHING = dg.AssetSelection.all()

daily_credits = dg.define_asset_job(
    "daily_credits",
    selection=EVERYTHING,
    description="Today's readings, the bill of today and the three days before it, the SQL, the published copy, "
    "the report and the alerts.",
)

backfill_history = dg.define_asset_job(
    "backfill_history",
    selection=EVERYTHING - dg.AssetSelection.assets(credits_snapshots.KEY, alerts_sent.KEY),
    description="What was billed on a range of past days, then the SQL, the published copy and the report.",
)

rebuild = dg.define_asset_job(
    "rebuild",
    selection=EVERYTHING - RAW,
    description="The SQL, the published copy, the report and the alerts from what is in the raw tables.",
)

# Their runs rebuild the SQL themselves.
OWN_JOBS = {"daily_credits", "backfill_history", "rebuild"}

UNFINISHED_RUN = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]
UNFINISHED_BACKFILL = {"REQUESTED", "CANCELING", "FAILING"}
RECENT_BACKFILLS = 20  # the newest come first; an unfinished one is among them

# An hour and a half after midnight UTC: the night's readings are done, and so is the vendor's bill of yesterday.
HISTORY_CRON = "30 1 * * *"


@dg.schedule(
    name="daily_credits",
    job=daily_credits,
    cron_schedule=config.load(os.environ).snapshot_cron,
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Takes the readings of the day that it is now: a late tick must not ask for a day that is over.",
)
def daily_credits_schedule() -> dg.RunRequest:
    # Tags, for a partition key would be looked up as of the tick: a late tick knows no partition of today.
    return dg.RunRequest(tags=range_tags(today_key(), today_key()))


@dg.schedule(
    name="history_backfill",
    job=backfill_history,
    cron_schedule=HISTORY_CRON,
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    required_resource_keys={"warehouse"},
    description="One run for every past day that is not settled for some account, judged from the raw tables: a day "
    "read at noon before the machine slept, and the whole year of an account added today, are filled by themselves.",
)
def history_backfill(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
    days = unsettled_range(context.resources.warehouse)
    if days is None:
        return dg.SkipReason("every day that the API still knows is settled for every account")
    return dg.RunRequest(tags=range_tags(*days))


def unsettled_range(warehouse: Warehouse) -> tuple[str, str] | None:
    """First and last past day (partition keys) that is not settled for some account; None when all are."""
    accounts = [account.name for account in config.load(os.environ).accounts]
    yesterday = clock.today() - timedelta(days=1)
    open_days = warehouse.unsettled_days(accounts, model_usage.oldest_day(), yesterday)
    days = sorted({day for of_account in open_days.values() for day in of_account})
    return (days[0].isoformat(), days[-1].isoformat()) if days else None


def range_tags(first: str, last: str) -> dict[str, str]:
    """Tags that make one run of the partitions `first` to `last`, both included."""
    return {"dagster/asset_partition_range_start": first, "dagster/asset_partition_range_end": last}


@dg.sensor(
    job=rebuild,
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Raw assets that people materialize by hand (a backfill from the UI, of however many runs) are "
    "followed by one rebuild. The jobs rebuild by themselves and cause none.",
)
def rebuild_after_manual_changes(context: dg.SensorEvaluationContext) -> dg.RunRequest | dg.SkipReason:
    newest = newest_manual_change(context.instance)
    if newest <= int(context.cursor or 0):
        return dg.SkipReason("no raw asset was materialized by hand since the last rebuild")
    if something_is_running(context.instance):
        return dg.SkipReason("raw assets were materialized by hand; waiting until all runs are done")
    context.update_cursor(str(newest))
    return dg.RunRequest(run_key=f"manual-change-{newest}")


def newest_manual_change(instance: dg.DagsterInstance) -> int:
    """Storage id of the newest materialization of a raw asset by a run that did not publish as well; 0 if none."""
    published_by = latest_run_ids(instance, published.KEY)
    newest = 0
    for key in (credits_snapshots.KEY, model_usage.KEY):
        for record in instance.fetch_materializations(key, limit=1).records:
            run = instance.get_run_by_id(record.run_id)
            if run and run.job_name not in OWN_JOBS and record.run_id not in published_by:
                newest = max(newest, record.storage_id)
    return newest


def latest_run_ids(instance: dg.DagsterInstance, key: dg.AssetKey) -> set[str]:
    return {record.run_id for record in instance.fetch_materializations(key, limit=1).records}


def something_is_running(instance: dg.DagsterInstance) -> bool:
    """A run, or a backfill that has runs still to launch."""
    backfills = instance.get_backfills(limit=RECENT_BACKFILLS)
    if any(backfill.status.value in UNFINISHED_BACKFILL for backfill in backfills):
        return True
    return instance.get_runs_count(dg.RunsFilter(statuses=UNFINISHED_RUN)) > 0


def first_day_of_daily_run() -> date:
    """The earliest day that today's daily run reads by itself."""
    return clock.today() - timedelta(days=model_usage.DAYS_READ_AGAIN)
