"""Who spent what was billed: per account and UTC day, each key's (workspace's, user's, app's) use by model (USD).

CREDITS_BREAKDOWNS says by whom: a dimension is one more request per account and range, by the same rules as
`model_usage`, to whose days these belong. A day of a dimension is replaced as a whole, in one transaction, in
`raw.usage_breakdown`; `raw.usage_breakdown_days` says which days are known. What a day's bill has beyond the sum of its
members is shown as `(unattributed)` in the tables made of both.
"""

from collections.abc import Iterator, Sequence
from datetime import date

import dagster as dg

from credits_pipeline import config
from credits_pipeline.config import Account
from credits_pipeline.defs.accounts import Asked, accounts_check, ask_every_account, may_ask, merged
from credits_pipeline.defs.assets import model_usage
from credits_pipeline.defs.keys import KeyNames, names_by_key
from credits_pipeline.defs.metadata import Newest, newest, preview_of
from credits_pipeline.defs.partitions import daily_partitions
from credits_pipeline.openrouter import Client, OpenRouter, Usage
from credits_pipeline.warehouse import AnyWarehouse, Tables

KEY = dg.AssetKey("usage_breakdown")


@dg.asset(
    key=KEY,
    description=__doc__,
    partitions_def=daily_partitions,
    backfill_policy=dg.BackfillPolicy.single_run(),
    pool="warehouse",
)
def usage_breakdown(
    context: dg.AssetExecutionContext, openrouter: OpenRouter, warehouse: dg.ResourceParam[AnyWarehouse]
) -> Iterator[dg.AssetMaterialization | dg.MaterializeResult[None]]:
    first, last = model_usage.days_to_fetch(context)
    may_ask()
    dimensions = config.current().breakdowns
    parts = warehouse.each(
        fetch_breakdowns, openrouter, names_by_key(warehouse), dimensions, first, last, context.run.run_id
    )
    asked = merged([part for part, _ in parts])
    for name, reason in asked.forbidden.items():
        context.log.warning(f"{name}: this key does not tell who spends: {reason}")
    yield from model_usage.days_read_again(context, KEY, first, {})
    yield dg.MaterializeResult(
        metadata={
            "days": (last - first).days + 1,
            "dimensions": ", ".join(dimensions) or "none",
            "requests": sum(asked.replies.values()),
            "preview": preview_of([rows for _, rows in parts]),
            **asked.metadata(),
        }
    )


def fetch_breakdowns(
    shard: Tables,
    openrouter: OpenRouter,
    names: KeyNames,
    dimensions: Sequence[str],
    first: date,
    last: date,
    run_id: str,
) -> tuple[Asked[int], Newest]:
    """Store who spent, of a shard's accounts; how many requests that took of each."""

    async def ask(client: Client, account: Account) -> list[Usage]:
        return [await client.usage(account, first, last, dimension=dimension) for dimension in dimensions]

    asked = ask_every_account(openrouter, shard, names, ask)
    with shard.writing("storing who spent") as con:
        for place, dimension in enumerate(dimensions):
            replies = {name: usages[place] for name, usages in asked.replies.items()}
            model_usage.store(shard, con, replies, run_id, dimension)
        rows = newest(con, "raw.usage_breakdown")
    requests = {name: sum(usage.requests_made for usage in usages) for name, usages in asked.replies.items()}
    return asked.of(requests), rows


every_breakdown_was_fetched = accounts_check(
    KEY,
    "every_breakdown_was_fetched",
    "Who spent could be read of each account. A key that may not use analytics is a warning: its spend is known as a "
    "whole. Any other failure ends the run red, after all else is done.",
)
