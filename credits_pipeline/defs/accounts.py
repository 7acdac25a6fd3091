"""Asking every account, the same way for each raw asset: what came back, which gave no reply, and why."""

from collections import ChainMap
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeAlias, TypeVar

import dagster as dg

from credits_pipeline import config
from credits_pipeline.config import Account
from credits_pipeline.defs.keys import compare, newest_readings, under_another_name
from credits_pipeline.defs.metadata import Newest, Row, newest
from credits_pipeline.openrouter import Client, Forbidden, OpenRouter
from credits_pipeline.text import markdown
from credits_pipeline.warehouse import AnyWarehouse, Connection, Tables

T = TypeVar("T")
U = TypeVar("U")

FAILED, FORBIDDEN, FORBIDDEN_KEYS = "failed_accounts", "accounts_without_analytics", "keys_without_analytics"
"""Metadata: a sentence per account that failed, or whose key may not ask for this; the fingerprints of such keys."""


@dataclass(frozen=True)
class Asked(Generic[T]):
    """What became of asking, by account: the replies in the order of names, or a sentence that says why there is none.

    It holds no key, for it travels where shards are worked on by other machines.
    """

    replies: Mapping[str, T]
    failures: Mapping[str, str]
    forbidden: Mapping[str, str]
    fingerprints: Mapping[str, str]  # of the keys that were asked with
    figures: Sequence[Row] = ()  # about partitions
    newest: Sequence[Newest] = ()  # rows of the table, a part for each shard

    def of(self, replies: Mapping[str, U], **others: Any) -> "Asked[U]":
        """The same, with what became of the replies in their place."""
        return Asked(**{**vars(self), "replies": replies, **others})

    def metadata(self) -> dict[str, Any]:
        """What `accounts_check` reads."""
        return {
            "accounts_read": len(self.replies),
            FAILED: dg.MetadataValue.json(dict(self.failures)),
            FORBIDDEN: dg.MetadataValue.json(dict(self.forbidden)),
            FORBIDDEN_KEYS: dg.MetadataValue.json({name: self.fingerprints[name] for name in self.forbidden}),
        }


Ask: TypeAlias = Callable[[Client, Account], Awaitable[T]]
Store: TypeAlias = Callable[[Tables, Connection, Asked[T]], Asked[U]]


def ask_and_store(
    context: dg.AssetExecutionContext,
    openrouter: OpenRouter,
    warehouse: AnyWarehouse,
    ask: Ask[T],
    store: Store[T, U],
    without: str = "",
) -> Asked[U]:
    """Ask for all accounts, and have `store` put what a shard's say into the raw table that has the asset's name.

    Both are functions of a module, for they may be called on other machines. `without` says in the log what a key that
    may not ask lacks. Raises a Failure, never retried, that names a wrong setting: it will not mend itself.
    """
    try:
        config.current().require()
    except config.ConfigError as error:
        raise dg.Failure(str(error), allow_retries=False) from None
    table = f"raw.{context.asset_key.to_user_string()}"
    parts = warehouse.each(_ask_and_store, openrouter, newest_readings(warehouse), ask, store, table)
    maps: dict[str, Any] = {
        name: dict(sorted(ChainMap(*(getattr(part, name) for part in parts)).items()))
        for name in ("replies", "failures", "forbidden", "fingerprints")
    }
    figures, rows = ([row for part in parts for row in part.figures], [row for part in parts for row in part.newest])
    asked: Asked[U] = Asked(**maps, figures=figures, newest=rows)
    for name, reason in asked.forbidden.items():
        context.log.warning(f"{name}: {without}: {reason}")
    return asked


def _ask_and_store(
    shard: Tables, openrouter: OpenRouter, readings: Sequence[Row], ask: Ask[T], store: Store[T, U], table: str
) -> Asked[U]:
    """Of a shard: ask for all at once, but those whose key belongs to another name or another account."""
    settings = config.current().require()
    mine = [account for account in settings.accounts if shard.holds(account.name)]
    before = {row["account"]: row for row in reversed(readings)}
    keys = {row["account"]: row["fingerprint"] for row in reversed(readings) if row["fingerprint"]}
    refused = under_another_name(settings.accounts, readings)

    async def ask_its_own(client: Client, account: Account) -> T:
        if account.fingerprint not in {keys.get(account.name, account.fingerprint), *settings.accepted_keys}:
            compare(account, before[account.name], await client.credits(account))
        return await ask(client, account)

    replies, errors = openrouter.ask_each([account for account in mine if account.name not in refused], ask_its_own)
    forbidden = {name: str(error) for name, error in errors.items() if isinstance(error, Forbidden)}
    failures = {account.name: refused[account.name] for account in mine if account.name in refused}
    failures |= {name: str(error) for name, error in errors.items() if name not in forbidden}
    fingerprints = {account.name: account.fingerprint for account in mine}
    asked = Asked(dict(sorted(replies.items())), failures, forbidden, fingerprints)
    with shard.writing(f"storing {table}") as con:
        stored = store(shard, con, asked)
        return stored.of(stored.replies, newest=[newest(con, table)])


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
        events = context.instance.get_records_for_run(
            context.run.run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION
        ).records
        of_run = [event.event_log_entry.asset_materialization for event in events]
        mine = [event.metadata for event in of_run if event and event.asset_key == key]
        # A check that is run by itself speaks of the newest.
        metadata = mine[-1] if mine else newest_metadata(context.instance, key)
        failed, warned = stored_json(metadata, FAILED), stored_json(metadata, FORBIDDEN)
        summary = failure_summary(failed | warned)
        yield dg.AssetCheckResult(
            asset_key=key,
            check_name=name,
            passed=not failed and not warned,
            severity=dg.AssetCheckSeverity.ERROR if failed else dg.AssetCheckSeverity.WARN,
            # Markdown to the UI, and a server's words are in it: escaped here, plain in the metadata, for alerts.
            description=markdown(summary) or "every account answered",
            metadata={"accounts_failed": len(failed), FORBIDDEN: len(warned), "reason": summary},
        )
        if failed:
            raise dg.Failure(f"{key.to_user_string()}: {failure_summary(failed)}", allow_retries=False)

    return verdict


def newest_metadata(instance: dg.DagsterInstance, key: dg.AssetKey) -> Mapping[str, dg.MetadataValue]:
    event = instance.get_latest_materialization_event(key)
    return event.asset_materialization.metadata if event and event.asset_materialization else {}


def stored_json(metadata: Mapping[str, dg.MetadataValue], name: str) -> dict[str, str]:
    """A JSON object out of a materialization's metadata; empty where there is none."""
    value = metadata[name].value if name in metadata else None
    return {str(k): str(v) for k, v in value.items()} if isinstance(value, dict) else {}
