"""What runs when: two jobs, their schedules, and a sensor for whatever people materialize by hand."""

import json
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Final

import dagster as dg

from credits_pipeline import clock, config
from credits_pipeline.defs.assets import alerts_sent, credits_snapshots, model_usage, published
from credits_pipeline.defs.partitions import today_key
from credits_pipeline.launch import runs as launch
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
    cron_schedule=config.current().snapshot_cron,
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Reads today's balances. A late tick still reads today, since past balances cannot be read.",
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
    if not config.current().accounts:
        return dg.SkipReason(f"no account has a key: set {config.KEY_VARIABLE}")
    days = unsettled_range(context.resources.warehouse, context.instance)
    if days is None:
        return dg.SkipReason("every day that the API still reports is settled for every account")
    return dg.RunRequest(tags=range_tags(*days))


def unsettled_range(warehouse: Warehouse, instance: dg.DagsterInstance) -> tuple[str, str] | None:
    """First and last past day (partition keys) that is not settled for some account; None when all are.

    An account whose key may not use analytics would have the year fetched every night, for all: it is left out until
    the daily run, which asks it all the same, is no longer refused.
    """
    refused = model_usage.accounts_without_analytics(instance)
    accounts = [a.name for a in config.current().accounts if a.name not in refused]
    yesterday = clock.today() - timedelta(days=1)
    open_days = warehouse.unsettled_days(accounts, model_usage.oldest_day(), yesterday)
    days = sorted({day for of_account in open_days.values() for day in of_account})
    return (days[0].isoformat(), days[-1].isoformat()) if days else None


def range_tags(first: str, last: str) -> dict[str, str]:
    """Tags that make one run of the partitions `first` to `last`, both included."""
    return {"dagster/asset_partition_range_start": first, "dagster/asset_partition_range_end": last}


# A rebuild that fails (the file is held, a blocking test) may succeed later; a few tries, and then it is for people.
REBUILDS_TRIED: Final = 3
REBUILD_AGAIN_AFTER: Final = timedelta(hours=1)


@dg.sensor(
    job=rebuild,
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="When people materialize raw assets by hand (for example a UI backfill, of however many runs), one "
    "rebuild follows; if it fails it is retried twice, an hour apart. The jobs rebuild by themselves and cause none, "
    "unless they failed after fetching something.",
)
def rebuild_after_manual_changes(context: dg.SensorEvaluationContext) -> dg.RunRequest | dg.SkipReason:
    change = newest_change(context.instance)
    if change <= last_rebuild(context):
        return dg.SkipReason("the tables are as new as the raw assets")
    if something_is_running(context.instance):
        return dg.SkipReason("raw assets are newer than the tables; waiting until all runs are done")
    before = Rebuilds.load(context.cursor)
    tries = before.tries if before.change == change else 0
    if tries >= REBUILDS_TRIED:
        return dg.SkipReason(
            f"the rebuild failed {tries} times: look at its runs, fix the cause, then run the job rebuild"
        )
    if tries and clock.now() - before.tried_at < REBUILD_AGAIN_AFTER:
        return dg.SkipReason(f"the rebuild failed; it is retried one hour after {before.tried_at:%H:%M} UTC")
    context.update_cursor(json.dumps([change, tries + 1, clock.now().isoformat()]))
    return dg.RunRequest(run_key=f"manual-change-{change}-{tries + 1}")


@dataclass(frozen=True)
class Rebuilds:
    """What the sensor remembers: for which change it asked last, how often, and when."""

    change: int
    tries: int
    tried_at: datetime

    @classmethod
    def load(cls, cursor: str | None) -> "Rebuilds":
        try:
            change, tries, at = json.loads(cursor or "")
            return cls(int(change), int(tries), datetime.fromisoformat(at))
        except (ValueError, TypeError):
            return cls(0, 0, clock.now())


def newest_change(instance: dg.DagsterInstance) -> int:
    """Storage id of the newest materialization of a raw asset; 0 if there is none."""
    return max(newest_materialization(instance, key) for key in (credits_snapshots.KEY, model_usage.KEY))


def last_rebuild(context: dg.SensorEvaluationContext) -> int:
    """Storage id of the oldest of the newest materializations of all SQL models and of the published copy.

    Of all, since people may materialize some of them by hand, and an upgrade may bring a new one.
    """
    if context.repository_def is None:
        raise RuntimeError("the sensor needs the definitions that it is in, to know the SQL models")
    models = context.repository_def.asset_graph.get(published.KEY).parent_keys
    ids = {
        record.asset_entry.asset_key: record.asset_entry.last_materialization_storage_id
        for record in context.instance.get_asset_records([*models, published.KEY])
    }
    return min(ids.get(key) or 0 for key in (*models, published.KEY))


def newest_materialization(instance: dg.DagsterInstance, key: dg.AssetKey) -> int:
    records = instance.fetch_materializations(key, limit=1).records
    return records[0].storage_id if records else 0


def something_is_running(instance: dg.DagsterInstance) -> bool:
    """A run, or a backfill that has runs still to launch."""
    backfills = instance.get_backfills(limit=RECENT_BACKFILLS)
    if any(backfill.status.value in UNFINISHED_BACKFILL for backfill in backfills):
        return True
    return any(launch.is_ours(run) for run in instance.get_runs(dg.RunsFilter(statuses=UNFINISHED_RUN)))


def first_day_of_daily_run() -> date:
    """The earliest day that today's daily run reads by itself."""
    return clock.today() - timedelta(days=model_usage.DAYS_READ_AGAIN)
