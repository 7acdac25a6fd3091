"""The accounts behind the simulated API: each with a key, a ledger, and keys that share its work."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal
from functools import cached_property
from typing import Any

from credits_pipeline.simulator.keys import KeyLedger, SimulatedKey, demo_keys
from credits_pipeline.simulator.ledger import (
    Ledger,
    LedgerEvent,
    ModelUsage,
    event,
    generated,
    plausible_counts,
    to_nano,
    usd,
)
from credits_pipeline.simulator.profiles import AGENTS, EVEN_HOURS, HOBBY, STEADY, Profile


class SimulatedAccount:
    """An account behind one API key, with a ledger that is made when first asked for.

    The same (profile, seed, anchor) is the same ledger everywhere and for ever. `anchor` is the day whose
    "today" the account is made for: at its midnight the balance covers about `profile.days_left` days.
    An ordinary key (`is_management_key=False`) gets 403 from management calls, or, as was seen on funded
    accounts, 200 with two zeros from GET /credits (`reads_zeros=True`).
    """

    def __init__(
        self,
        name: str,
        key: str,
        *,
        anchor: date,
        seed: int = 0,
        profile: Profile = STEADY,
        is_management_key: bool = True,
        reads_zeros: bool = False,
        keys: Sequence[SimulatedKey] = (SimulatedKey("app"),),
        unkeyed: int = 0,
    ) -> None:
        self.name = name
        self.key = key
        self.anchor = anchor
        self.is_management_key = is_management_key
        self.reads_zeros = reads_zeros
        self.keys, self.unkeyed = tuple(keys), unkeyed
        self._make_ledger: Callable[[], Ledger] = lambda: generated(profile, seed, anchor)

    def __repr__(self) -> str:
        return f"SimulatedAccount({self.name!r})"

    @classmethod
    def from_ledger(
        cls,
        name: str,
        key: str,
        *,
        days: Mapping[date, Mapping[str, Decimal]],
        credits: Iterable[tuple[datetime, Decimal]],
        corrections: Iterable[tuple[datetime, Decimal]] = (),
        hours: Sequence[int] = EVEN_HOURS,
        **options: Any,
    ) -> "SimulatedAccount":
        """An account with exactly these figures: USD by day and model, signed moves of credits and of usage.

        Spend accrues evenly over the 24 hours unless `hours` says otherwise. Counts follow from the cost.
        Further options are those of the constructor.
        """
        events = [event(at, "top_up" if amount >= 0 else "credit_decrease", amount) for at, amount in credits]
        events += [event(at, "usage_correction", amount) for at, amount in corrections]
        counted = {
            day: {model: plausible_counts(to_nano(amount)) for model, amount in models.items()}
            for day, models in days.items()
        }
        ledger = Ledger(counted, events, hours)
        anchor = max(counted, default=date(2026, 1, 1))
        account = cls(name, key, anchor=anchor, **options)
        account._make_ledger = lambda: ledger
        return account

    @cached_property
    def ledger(self) -> Ledger:
        return self._make_ledger()

    @cached_property
    def key_ledger(self) -> KeyLedger:
        return KeyLedger(self.ledger, self.keys, self.unkeyed)

    @property
    def events(self) -> tuple[LedgerEvent, ...]:
        """Top-ups, credit decreases and usage corrections, in order of time."""
        return self.ledger.events

    def usage_at(self, instant: datetime) -> Decimal:
        """`total_usage` at an instant, USD."""
        return usd(self.ledger.usage_at(instant))

    def credits_at(self, instant: datetime) -> Decimal:
        """`total_credits` at an instant, USD."""
        return usd(self.ledger.credits_at(instant))

    def billed(self, day: date, at: datetime | None = None) -> dict[str, ModelUsage]:
        """What each model cost on a UTC day: all of it, or what had accrued by `at`."""
        return {
            model: ModelUsage(usd(counts.credits), usd(counts.byok), *counts[2:])
            for model, counts in sorted(self.ledger.used(day, until=at).items())
        }

    def billed_by(self, dimension: str, day: date, at: datetime | None = None) -> dict[tuple[str, str], ModelUsage]:
        """What each member of a dimension cost on a UTC day, by member and model, all of it or by `at`."""
        used = sorted(self.key_ledger.used(dimension, day, at).items())
        return {part: ModelUsage(usd(counts.credits), usd(counts.byok), *counts[2:]) for part, counts in used}

    def spend(self, day: date, at: datetime | None = None) -> Decimal:
        """The day's bill in USD, all of it or by `at`: how far the counter moves, corrections apart."""
        return usd(sum(counts.credits for counts in self.ledger.used(day, until=at).values()))


def demo_accounts(anchor: date) -> list[SimulatedAccount]:
    """A weekday business, an agent workload in bursts, and a hobby: very different questions of "when"."""
    profiles = {"default": STEADY, "agents": AGENTS, "hobby": HOBBY}
    keys = demo_keys(anchor)
    return [
        SimulatedAccount(name, f"sk-or-v1-simulated-{name}", anchor=anchor, profile=profile, keys=keys[name], unkeyed=1)
        for name, profile in profiles.items()
    ]
