"""The two lifetime counters of every account, as the credits API shows them right now.

One row per account and reading is appended to `raw.credits_snapshots`: credits ever bought and credits ever used
(USD), the instant (UTC) and the reply itself. The API knows only the present, so a partition can be filled during
its own UTC day and never afterwards: a past day that was missed stays missing here. What was *spent* on it is known
all the same, from `model_usage`, which can be backfilled.
"""

from collections.abc import Mapping

import dagster as dg

from credits_pipeline import clock, config
from credits_pipeline.config import Account
from credits_pipeline.defs.accounts import FAILED, accounts_check, ask_every_account, failure_summary
from credits_pipeline.defs.metadata import preview
from credits_pipeline.defs.partitions import daily_partitions, requested_days
from credits_pipeline.openrouter import Client, Credits, OpenRouter
from credits_pipeline.warehouse import Reading, Warehouse

KEY = dg.AssetKey("credits_snapshots")


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


def unbelieved(replies: Mapping[Account, Credits], warehouse: Warehouse) -> dict[str, str]:
    """Accounts with history for which the API says 0 and 0, as ordinary keys have been seen to get."""
    return {
        account.name: "the API reported 0 credits and 0 usage for an account that has had both, so the reading was "
        "rejected; check that its key is still a management key of that account"
        for account, reply in replies.items()
        if reply.total_credits == reply.total_usage == 0 and warehouse.has_history(account.name)
    }


@dg.asset(
    key=KEY,
    description=__doc__,
    partitions_def=daily_partitions,
    backfill_policy=dg.BackfillPolicy.single_run(),
    pool="warehouse",
)
def credits_snapshots(
    context: dg.AssetExecutionContext, openrouter: OpenRouter, warehouse: dg.ResourceParam[Warehouse]
) -> dg.MaterializeResult[None]:
    for warning in config.current().warnings:
        context.log.warning(warning)
    refuse_all_but_today(context)
    asked = ask_every_account(openrouter, warehouse, Client.credits)
    refuse_all_but_today(context)  # the UTC day may have turned while the API was asked
    failures = asked.without_reply | unbelieved(asked.replies, warehouse)
    believed = {account: reply for account, reply in asked.replies.items() if account.name not in failures}
    if not believed:
        raise dg.Failure(f"no account could be read. {failure_summary(failures)}")
    warehouse.append_readings(
        Reading(
            account=account.name,
            snapshot_date=reply.observed_at.date(),
            observed_at=reply.observed_at,
            total_credits=reply.total_credits,
            total_usage=reply.total_usage,
            key_fingerprint=account.fingerprint,
            run_id=context.run.run_id,
            payload=reply.payload,
        )
        for account, reply in believed.items()
    )
    context.log.info(f"{len(believed)} of {len(believed) + len(failures)} accounts read")
    with warehouse.reading() as con:
        newest = preview(con, "raw.credits_snapshots")
        query = "select count(*) from raw.credits_snapshots where snapshot_date = ?"
        rows = con.execute(query, [clock.today()]).fetchall()[0][0]
    # Over some accounts only, the sum would look like spend in the plot.
    balance = float(sum(reply.total_credits - reply.total_usage for reply in believed.values()))
    return dg.MaterializeResult(
        metadata={
            **({} if failures else {"balance_usd": balance}),
            "accounts_read": len(believed),
            "accounts_failed": len(failures),
            FAILED: dg.MetadataValue.json(failures),
            "dagster/partition_row_count": rows,
            "preview": newest,
        }
    )


every_account_was_read = accounts_check(
    KEY,
    "every_account_was_read",
    "Every account with a key returned a plausible reading. If one fails, the others are still stored and published, "
    "and the run ends red naming the failed ones.",
)
