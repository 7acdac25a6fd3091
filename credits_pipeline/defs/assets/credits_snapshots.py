"""The two lifetime counters of every account, as the credits API shows them right now.

One row per account and reading is appended to `raw.credits_snapshots`: credits ever bought and credits ever used
(USD), the instant (UTC) and the reply itself. The API knows only the present, so a partition can be filled during
its own UTC day and never afterwards: a day that was missed, or that lies before the first reading, stays missing here,
which is no failure. What was *spent* on it is known all the same, from `model_usage`, which can be backfilled.
"""

from datetime import date
from decimal import Decimal
from functools import partial

import dagster as dg

from credits_pipeline import clock, config
from credits_pipeline.defs import accounts
from credits_pipeline.defs.metadata import preview_of
from credits_pipeline.defs.partitions import daily_partitions, requested_days
from credits_pipeline.openrouter import Client, Credits, OpenRouter
from credits_pipeline.warehouse import AnyWarehouse, Connection, Reading, Tables, fetch_dicts

KEY = dg.AssetKey("credits_snapshots")

UNBELIEVED = (  # ordinary keys have been seen to get such a reply
    "the API reported 0 credits and 0 usage for an account that has had both, so the reading was rejected; check that"
    " its key is still a management key of that account"
)


def refuse_all_but_today(context: dg.AssetExecutionContext) -> None:
    """The API reports only the present: today's totals under another day's name would be a lie for ever."""
    first, last = requested_days(context)
    today = clock.today()
    if first == last == today:
        return
    asked = f"{first}" if first == last else f"{first} to {last}"
    raise dg.Failure(
        f"credits_snapshots was asked for {asked}, but it is {today} (UTC) and the credits API reports only the "
        f"present, so nothing was written. Materialize the partition {today} instead; for what was spent on past "
        "days, backfill model_usage.",
        allow_retries=False,
    )


@dg.asset(
    key=KEY,
    description=__doc__,
    partitions_def=daily_partitions,
    backfill_policy=dg.BackfillPolicy.single_run(),
    pool="warehouse",
)
def credits_snapshots(
    context: dg.AssetExecutionContext, openrouter: OpenRouter, warehouse: dg.ResourceParam[AnyWarehouse]
) -> dg.MaterializeResult[None]:
    for warning in config.current().warnings:
        context.log.warning(warning)
    refuse_all_but_today(context)
    store = partial(append_readings, today=clock.today(), run_id=context.run.run_id)
    asked = accounts.ask_and_store(context, openrouter, warehouse, Client.credits, store)
    refuse_all_but_today(context)  # the UTC day may have turned while the API was asked: then nothing was stored
    balances, failures = asked.replies, asked.failures
    if not balances:
        raise dg.Failure(f"no account could be read. {accounts.failure_summary(failures)}")
    context.log.info(f"{len(balances)} of {len(balances) + len(failures)} accounts read")
    return dg.MaterializeResult(
        metadata={
            # Over some accounts only, the sum would look like spend in the plot.
            **({} if failures else {"balance_usd": float(sum(balances.values()))}),
            "accounts_read": len(balances),
            "accounts_failed": len(failures),
            accounts.FAILED: dg.MetadataValue.json(dict(failures)),
            "dagster/partition_row_count": sum(part["readings"] for part in asked.figures),
            "preview": preview_of(asked.newest),
        }
    )


def append_readings(
    shard: Tables, con: Connection, asked: accounts.Asked[Credits], today: date, run_id: str
) -> accounts.Asked[Decimal]:
    """Store the readings that are believed, unless `today` is over; the replies become balances."""
    unbelieved = {
        name: UNBELIEVED
        for name, reply in asked.replies.items()
        if reply.total_credits == reply.total_usage == 0 and shard.has_history(name, con)
    }
    believed = {name: reply for name, reply in asked.replies.items() if name not in unbelieved}
    if clock.today() == today:
        readings = [
            Reading(
                account=name,
                snapshot_date=reply.observed_at.date(),
                observed_at=reply.observed_at,
                total_credits=reply.total_credits,
                total_usage=reply.total_usage,
                key_fingerprint=asked.fingerprints[name],
                run_id=run_id,
                payload=reply.payload,
            )
            for name, reply in believed.items()
        ]
        shard.append_readings(readings, con)
    query = "select count(*) as readings from raw.credits_snapshots where snapshot_date = ?"
    return asked.of(
        {name: reply.total_credits - reply.total_usage for name, reply in believed.items()},
        failures={**asked.failures, **asked.forbidden, **unbelieved},
        forbidden={},
        figures=fetch_dicts(con, query, [today]),
    )


every_account_was_read = accounts.accounts_check(
    KEY,
    "every_account_was_read",
    "Every account with a key returned a plausible reading. If one fails, the others are still stored and published, "
    "and the run ends red naming the failed ones.",
)
