"""Daily partitions: one is a UTC day, as the vendor bills; the running day is one too."""

from datetime import date, timedelta

import dagster as dg

from credits_pipeline import clock, config

# How far back the API answers. Source: the vendor's documentation of POST /analytics/query.
HISTORY_DAYS = 365


def oldest_day() -> date:
    """The first day that can be asked for: 365 days ago, or CREDITS_START_DATE where that is later."""
    return max(config.current().start_date, clock.today() - timedelta(days=HISTORY_DAYS))


# One for all: Dagster starts no job for a day if that day's assets disagree about which days there are. Those that
# nobody can ask for any more are none, or they would look like failures.
daily_partitions = dg.DailyPartitionsDefinition(start_date=oldest_day().isoformat(), timezone="UTC", end_offset=1)


def requested_days(context: dg.AssetExecutionContext) -> tuple[date, date]:
    """First and last UTC day (inclusive) that this run was asked for."""
    keys = context.partition_key_range
    return date.fromisoformat(keys.start), date.fromisoformat(keys.end)
