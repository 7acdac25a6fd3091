"""Whose keys these are: an account is known by its key's fingerprint, which stands beside every reading.

A key under another name would have its account counted twice; another account's key under the same name would turn the
difference between two strangers into spend. Neither is believed without a word from the user.
"""

from collections import defaultdict
from collections.abc import Sequence
from decimal import Decimal
from operator import itemgetter
from pathlib import Path

from credits_pipeline.config import KEY_VARIABLE, Account
from credits_pipeline.defs.metadata import Row
from credits_pipeline.openrouter import Credits, OpenRouterError
from credits_pipeline.warehouse import AnyWarehouse, Tables, fetch_dicts
from credits_pipeline.wording import usd

# A counter that has more than doubled since a key was replaced belongs to somebody else. Below this (USD, lifetime)
# it says nothing: a young account doubles in a day.
LEAST_JUMP_USD = Decimal(100)

NEWEST_READINGS = Path(__file__).with_name("newest_readings.sql")


def newest_readings(warehouse: AnyWarehouse) -> list[Row]:
    """The newest reading of each account with each key: the key's fingerprint (null: imported), and the counters.

    The newest first; of all shards, since an account that gets another name may get to another one.
    """
    rows = [row for part in warehouse.each(_newest_readings) for row in part]
    return sorted(rows, key=itemgetter("observed_at"), reverse=True)


def _newest_readings(shard: Tables) -> list[Row]:
    with shard.reading("looking whose keys these are") as con:
        return fetch_dicts(con, NEWEST_READINGS)


def under_another_name(accounts: Sequence[Account], readings: Sequence[Row]) -> dict[str, str]:
    """Accounts that are not to be asked for anything, each with the sentence that says what to do."""
    keys, names = {account.name: account.fingerprint for account in accounts}, defaultdict(list)
    for reading in readings:
        names[reading["fingerprint"]].append(reading["account"])
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


def compare(account: Account, before: Row, now: Credits) -> None:
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
