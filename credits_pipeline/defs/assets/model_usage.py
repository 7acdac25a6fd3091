"""What was billed, per account, UTC day and model (USD), from the analytics API: the only source for the past.

Any of the last 365 days can be (back)filled, a whole range in one run and one request per account. A day is replaced
as a whole, in one transaction, in `raw.model_usage`; `raw.model_usage_days` says which days are known, a day on which
nothing was billed included. The running day is partial until it has been read again after its end, which the daily
run (today and the three days before it) and the schedule `history_backfill` see to.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from datetime import date, timedelta
from functools import partial
from pathlib import Path
from typing import NamedTuple

import dagster as dg

from credits_pipeline import clock
from credits_pipeline.defs import accounts
from credits_pipeline.defs.assets import credits_snapshots
from credits_pipeline.defs.metadata import Row, preview_of
from credits_pipeline.defs.partitions import daily_partitions, oldest_day, requested_days
from credits_pipeline.openrouter import Client, OpenRouter, Usage
from credits_pipeline.warehouse import AnyWarehouse, Connection, Tables, fetch_dicts

KEY = dg.AssetKey("model_usage")
BILLED_BY_DAY = Path(__file__).with_name("billed_by_day.sql")

# A day's bill still moves after its end (when it becomes final is not documented), so a run that takes the
# running day takes these days again.
DAYS_READ_AGAIN = 3


def days_to_fetch(context: dg.AssetExecutionContext) -> tuple[date, date]:
    """The days asked for; with today among them, the three days before it as well."""
    first, last = requested_days(context)
    oldest, today = oldest_day(), clock.today()
    if first < oldest or last > today:
        raise dg.Failure(
            f"{context.asset_key.to_user_string()} was asked for {first} to {last}, but the API can be asked for"
            f" {oldest} to {today} (UTC; 365 days, from CREDITS_START_DATE on), so nothing was written. Choose"
            " partitions within these days.",
            allow_retries=False,
        )
    if last == today:
        first = max(min(first, today - timedelta(days=DAYS_READ_AGAIN)), oldest)
    return first, last


def replace_days(
    shard: Tables, con: Connection, account: str, usage: Usage, run_id: str, dimension: str = ""
) -> dict[str, str]:
    """Replace the fetched days of an account's bill, or of its breakdown; by how much days known before moved (USD)."""
    sums = shard.replace_usage(
        account,
        usage.first,
        usage.last,
        usage.rows,
        fetched_at=usage.fetched_at,
        run_id=run_id,
        dimension=dimension,
        con=con,
    )
    moved = {day: new - old for day, (old, new) in sums.items() if old is not None and new != old}
    return {f"{account} {day}": f"{by:+f}" for day, by in moved.items()}


def days_read_again(
    context: dg.AssetExecutionContext, first: date, figures: Mapping[str, Row]
) -> Iterator[dg.AssetMaterialization]:
    """A record of each day from `first` on that was read together with those asked for."""
    asked_from, _ = requested_days(context)
    for day in ((first + timedelta(days=n)).isoformat() for n in range((asked_from - first).days)):
        again = "read again with the running day"
        yield dg.AssetMaterialization(context.asset_key, partition=day, metadata=figures.get(day), description=again)


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
    ask = partial(Client.usage, first=first, last=last)
    store = partial(store_bills, first=first, last=last, run_id=context.run.run_id)
    without = "no analytics with this key, its spend comes from readings alone"
    asked = accounts.ask_and_store(context, openrouter, warehouse, ask, store, without)
    bills, failures = asked.replies, asked.failures
    for name, bill in bills.items():
        if bill.first > first:
            context.log.warning(f"{name}: the API no longer tells the bill of {first}, which stays unknown")
    takes_readings = credits_snapshots.KEY in context.job_def.asset_layer.executable_asset_keys
    if failures and not bills and not asked.forbidden and not takes_readings:
        # Nothing is lost if such a run ends here, with no day recorded as fetched.
        raise dg.Failure(f"no account's bill could be fetched. {accounts.failure_summary(failures)}")
    figures: dict[str, Counter[str]] = defaultdict(Counter)
    if not failures:  # over some accounts only, the sum would look like spend in the plot
        for row in asked.figures:
            figures[row["day"]].update({"billed_usd": row["usd"], "dagster/partition_row_count": row["models"]})
    if bills:
        yield from days_read_again(context, first, figures)
        for day in context.partition_keys:
            context.add_asset_metadata(figures[day], partition_key=day)
    context.add_asset_metadata({"preview": preview_of(asked.newest)}, partition_key=last.isoformat())
    changes = {day: usd for bill in bills.values() for day, usd in bill.changes.items()}
    yield dg.MaterializeResult(
        metadata={
            "days": (last - first).days + 1,
            "requests": sum(bill.requests for bill in bills.values()),
            "days_changed": len(changes),
            "changed_days_usd": dg.MetadataValue.json(changes),
            **asked.metadata(),
        }
    )


class Bill(NamedTuple):
    """What is said of an account's bill once it is stored."""

    first: date
    requests: int
    changes: dict[str, str]  # days known before, and by how much they moved (USD)


def store_bills(
    shard: Tables, con: Connection, asked: accounts.Asked[Usage], first: date, last: date, run_id: str
) -> accounts.Asked[Bill]:
    """Store what was billed from `first` to `last`, and add it up by day."""
    bills = {
        name: Bill(usage.first, usage.requests_made, replace_days(shard, con, name, usage, run_id))
        for name, usage in asked.replies.items()
    }
    return asked.of(bills, figures=fetch_dicts(con, BILLED_BY_DAY, {"first": first, "last": last}))


def keys_without_analytics(instance: dg.DagsterInstance) -> set[str]:
    """Fingerprints of the keys that were refused when the bill was last asked for; another key may be the right one."""
    return set(accounts.stored_json(accounts.newest_metadata(instance, KEY), accounts.FORBIDDEN_KEYS).values())


every_account_was_fetched = accounts.accounts_check(
    KEY,
    "every_account_was_fetched",
    "The bill of each account could be read. A key that may not use analytics is a warning: the account keeps working "
    "from its readings. Any other failure ends the run red, after all else is done.",
)
