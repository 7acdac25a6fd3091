"""What was billed, per account, UTC day and model (USD), from the analytics API: the only source for the past.

Any of the last 365 days can be (back)filled, a whole range in one run and one request per account. A day is replaced
as a whole, in one transaction, in `raw.model_usage`; `raw.model_usage_days` says which days are known, a day on which
nothing was billed included. The running day is partial until it has been read again after its end, which the daily
run (today and the three days before it) and the schedule `history_backfill` see to.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import date, timedelta
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import dagster as dg

from credits_pipeline import clock, config
from credits_pipeline.config import Account
from credits_pipeline.defs import accounts
from credits_pipeline.defs.assets import credits_snapshots
from credits_pipeline.defs.keys import KeyNames, names_by_key
from credits_pipeline.defs.metadata import Newest, newest, preview_of
from credits_pipeline.defs.partitions import daily_partitions, requested_days
from credits_pipeline.openrouter import Client, OpenRouter, Usage
from credits_pipeline.warehouse import AnyWarehouse, Connection, Tables, fetch_dicts

KEY = dg.AssetKey("model_usage")
BILLED_BY_DAY = Path(__file__).with_name("billed_by_day.sql")

# How far back the API answers. Source: the vendor's documentation of POST /analytics/query.
HISTORY_DAYS = 365

# A day's bill still moves after its end (when it becomes final is not documented), so a run that takes the
# running day takes these days again.
DAYS_READ_AGAIN = 3


def oldest_day() -> date:
    """The first day that can be asked for: 365 days ago, or CREDITS_START_DATE where that is later."""
    return max(config.current().start_date, clock.today() - timedelta(days=HISTORY_DAYS))


def days_to_fetch(context: dg.AssetExecutionContext) -> tuple[date, date]:
    """The days asked for; with today among them, the three days before it as well."""
    first, last = requested_days(context)
    oldest, today = oldest_day(), clock.today()
    if first < oldest or last > today:
        raise dg.Failure(
            f"{context.asset_key.to_user_string()} was asked for {first} to {last}, but the API only covers {oldest} to"
            f" {today} (UTC), so nothing was written. Choose partitions within these days.",
            allow_retries=False,
        )
    if last == today:
        first = max(min(first, today - timedelta(days=DAYS_READ_AGAIN)), oldest)
    return first, last


def store(
    shard: Tables, con: Connection, replies: Mapping[str, Usage], run_id: str, dimension: str = ""
) -> dict[str, str]:
    """Replace the fetched days of every account in a `writing` block; by how much days known before moved (USD).

    With a `dimension`: of the breakdown by it.
    """
    sums = {
        name: shard.replace_usage(
            name,
            usage.first,
            usage.last,
            usage.rows,
            fetched_at=usage.fetched_at,
            run_id=run_id,
            dimension=dimension,
            con=con,
        )
        for name, usage in replies.items()
    }
    return {
        f"{name} {day}": f"{new - old:+f}"
        for name, days in sums.items()
        for day, (old, new) in sorted(days.items())
        if old is not None and new != old
    }


def days_read_again(
    context: dg.AssetExecutionContext, key: dg.AssetKey, first: date, figures: Mapping[date, dict[str, Any]]
) -> Iterator[dg.AssetMaterialization]:
    """A record of each day from `first` on that was read together with those asked for."""
    asked_from, _ = requested_days(context)
    for day in (first + timedelta(days=n) for n in range((asked_from - first).days)):
        again = "read again with the running day"
        yield dg.AssetMaterialization(key, partition=day.isoformat(), metadata=figures.get(day), description=again)


@dg.asset(
    key=KEY,
    description=__doc__,
    partitions_def=daily_partitions,
    backfill_policy=dg.BackfillPolicy.single_run(),
    pool="warehouse",
)
def model_usage(
    context: dg.AssetExecutionContext, openrouter: OpenRouter, warehouse: dg.ResourceParam[AnyWarehouse]
) -> Iterator[dg.AssetMaterialization | dg.MaterializeResult[None]]:
    first, last = days_to_fetch(context)
    accounts.may_ask()
    parts = warehouse.each(fetch_bills, openrouter, names_by_key(warehouse), first, last, context.run.run_id)
    asked = accounts.merged([part.asked for part in parts])
    replies, failures = asked.replies, asked.failures
    changes = dict(item for part in parts for item in part.changes.items())
    for name, fetched in replies.items():
        if fetched.first > first:
            context.log.warning(f"{name}: the API no longer tells the bill of {first}, which stays unknown")
    for name, reason in asked.forbidden.items():
        context.log.warning(f"{name}: no analytics with this key, its spend comes from readings alone: {reason}")
    if failures and not replies and not asked.forbidden and is_only_source(context):
        raise dg.Failure(f"no account's bill could be fetched. {accounts.failure_summary(failures)}")
    # Over some accounts only, the sum would look like spend in the plot.
    figures = {} if failures else added([part.figures for part in parts])
    if replies:
        yield from days_read_again(context, KEY, first, figures)
        asked_from, _ = requested_days(context)
        for day in (asked_from + timedelta(days=n) for n in range((last - asked_from).days + 1)):
            context.add_asset_metadata(figures.get(day, {}), partition_key=day.isoformat())
    context.add_asset_metadata({"preview": preview_of([part.rows for part in parts])}, partition_key=last.isoformat())
    yield dg.MaterializeResult(
        metadata={
            "days": (last - first).days + 1,
            "requests": sum(fetched.requests_made for fetched in replies.values()),
            "days_changed": len(changes),
            "changed_days_usd": dg.MetadataValue.json(changes),
            **asked.metadata(),
        }
    )


def is_only_source(context: dg.AssetExecutionContext) -> bool:
    """Whether this run takes no readings: then nothing is lost if it ends here, with no day recorded as fetched."""
    return credits_snapshots.KEY not in context.job_def.asset_layer.executable_asset_keys


class Bills(NamedTuple):
    """What was fetched for a shard: how known days moved (USD), and the figures of each day."""

    asked: accounts.Asked[Usage]  # without their rows
    changes: dict[str, str]
    figures: list[dict[str, Any]]  # the rows of `billed_by_day.sql`
    rows: Newest


def fetch_bills(shard: Tables, openrouter: OpenRouter, names: KeyNames, first: date, last: date, run_id: str) -> Bills:
    """Store what a shard's accounts were billed from `first` to `last`."""

    async def ask(client: Client, account: Account) -> Usage:
        return await client.usage(account, first, last)

    asked = accounts.ask_every_account(openrouter, shard, names, ask)
    with shard.writing("storing what was billed") as con:
        changes = store(shard, con, asked.replies, run_id)
        rows, figures = newest(con, "raw.model_usage"), fetch_dicts(con, BILLED_BY_DAY, {"first": first, "last": last})
    fetched = {name: replace(usage, rows=()) for name, usage in asked.replies.items()}
    return Bills(asked.of(fetched), changes, figures, rows)


def added(parts: Sequence[Sequence[dict[str, Any]]]) -> dict[date, dict[str, Any]]:
    """The figures of each day over all shards, as metadata."""
    sums: dict[date, dict[str, Any]] = defaultdict(lambda: {"billed_usd": 0.0, "dagster/partition_row_count": 0})
    for row in chain(*parts):
        sums[row["day"]]["billed_usd"] += row["usd"]
        sums[row["day"]]["dagster/partition_row_count"] += row["models"]
    return sums


def keys_without_analytics(instance: dg.DagsterInstance) -> set[str]:
    """Fingerprints of the keys that were refused when the bill was last asked for; another key may be the right one."""
    return set(accounts.stored_json(accounts.newest_metadata(instance, KEY), accounts.FORBIDDEN_KEYS).values())


every_account_was_fetched = accounts.accounts_check(
    KEY,
    "every_account_was_fetched",
    "The bill of each account could be read. A key that may not use analytics is a warning: the account keeps working "
    "from its readings. Any other failure ends the run red, after all else is done.",
)
