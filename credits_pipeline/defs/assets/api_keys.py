"""The API keys of every account as they are now: names, limits, what is left of them; disabled ones too.

One row per account, key (known by OpenRouter's hash of it, never the key itself) and UTC day is kept in `raw.api_keys`,
the day's last list. A key that newer lists lack was deleted, and its history stays. Only the present can be listed.
"""

from functools import partial

import dagster as dg

from credits_pipeline.defs.accounts import Asked, accounts_check, ask_and_store
from credits_pipeline.defs.metadata import preview_of
from credits_pipeline.openrouter import Client, Keys, OpenRouter
from credits_pipeline.warehouse import AnyWarehouse, Connection, Tables

KEY = dg.AssetKey("api_keys")


@dg.asset(key=KEY, description=__doc__, pool="warehouse")
def api_keys(
    context: dg.AssetExecutionContext, openrouter: OpenRouter, warehouse: dg.ResourceParam[AnyWarehouse]
) -> dg.MaterializeResult[None]:
    store = partial(store_keys, run_id=context.run.run_id)
    without = "this key does not list the account's keys"
    asked = ask_and_store(context, openrouter, warehouse, Client.keys, store, without)
    return dg.MaterializeResult(
        metadata={"keys": sum(asked.replies.values()), "preview": preview_of(asked.newest), **asked.metadata()}
    )


def store_keys(shard: Tables, con: Connection, asked: Asked[Keys], run_id: str) -> Asked[int]:
    """Store the lists; the replies become how many keys each account has."""
    for name, listed in asked.replies.items():
        shard.replace_keys(name, listed.keys, observed_at=listed.observed_at, run_id=run_id, con=con)
    return asked.of({name: len(listed.keys) for name, listed in asked.replies.items()})


every_list_of_keys_was_read = accounts_check(
    KEY,
    "every_list_of_keys_was_read",
    "The keys of each account could be listed. A key that may not list them is a warning; any other failure ends the "
    "run red, after all else is done.",
)
