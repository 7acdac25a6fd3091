"""What was billed, per account, UTC day and model (USD), from the analytics API: the only source for the past.

Any of the last 365 days can be (back)filled, a whole range in one run and one request per account. A day is replaced
as a whole, in one transaction, in `raw.model_usage`; `raw.model_usage_days` says which days are known, a day on which
nothing was billed included. The running day is partial until it has been read again after its end, which the daily
run (today and the three days before it) and the schedule `history_backfill` see to.
"""

from collections.abc import Iterator, Mapping
from datetime import date, timedelta
from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING, Any

import dagster as dg

from credits_pipeline import clock, config
from credits_pipeline.config import Account
from credits_pipeline.defs.accounts import (
    accounts_check,
    failure_summary,
    newest_metadata,
    required_settings,
    stored_json,
)
from credits_pipeline.defs.assets import credits_snapshots
from credits_pipeline.defs.keys import KnownKeys
from credits_pipeline.defs.metadata import preview
from credits_pipeline.defs.partitions import daily_partitions, requested_days
from credits_pipeline.openrouter import Client, Forbidden, OpenRouter, OpenRouterError, Usage
from credits_pipeline.warehouse import Warehouse

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection as Connection

KEY = dg.AssetKey("model_usage")

# How far back the API answers. Source: the vendor's documentation of POST /analytics/query.
HISTORY_DAYS = 365

# A day's bill still moves after its end (when it becomes final is not documented), so a run that takes the
# running day takes these days again.
DAYS_READ_AGAIN = 3

KEYS_WITHOUT_ANALYTICS = "keys_without_analytics"

# Per account and day, the sum billed (USD): before (None where the day was unknown) and after.
Changes = Mapping[str, Mapping[date, tuple[Decimal | None, Decimal]]]


def oldest_day() -> date:
    """The first day that can be asked for: 365 days ago, or CREDITS_START_DATE where that is later."""
    return max(config.current().start_date, clock.today() - timedelta(days=HISTORY_DAYS))


def days_to_fetch(context: dg.AssetExecutionContext) -> tuple[date, date]:
    """The days asked for; with today among them, the three days before it as well."""
    first, last = requested_days(context)
    oldest, today = oldest_day(), clock.today()
    if first < oldest or last > today:
        raise dg.Failure(
            f"model_usage was asked for {first} to {last}, but the API only covers {oldest} to {today} (UTC), "
            "so nothing was written. Choose partitions within these days.",
            allow_retries=False,
        )
    if last == today:
        first = max(min(first, today - timedelta(days=DAYS_READ_AGAIN)), oldest)
    return first, last


class Progress:
    """Says in the log how far a range has come, account by account."""

    def __init__(self, log: dg.DagsterLogManager, days: int) -> None:
        self._log, self._days, self._done = log, days, dict[str, int]()

    def range_done(self, account: str, first: date, last: date) -> None:
        self._done[account] = done = self._done.get(account, 0) + (last - first).days + 1
        self._log.info(f"{account}: {first} to {last} read, {done} of {self._days} days")


def stored(warehouse: Warehouse, usage: Mapping[str, Usage], run_id: str) -> Changes:
    """Replace the fetched days of every account, in one transaction."""
    if not usage:
        return {}
    with warehouse.writing("storing what was billed") as con:
        return {
            name: warehouse.replace_usage(
                name, reply.first, reply.last, reply.rows, fetched_at=reply.fetched_at, run_id=run_id, con=con
            )
            for name, reply in sorted(usage.items())
        }


def change_in_stored_days(changes: Changes) -> dict[str, str]:
    """How much each day that had been stored before has moved (USD), those that did only."""
    return {
        f"{account} {day}": f"{new - old:+f}"
        for account, days in sorted(changes.items())
        for day, (old, new) in sorted(days.items())
        if old is not None and new != old
    }


@dg.asset(
    key=KEY,
    description=__doc__,
    partitions_def=daily_partitions,
    backfill_policy=dg.BackfillPolicy.single_run(),
    pool="warehouse",
)
def model_usage(
    context: dg.AssetExecutionContext, openrouter: OpenRouter, warehouse: dg.ResourceParam[Warehouse]
) -> Iterator[dg.AssetMaterialization | dg.MaterializeResult[None]]:
    settings = required_settings()
    first, last = days_to_fetch(context)
    progress = Progress(context.log, (last - first).days + 1)
    keys = KnownKeys(settings, warehouse)

    async def ask(client: Client, account: Account) -> Usage:
        if keys.is_new(account) and (reason := keys.discontinued(account, await client.credits(account))):
            raise OpenRouterError(reason)
        return await client.usage(account, first, last, partial(progress.range_done, account.name))

    failures = keys.under_another_name()
    accounts = [account for account in settings.accounts if account.name not in failures]
    usage, errors = openrouter.ask_each(accounts, ask)
    forbidden = {name: str(error) for name, error in errors.items() if isinstance(error, Forbidden)}
    failures |= {name: str(error) for name, error in errors.items() if name not in forbidden}
    changes = change_in_stored_days(stored(warehouse, usage, context.run.run_id))
    for name, reply in usage.items():
        if reply.first > first:
            context.log.warning(f"{name}: the API no longer tells the bill of {first}, which stays unknown")
    for name, reason in forbidden.items():
        context.log.warning(f"{name}: no analytics with this key, its spend comes from readings alone. {reason}")
    if failures and not usage and not forbidden and is_only_source(context):
        raise dg.Failure(f"no account's bill could be fetched. {failure_summary(failures)}")
    with warehouse.reading() as con:
        newest = preview(con, "raw.model_usage")
        # Over some accounts only, the sum would look like spend in the plot.
        figures = {} if failures else figures_by_day(con, first, last)
    if usage:
        asked, _ = requested_days(context)
        for day in (first + timedelta(days=n) for n in range((last - first).days + 1)):
            if day < asked:  # read again with those asked for, so it is recorded as well
                again = "read again with the running day"
                yield dg.AssetMaterialization(
                    KEY, partition=day.isoformat(), metadata=figures.get(day), description=again
                )
            else:
                context.add_asset_metadata(figures.get(day, {}), partition_key=day.isoformat())
    context.add_asset_metadata({"preview": newest}, partition_key=last.isoformat())
    yield dg.MaterializeResult(
        metadata={
            "days": (last - first).days + 1,
            "requests": sum(u.requests_made for u in usage.values()),
            "days_changed": len(changes),
            "changed_days_usd": dg.MetadataValue.json(changes),
            "accounts_read": len(usage),
            "accounts_without_analytics": dg.MetadataValue.json(forbidden),
            KEYS_WITHOUT_ANALYTICS: dg.MetadataValue.json(
                {account.name: account.fingerprint for account in accounts if account.name in forbidden}
            ),
            "failed_accounts": dg.MetadataValue.json(failures),
        }
    )


def is_only_source(context: dg.AssetExecutionContext) -> bool:
    """Whether this run takes no readings: then nothing is lost if it ends here, with no day recorded as fetched."""
    return credits_snapshots.KEY not in context.job_def.asset_layer.executable_asset_keys


def figures_by_day(con: "Connection", first: date, last: date) -> dict[date, dict[str, Any]]:
    """What was billed each day, by all accounts: by those, too, that have no key any more and were not asked."""
    rows = con.execute(
        """
        select usage_date, sum(credits_usd)::double, (
            select count(*) from raw.model_usage as models where models.usage_date = days.usage_date
        )
        from raw.model_usage_days as days where usage_date between ? and ? group by usage_date
        """,
        [first, last],
    ).fetchall()
    return {day: {"billed_usd": usd, "dagster/partition_row_count": models} for day, usd, models in rows}


def keys_without_analytics(instance: dg.DagsterInstance) -> set[str]:
    """Fingerprints of the keys that were refused when the bill was last asked for; another key may be the right one."""
    return set(stored_json(newest_metadata(instance, KEY), KEYS_WITHOUT_ANALYTICS).values())


every_account_was_fetched = accounts_check(
    KEY,
    "every_account_was_fetched",
    "The bill of each account could be read. A key that may not use analytics is a warning: the account keeps working "
    "from its readings. Any other failure ends the run red, after all else is done.",
)
