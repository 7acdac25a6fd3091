"""The API keys of every account as they are now: names, limits, what is left of them; disabled ones too.

One row per account, key (known by OpenRouter's hash of it, never the key itself) and UTC day is kept in `raw.api_keys`,
the day's last list. A key that newer lists lack was deleted, and its history stays. Only the present can be listed.
"""

import dagster as dg

from credits_pipeline.defs.accounts import accounts_check, ask_every_account
from credits_pipeline.defs.metadata import preview
from credits_pipeline.openrouter import Client, OpenRouter
from credits_pipeline.warehouse import Warehouse

KEY = dg.AssetKey("api_keys")


@dg.asset(key=KEY, description=__doc__, pool="warehouse")
def api_keys(
    context: dg.AssetExecutionContext, openrouter: OpenRouter, warehouse: dg.ResourceParam[Warehouse]
) -> dg.MaterializeResult[None]:
    asked = ask_every_account(openrouter, warehouse, Client.keys)
    for account, listed in asked.replies.items():
        warehouse.replace_keys(account.name, listed.keys, observed_at=listed.observed_at, run_id=context.run.run_id)
    for account, reason in asked.forbidden.items():
        context.log.warning(f"{account.name}: this key does not list the account's keys. {reason}")
    with warehouse.reading() as con:
        newest = preview(con, "raw.api_keys")
    return dg.MaterializeResult(
        metadata={
            "keys": sum(len(listed.keys) for listed in asked.replies.values()),
            "preview": newest,
            **asked.metadata(),
        }
    )


every_list_of_keys_was_read = accounts_check(
    KEY,
    "every_list_of_keys_was_read",
    "The keys of each account could be listed. A key that may not list them is a warning; any other failure ends the "
    "run red, after all else is done.",
)
