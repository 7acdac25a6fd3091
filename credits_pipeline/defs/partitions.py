"""Daily partitions and what every raw asset needs to know about a run: its days and its accounts."""

import inspect
from collections.abc import Iterator, Mapping
from datetime import date

import dagster as dg

from credits_pipeline import clock, config
from credits_pipeline.text import markdown

# Materializations looked through for one of a run: as many as a year's backfill beside it records.
RECENT = 400

# A partition is a UTC day, as the vendor bills; today is one too.
daily_partitions = dg.DailyPartitionsDefinition(
    start_date=config.current().start_date.isoformat(), timezone="UTC", end_offset=1
)


def requested_days(context: dg.AssetExecutionContext) -> tuple[date, date]:
    """First and last UTC day (inclusive) that this run was asked for."""
    keys = context.partition_key_range
    return date.fromisoformat(keys.start), date.fromisoformat(keys.end)


def required_settings() -> config.Settings:
    """The configuration, or a Failure that names the wrong variable. Never retried: it will not mend itself."""
    try:
        return config.current().require()
    except config.ConfigError as error:
        raise dg.Failure(str(error), allow_retries=False) from None


def failure_summary(failures: Mapping[str, object]) -> str:
    """`failures` as one line: each account and its reason."""
    return "; ".join(f"{account}: {reason}" for account, reason in sorted(failures.items()))


def description(module_doc: str | None) -> str:
    """A module's docstring as an asset's description."""
    return inspect.cleandoc(module_doc or "")


def today_key() -> str:
    """The running UTC day as a partition key."""
    return clock.today().isoformat()


def accounts_verdict(
    context: dg.AssetCheckExecutionContext, key: dg.AssetKey, check: str
) -> Iterator[dg.AssetCheckResult]:
    """Say which accounts the latest materialization of `key` could not do, and end the run red if any.

    A check's step is the one place for both: what lies downstream of the asset does not wait for it, so the other
    accounts' figures are published, and a step that raises makes the run a failure.
    """
    newest = context.instance.fetch_materializations(key, limit=RECENT).records
    # Of this run, though another may have ended since; a check run by itself speaks of the newest.
    mine = [record for record in newest if record.run_id == context.run.run_id] or newest
    event = mine[0].asset_materialization if mine else None
    metadata = event.metadata if event else {}
    failed = stored_json(metadata, "failed_accounts")
    warned = stored_json(metadata, "accounts_without_analytics")
    yield dg.AssetCheckResult(
        asset_key=key,
        check_name=check,
        passed=not failed and not warned,
        severity=dg.AssetCheckSeverity.ERROR if failed else dg.AssetCheckSeverity.WARN,
        # Markdown to the UI, and a server's own words are in it: escaped here, plain in the metadata, for alerts.
        description=markdown(failure_summary(failed | warned)) or "every account answered",
        metadata={
            "accounts_failed": len(failed),
            "accounts_without_analytics": len(warned),
            "reason": failure_summary(failed | warned),
        },
    )
    if failed:
        raise dg.Failure(f"{key.to_user_string()}: {failure_summary(failed)}", allow_retries=False)


def stored_json(metadata: Mapping[str, dg.MetadataValue], name: str) -> dict[str, str]:
    """A JSON object out of a materialization's metadata; empty where there is none."""
    value = metadata[name].value if name in metadata else None
    return {str(k): str(v) for k, v in value.items()} if isinstance(value, dict) else {}
