"""What runs when: the jobs, their schedules, and what follows when people materialize something by hand."""

from datetime import UTC, datetime, time, timedelta
from itertools import takewhile

import dagster as dg

from credits_pipeline import clock, config
from credits_pipeline.defs.assets import alerts_sent, api_keys, credits_snapshots, model_usage, usage_breakdown
from credits_pipeline.defs.partitions import oldest_day
from credits_pipeline.warehouse import AnyWarehouse, Tables

PRESENT = dg.AssetSelection.assets(credits_snapshots.KEY, api_keys.KEY)  # of which the API tells no past
RAW = PRESENT | dg.AssetSelection.assets(model_usage.KEY, usage_breakdown.KEY)
EVERYTHING = dg.AssetSelection.all()

daily_credits = dg.define_asset_job(
    "daily_credits",
    selection=EVERYTHING,
    description="Today's readings, the bill of today and the three days before it, the SQL, the published copy, "
    "the report and the alerts.",
)

backfill_history = dg.define_asset_job(
    "backfill_history",
    selection=EVERYTHING - PRESENT - dg.AssetSelection.assets(alerts_sent.KEY),
    description="What was billed on a range of past days, then the SQL, the published copy and the report.",
)

rebuild = dg.define_asset_job(
    "rebuild",
    selection=EVERYTHING - RAW,
    description="The SQL, the published copy, the report and the alerts from what is in the raw tables.",
)

JOBS = [daily_credits, backfill_history, rebuild]

# An hour and a half after midnight UTC: the night's readings are done, and so is the vendor's bill of yesterday.
HISTORY_CRON = "30 1 * * *"

# After one failed daily run of a day, after two, and so on.
AGAIN_AFTER = [timedelta(minutes=minutes) for minutes in (10, 30, 90, 270)]


@dg.schedule(
    name="daily_credits",
    job=daily_credits,
    cron_schedule=config.current().snapshot_cron,
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Reads today's balances. A late tick still reads today, since past balances cannot be read.",
)
def daily_credits_schedule() -> dg.RunRequest:
    return today_request()


def today_request() -> dg.RunRequest:
    # Tags, for a partition key would be looked up as of the tick: a late tick knows no partition of today.
    today = clock.today().isoformat()
    return dg.RunRequest(tags=range_tags(today, today))


@dg.sensor(
    name="daily_credits_again",
    job=daily_credits,
    minimum_interval_seconds=60,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Runs daily_credits again when it failed, 10 minutes, half an hour, 90 minutes and 4½ hours later while"
    " the UTC day lasts: what was away (the network, a file that another program held) is often back by then.",
)
def daily_credits_again(context: dg.SensorEvaluationContext) -> dg.RunRequest | dg.SkipReason:
    midnight = datetime.combine(clock.today(), time(), UTC)
    today = dg.RunsFilter(job_name=daily_credits.name, created_after=midnight)
    newest_first = context.instance.get_run_records(today, limit=len(AGAIN_AFTER) + 1)
    is_failed = [record.dagster_run.status == dg.DagsterRunStatus.FAILURE for record in newest_first]
    failed = len(list(takewhile(bool, is_failed)))
    if not 0 < failed <= len(AGAIN_AFTER):
        return dg.SkipReason(
            "it failed too often today: look at its runs" if failed else "its newest run of today did not fail"
        )
    ended_at = datetime.fromtimestamp(newest_first[0].end_time or clock.now().timestamp(), UTC)
    if clock.now() < (due_at := ended_at + AGAIN_AFTER[failed - 1]):
        return dg.SkipReason(f"it failed, and is run again at {due_at:%H:%M} UTC")
    return today_request()


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


def unsettled_range(warehouse: AnyWarehouse, instance: dg.DagsterInstance) -> tuple[str, str] | None:
    """First and last past day (partition keys) not settled for some account, breakdowns included; None when all are.

    An account whose key may not use analytics would have the year fetched every night, for all: it is left out until
    it has another key, or the daily run, which asks it all the same, is no longer refused.
    """
    refused = model_usage.keys_without_analytics(instance)
    settings, yesterday = config.current(), clock.today() - timedelta(days=1)
    accounts = [account.name for account in settings.accounts if account.fingerprint not in refused]
    asked = (accounts, oldest_day(), yesterday, settings.breakdowns)
    parts = warehouse.each(Tables.unsettled_days, *asked)
    days = sorted(day for part in parts for open_days in part.values() for day in open_days)
    return (days[0].isoformat(), days[-1].isoformat()) if days else None


def range_tags(first: str, last: str) -> dict[str, str]:
    """Tags that make one run of the partitions `first` to `last`, both included."""
    return {"dagster/asset_partition_range_start": first, "dagster/asset_partition_range_end": last}


# Updates by a run that builds the asset as well, as the jobs do, do not count; those seen while anything upstream is
# going on are remembered, so that a backfill of many runs is followed by one.
AFTER_CHANGES = (
    dg.AutomationCondition.any_deps_updated().since_last_handled()
    & ~dg.AutomationCondition.any_deps_in_progress()
    & ~dg.AutomationCondition.in_progress()
)
# With a rebuild, and not after the job backfill_history, which sends no alerts.
WITH_A_REBUILD = dg.AutomationCondition.any_deps_match(dg.AutomationCondition.will_be_requested())

rebuild_after_manual_changes = dg.AutomationConditionSensorDefinition(
    "rebuild_after_manual_changes",
    target=EVERYTHING - RAW,
    default_status=dg.DefaultSensorStatus.RUNNING,
    minimum_interval_seconds=60,  # a look at all assets takes half a second of CPU
    # A rebuild that fails (the file is held) may succeed soon; a few tries, and then it is for people.
    run_tags={"dagster/max_retries": "2"},
    description="When people materialize raw assets by hand (for example a UI backfill, of however many runs), one "
    "rebuild and publication follows. The jobs rebuild by themselves and cause none.",
)

SCHEDULES = [daily_credits_schedule, history_backfill]
SENSORS = [daily_credits_again, rebuild_after_manual_changes]
