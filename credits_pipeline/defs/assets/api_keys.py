"""The API keys of every account as they are now: names, limits, what is left of them; disabled ones too.

One row per account, key (known by OpenRouter's hash of it, never the key itself) and UTC day is kept in `raw.api_keys`,
the day's last list. A key that newer lists lack was deleted, and its history stays. Only the present can be listed.
"""

import dagster as dg

from credits_pipeline.defs.accounts import Asked, accounts_check, ask_every_account, may_ask, merged
from credits_pipeline.defs.keys import KeyNames, names_by_key
from credits_pipeline.defs.metadata import Newest, newest, preview_of
from credits_pipeline.openrouter import Client, OpenRouter
from credits_pipeline.warehouse import AnyWarehouse, Tables

KEY = dg.AssetKey("api_keys")


@dg.asset(key=KEY, description=__doc__, pool="warehouse")
def api_keys(
    context: dg.AssetExecutionContext, openrouter: OpenRouter, warehouse: dg.ResourceParam[AnyWarehouse]
) -> dg.MaterializeResult[None]:
    may_ask()
    parts = warehouse.each(list_keys, openrouter, names_by_key(warehouse), context.run.run_id)
    asked = merged([part for part, _ in parts])
    for name, reason in asked.forbidden.items():
        context.log.warning(f"{name}: this key does not list the account's keys: {reason}")
    return dg.MaterializeResult(
        metadata={
            "keys": sum(asked.replies.values()),
            "preview": preview_of([rows for _, rows in parts]),
            **asked.metadata(),
        }
    )


def list_keys(shard: Tables, openrouter: OpenRouter, names: KeyNames, run_id: str) -> tuple[Asked[int], Newest]:
    """Store the keys of a shard's accounts; how many there are."""
    asked = ask_every_account(openrouter, shard, names, Client.keys)
    with shard.writing("storing the lists of keys") as con:
        for name, listed in asked.replies.items():
            shard.replace_keys(name, listed.keys, observed_at=listed.observed_at, run_id=run_id, con=con)
        rows = newest(con, "raw.api_keys")
    return asked.of({name: len(listed.keys) for name, listed in asked.replies.items()}), rows


every_list_of_keys_was_read = accounts_check(
    KEY,
    "every_list_of_keys_was_read",
    "The keys of each account could be listed. A key that may not list them is a warning; any other failure ends the "
    "run red, after all else is done.",
)
