"""The two lifetime counters of every account, as the credits API shows them right now.

One row per account and reading is appended to `raw.credits_snapshots`: credits ever bought and credits ever used
(USD), the instant (UTC) and the reply itself. The API knows only the present, so a partition can be filled during
its own UTC day and never afterwards: a past day that was missed stays missing here. What was *spent* on it is known
all the same, from `model_usage`, which can be backfilled.
"""

from collections.abc import Mapping

import dagster as dg

from credits_pipeline import clock
from credits_pipeline.config import Account
from credits_pipeline.defs.accounts import (
    accounts_check,
    failure_summary,
    required_settings,
)
from credits_pipeline.defs.keys import KnownKeys
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


def unbelieved(credits: Mapping[str, Credits], warehouse: Warehouse) -> dict[str, str]:
    """Accounts with history for which the API says 0 and 0, as ordinary keys have been seen to get."""
    return {
        name: "the API reported 0 credits and 0 usage for an account that has had both, so the reading was rejected; "
        "check that its key is still a management key of that account"
        for name, reply in credits.items()
        if reply.total_credits == reply.total_usage == 0 and warehouse.has_history(name)
    }


def reading(account: Account, reply: Credits, run_id: str) -> Reading:
    return Reading(
        account=account.name,
        snapshot_date=reply.observed_at.date(),
        observed_at=reply.observed_at,
        total_credits=reply.total_credits,
        total_usage=reply.total_usage,
        key_fingerprint=account.fingerprint,
        run_id=run_id,
        source="api",
        payload=reply.payload,
    )


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
    settings = required_settings()
    for warning in settings.warnings:
        context.log.warning(warning)
    refuse_all_but_today(context)
    keys = KnownKeys(settings, warehouse)
    failures = keys.under_another_name()
    accounts = [account for account in settings.accounts if account.name not in failures]
    credits, errors = openrouter.ask_each(accounts, Client.credits)
    refuse_all_but_today(context)  # the UTC day may have turned while the API was asked
    failures |= {name: str(error) for name, error in errors.items()}
    for account in accounts:
        if account.name in credits and (reason := keys.discontinued(account, credits[account.name])):
            failures[account.name] = reason
    failures |= unbelieved(credits, warehouse)
    believed = [account for account in settings.accounts if account.name not in failures]
    if not believed:
        raise dg.Failure(f"no account could be read. {failure_summary(failures)}")
    written = warehouse.append_readings(
        reading(account, credits[account.name], context.run.run_id)
        for account in sorted(believed, key=lambda account: account.name)
    )
    context.log.info(f"{written} of {len(settings.accounts)} accounts read")
    with warehouse.reading() as con:
        newest = preview(con, "raw.credits_snapshots")
        query = "select count(*) from raw.credits_snapshots where snapshot_date = ?"
        rows = con.execute(query, [clock.today()]).fetchall()[0][0]
    # Over some accounts only, the sum would look like spend in the plot.
    balances = [credits[account.name].total_credits - credits[account.name].total_usage for account in believed]
    return dg.MaterializeResult(
        metadata={
            **({} if failures else {"balance_usd": float(sum(balances))}),
            "accounts_read": written,
            "accounts_failed": len(failures),
            "failed_accounts": dg.MetadataValue.json(failures),
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
