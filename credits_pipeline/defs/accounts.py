"""What both raw assets say of accounts: which could not be done, and why."""

from collections.abc import Iterator, Mapping

import dagster as dg

from credits_pipeline import config
from credits_pipeline.text import markdown


def required_settings() -> config.Settings:
    """The configuration, or a Failure that names the wrong variable. Never retried: it will not mend itself."""
    try:
        return config.current().require()
    except config.ConfigError as error:
        raise dg.Failure(str(error), allow_retries=False) from None


def failure_summary(failures: Mapping[str, object]) -> str:
    """`failures` as one line: each account and its reason."""
    return "; ".join(f"{account}: {reason}" for account, reason in sorted(failures.items()))


def accounts_check(key: dg.AssetKey, name: str, description: str) -> dg.AssetChecksDefinition:
    """A check that says which accounts this run's materialization of `key` lacks, and ends the run red if any failed.

    A check's step is the one place for both: what lies downstream of the asset does not wait for it, so the other
    accounts' figures are published, and a step that raises makes the run a failure.
    """

    @dg.multi_asset_check(name=name, specs=[dg.AssetCheckSpec(name, asset=key, description=description)])
    def verdict(context: dg.AssetCheckExecutionContext) -> Iterator[dg.AssetCheckResult]:
        metadata = metadata_of_run(context.instance, context.run.run_id, key)
        failed = stored_json(metadata, "failed_accounts")
        warned = stored_json(metadata, "accounts_without_analytics")
        summary = failure_summary(failed | warned)
        yield dg.AssetCheckResult(
            asset_key=key,
            check_name=name,
            passed=not failed and not warned,
            severity=dg.AssetCheckSeverity.ERROR if failed else dg.AssetCheckSeverity.WARN,
            # Markdown to the UI, and a server's words are in it: escaped here, plain in the metadata, for alerts.
            description=markdown(summary) or "every account answered",
            metadata={
                "accounts_failed": len(failed),
                "accounts_without_analytics": len(warned),
                "reason": summary,
            },
        )
        if failed:
            raise dg.Failure(f"{key.to_user_string()}: {failure_summary(failed)}", allow_retries=False)

    return verdict


def metadata_of_run(instance: dg.DagsterInstance, run_id: str, key: dg.AssetKey) -> Mapping[str, dg.MetadataValue]:
    """What a run said of an asset; where it did not materialize it (a check run by itself), the newest one."""
    of_run = instance.get_records_for_run(run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION).records
    events = [record.event_log_entry.asset_materialization for record in of_run]
    mine = [event for event in events if event and event.asset_key == key]
    return mine[-1].metadata if mine else newest_metadata(instance, key)


def newest_metadata(instance: dg.DagsterInstance, key: dg.AssetKey) -> Mapping[str, dg.MetadataValue]:
    event = instance.get_latest_materialization_event(key)
    return event.asset_materialization.metadata if event and event.asset_materialization else {}


def stored_json(metadata: Mapping[str, dg.MetadataValue], name: str) -> dict[str, str]:
    """A JSON object out of a materialization's metadata; empty where there is none."""
    value = metadata[name].value if name in metadata else None
    return {str(k): str(v) for k, v in value.items()} if isinstance(value, dict) else {}
