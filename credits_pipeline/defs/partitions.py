"""Daily partitions: one is a UTC day, as the vendor bills; the running day is one too."""

from datetime import date

import dagster as dg

from credits_pipeline import config

daily_partitions = dg.DailyPartitionsDefinition(
    start_date=config.current().start_date.isoformat(), timezone="UTC", end_offset=1
)


def requested_days(context: dg.AssetExecutionContext) -> tuple[date, date]:
    """First and last UTC day (inclusive) that this run was asked for."""
    keys = context.partition_key_range
    return date.fromisoformat(keys.start), date.fromisoformat(keys.end)
