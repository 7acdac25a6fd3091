"""Whose keys these are: an account is known by its key's fingerprint, which stands beside every reading.

A key under another name would have its account counted twice; another account's key under the same name would turn the
difference between two strangers into spend. Neither is believed without a word from the user.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from credits_pipeline.config import KEY_VARIABLE, Account
from credits_pipeline.openrouter import Credits, OpenRouterError
from credits_pipeline.warehouse import AnyWarehouse, Tables, fetch_dicts
from credits_pipeline.wording import usd

# A counter that has more than doubled since a key was replaced belongs to somebody else. Below this (USD, lifetime)
# it says nothing: a young account doubles in a day.
LEAST_JUMP_USD = Decimal(100)

NEWEST_READINGS = Path(__file__).with_name("newest_readings.sql")


KeyNames = Mapping[str, Sequence[str]]
"""By a key's fingerprint, the accounts that were read with it, the newest reading's first."""


def names_by_key(warehouse: AnyWarehouse) -> KeyNames:
    """Of all shards: an account that gets another name may get to another one."""
    seen = sorted((row for part in warehouse.each(_seen) for row in part), key=lambda row: row[2], reverse=True)
    names = defaultdict(list)
    for fingerprint, account, _ in seen:
        names[fingerprint].append(account)
    return dict(names)


def _seen(shard: Tables) -> list[tuple[str, str, datetime]]:
    with shard.reading("looking whose keys these are") as con:
        return con.execute(
            "select key_fingerprint, account, max(observed_at) from raw.credits_snapshots"
            " where key_fingerprint is not null group by all order by account"
        ).fetchall()


def newest_readings(shard: Tables) -> dict[str, dict[str, Any]]:
    """What the newest reading of each account of a shard says: its key's fingerprint (null: imported), and counters."""
    with shard.reading("looking at the newest readings") as con:
        return {row["account"]: row for row in fetch_dicts(con, NEWEST_READINGS)}


def under_another_name(accounts: Sequence[Account], names: KeyNames) -> dict[str, str]:
    """Accounts that are not to be asked for anything, each with the sentence that says what to do."""
    keys = {account.name: account.fingerprint for account in accounts}
    refused = {}
    for name, fingerprint in keys.items():
        others = names.get(fingerprint, [name])
        # Under two names at once is allowed: it is warned of whenever the settings are read.
        if name not in others and not any(keys.get(other) == fingerprint for other in others):
            refused[name] = (
                f"the readings of this key are stored under the name {others[0]}, and would be counted twice: run"
                f" `make rename FROM={others[0]} TO={name}`, or give the key its former name again"
            )
    return refused


def compare(account: Account, before: dict[str, Any], now: Credits) -> None:
    """Raise OpenRouterError where the counters behind a new key do not go on from the newest reading, `before`."""
    bought, used = before["bought"], before["used"]
    days = max((now.observed_at.replace(tzinfo=None) - before["observed_at"]).days, 1)
    believable = max(used, LEAST_JUMP_USD) * days
    if now.total_credits < bought or not 0 <= now.total_usage - used <= believable:
        raise OpenRouterError(
            f"its key is another one than before, and the counters do not go on (bought {usd(bought)}, then"
            f" {usd(now.total_credits)}; used {usd(used)}, then {usd(now.total_usage)}), so nothing was stored:"
            f" give another account's key a name of its own, in {KEY_VARIABLE}_<NAME>; if it is the same account,"
            f" say so with CREDITS_ACCEPT_KEY={account.fingerprint}"
        )
