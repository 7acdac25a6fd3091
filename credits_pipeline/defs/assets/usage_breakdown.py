"""Who spent what was billed: per account and UTC day, each key's (workspace's, user's, app's) use by model (USD).

CREDITS_BREAKDOWNS says by whom: a dimension is one more request per account and range, by the same rules as
`model_usage`, to whose days these belong. A day of a dimension is replaced as a whole, in one transaction, in
`raw.usage_breakdown`; `raw.usage_breakdown_days` says which days are known. What a day's bill has beyond the sum of its
members is shown as `(unattributed)` in the tables made of both.
"""

from collections.abc import Iterator, Sequence
from datetime import date
from functools import partial

import dagster as dg

from credits_pipeline import config
from credits_pipeline.config import Account
from credits_pipeline.defs.accounts import Asked, accounts_check, ask_and_store
from credits_pipeline.defs.assets import model_usage
from credits_pipeline.defs.metadata import preview_of
from credits_pipeline.defs.partitions import daily_partitions
from credits_pipeline.openrouter import Client, OpenRouter, Usage
from credits_pipeline.warehouse import AnyWarehouse, Connection, Tables

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
    dimensions = config.current().breakdowns
    ask = partial(breakdowns, first=first, last=last, dimensions=dimensions)
    store = partial(store_breakdowns, dimensions=dimensions, run_id=context.run.run_id)
    asked = ask_and_store(context, openrouter, warehouse, ask, store, "this key does not tell who spends")
    yield from model_usage.days_read_again(context, first, {})
    yield dg.MaterializeResult(
        metadata={
            "days": (last - first).days + 1,
            "dimensions": ", ".join(dimensions) or "none",
            "requests": sum(asked.replies.values()),
            "preview": preview_of(asked.newest),
            **asked.metadata(),
        }
    )


async def breakdowns(
    client: Client, account: Account, first: date, last: date, dimensions: Sequence[str]
) -> list[Usage]:
    return [await client.usage(account, first, last, dimension) for dimension in dimensions]


def store_breakdowns(
    shard: Tables, con: Connection, asked: Asked[list[Usage]], dimensions: Sequence[str], run_id: str
) -> Asked[int]:
    """Store who spent; the replies become how many requests each account took."""
    for name, usages in asked.replies.items():
        for dimension, usage in zip(dimensions, usages, strict=True):
            model_usage.replace_days(shard, con, name, usage, run_id, dimension)
    return asked.of({n: sum(usage.requests_made for usage in usages) for n, usages in asked.replies.items()})


every_breakdown_was_fetched = accounts_check(
    KEY,
    "every_breakdown_was_fetched",
    "Who spent could be read of each account. A key that may not use analytics is a warning: its spend is known as a "
    "whole. Any other failure ends the run red, after all else is done.",
)
