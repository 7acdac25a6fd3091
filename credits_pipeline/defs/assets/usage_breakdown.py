"""Who spent what was billed: per account and UTC day, each key's (workspace's, user's, app's) use by model (USD).

CREDITS_BREAKDOWNS says by whom: a dimension is one more request per account and range, by the same rules as
`model_usage`, to whose days these belong. A day of a dimension is replaced as a whole, in one transaction, in
`raw.usage_breakdown`; `raw.usage_breakdown_days` says which days are known. What a day's bill has beyond the sum of its
members is shown as `(unattributed)` in the tables made of both.
"""

from collections.abc import Iterator

import dagster as dg

from credits_pipeline import config
from credits_pipeline.config import Account
from credits_pipeline.defs.accounts import accounts_check, ask_every_account
from credits_pipeline.defs.assets import model_usage
from credits_pipeline.defs.metadata import preview
from credits_pipeline.defs.partitions import daily_partitions
from credits_pipeline.openrouter import Client, OpenRouter, Usage
from credits_pipeline.warehouse import Warehouse

KEY = dg.AssetKey("usage_breakdown")


@dg.asset(
    key=KEY,
    description=__doc__,
    partitions_def=daily_partitions,
    backfill_policy=dg.BackfillPolicy.single_run(),
    pool="warehouse",
)
def usage_breakdown(
    context: dg.AssetExecutionContext, openrouter: OpenRouter, warehouse: dg.ResourceParam[Warehouse]
) -> Iterator[dg.AssetMaterialization | dg.MaterializeResult[None]]:
    first, last = model_usage.days_to_fetch(context)
    dimensions = config.current().breakdowns

    async def ask(client: Client, account: Account) -> list[Usage]:
        return [await client.usage(account, first, last, dimension=dimension) for dimension in dimensions]

    asked = ask_every_account(openrouter, warehouse, ask)
    for place, dimension in enumerate(dimensions):
        replies = {account: usages[place] for account, usages in asked.replies.items()}
        model_usage.store(warehouse, replies, context.run.run_id, dimension)
    for account, reason in asked.forbidden.items():
        context.log.warning(f"{account.name}: this key does not tell who spends. {reason}")
    yield from model_usage.days_read_again(context, KEY, first, {})
    with warehouse.reading() as con:
        newest = preview(con, "raw.usage_breakdown")
    yield dg.MaterializeResult(
        metadata={
            "days": (last - first).days + 1,
            "dimensions": ", ".join(dimensions) or "none",
            "requests": sum(usage.requests_made for usages in asked.replies.values() for usage in usages),
            "preview": newest,
            **asked.metadata(),
        }
    )


every_breakdown_was_fetched = accounts_check(
    KEY,
    "every_breakdown_was_fetched",
    "Who spent could be read of each account. A key that may not use analytics is a warning: its spend is known as a "
    "whole. Any other failure ends the run red, after all else is done.",
)
