"""What a simulated account bought and used: the truth behind the simulated API, for tests to compare with.

Money is kept as whole nano-dollars (1e-9 USD), so every sum is exact; it is handed out as `Decimal` USD.
Days are UTC days, instants are aware.

Generated ledgers use `random.Random(text).random()` and + - * / on floats only: all of these give the same
bits on every Python and platform, which `gauss`, `exp` or `pow` do not promise.
"""

import random
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from functools import lru_cache
from typing import NamedTuple

from credits_pipeline.simulator.models import MODELS, Model
from credits_pipeline.simulator.profiles import Profile
from credits_pipeline.simulator.wire import NANO

HOUR_US = 3_600_000_000
# The ledger begins before the 365 days that the API tells, and goes on after the anchor for clocks that move.
DAYS_BEFORE_ANCHOR = 400
DAYS_AFTER_ANCHOR = 100
# A new model takes over from the old one within two weeks, as teams do it.
SWITCH_DAYS = 14
# What the vendor keeps of inference paid for with the user's own provider key, in percent.
BYOK_FEE_PERCENT = 5


class Counts(NamedTuple):
    """One model's use, money in nano-dollars."""

    credits: int = 0
    byok: int = 0
    requests: int = 0
    prompt: int = 0
    completion: int = 0
    reasoning: int = 0
    cached: int = 0

    def share(self, done: int, whole: int) -> "Counts":
        """What of it has accrued when `done` of `whole` parts of the day's work are done, rounded down."""
        return Counts(*(value * done // whole for value in self))

    def minus(self, other: "Counts") -> "Counts":
        return Counts(*(mine - theirs for mine, theirs in zip(self, other, strict=True)))

    def plus(self, other: "Counts") -> "Counts":
        return Counts(*(mine + theirs for mine, theirs in zip(self, other, strict=True)))


@dataclass(frozen=True)
class ModelUsage:
    """What one model cost on one UTC day. USD; named as in `raw.model_usage`."""

    credits_usd: Decimal
    byok_usd: Decimal
    requests: int
    prompt_tokens: int
    completion_tokens: int
    reasoning_tokens: int
    cached_tokens: int


@dataclass(frozen=True)
class LedgerEvent:
    """A move of a counter that is no spend. `amount_usd` is signed; kinds as in `marts.credit_events`."""

    at: datetime
    kind: str  # top_up, credit_decrease, usage_correction
    amount_usd: Decimal


def usd(nano: int) -> Decimal:
    return Decimal(nano).scaleb(-9)


def to_nano(amount: Decimal | int | str) -> int:
    nano = Decimal(amount) * NANO
    if nano != nano.to_integral_value():
        raise ValueError(f"{amount} USD has more than 9 decimals: round it first")
    return int(nano)


def midnight(day: date) -> datetime:
    return datetime.combine(day, time(), tzinfo=UTC)


class Ledger:
    """Every day's use by model, and every move of the credits.

    Within a day, spend accrues by `hours` (24 weights) and evenly within each hour, rounded down to a
    nano-dollar per model: it never falls, and at the next midnight it is the day's figure exactly.
    """

    def __init__(
        self, days: Mapping[date, Mapping[str, Counts]], events: Iterable[LedgerEvent], hours: Sequence[int]
    ) -> None:
        self.days = dict(sorted(days.items()))
        self.events = tuple(sorted(events, key=lambda event: event.at))
        self.hours = tuple(hours)
        self._dates = list(self.days)
        self._before = [0]  # nano-dollars used before the n-th day
        for models in self.days.values():
            self._before.append(self._before[-1] + sum(counts.credits for counts in models.values()))

    def used(self, day: date, since: datetime | None = None, until: datetime | None = None) -> dict[str, Counts]:
        """What each model used on `day`, of it only what accrued in [since, until)."""
        models = self.days.get(day, {})
        begin = self._work_done(day, since) if since else 0
        end = self._work_done(day, until) if until else self._whole_day
        if begin == 0 and end == self._whole_day:
            return dict(models)
        whole = self._whole_day
        parts = {
            model: counts.share(end, whole).minus(counts.share(begin, whole)) if begin < end else Counts()
            for model, counts in models.items()
        }
        return {model: counts for model, counts in parts.items() if any(counts)}

    def usage_at(self, instant: datetime) -> int:
        """The lifetime counter `total_usage`, nano-dollars: everything billed by then, and corrections."""
        day = instant.astimezone(UTC).date()
        today = self.used(day, until=instant)
        return (
            self._before[bisect_left(self._dates, day)]
            + sum(counts.credits for counts in today.values())
            + self._moved(instant, lambda kind: kind == "usage_correction")
        )

    def credits_at(self, instant: datetime) -> int:
        """The lifetime counter `total_credits`, nano-dollars."""
        return self._moved(instant, lambda kind: kind != "usage_correction")

    def when_usage_reaches(self, nano: int) -> datetime | None:
        """The first full hour by whose end at least `nano` was used, corrections apart; None if never."""
        index = bisect_left(self._before, nano)
        if index > len(self._dates) or index == 0:
            return None
        day, used_before = self._dates[index - 1], self._before[index - 1]
        for hour in range(1, 25):
            instant = midnight(day) + timedelta(hours=hour)
            done = instant if hour < 24 else None
            if used_before + sum(c.credits for c in self.used(day, until=done).values()) >= nano:
                return instant
        return None

    @property
    def _whole_day(self) -> int:
        return sum(self.hours) * HOUR_US

    def _work_done(self, day: date, instant: datetime) -> int:
        elapsed = (instant - midnight(day)) // timedelta(microseconds=1)
        elapsed = min(max(elapsed, 0), 24 * HOUR_US)
        hour, rest = divmod(elapsed, HOUR_US)
        return sum(self.hours[:hour]) * HOUR_US + (self.hours[hour] * rest if rest else 0)

    def _moved(self, instant: datetime, wanted: Callable[[str], bool]) -> int:
        return sum(to_nano(e.amount_usd) for e in self.events if e.at <= instant and wanted(e.kind))


# One ledger per (profile, seed, anchor), shared: 200 accounts with ten seeds cost ten ledgers.
@lru_cache(maxsize=256)
def generated(profile: Profile, seed: int, anchor: date) -> Ledger:
    luck = random.Random(f"{profile.name} {seed}")  # noqa: S311 - no secret, the same everywhere
    days: dict[date, dict[str, Counts]] = {}
    is_busy = False
    for offset in range(-DAYS_BEFORE_ANCHOR, DAYS_AFTER_ANCHOR + 1):
        day = anchor + timedelta(days=offset)
        is_busy = luck.random() < (profile.busy_goes_on if is_busy else profile.busy_begins)
        progress = (offset + DAYS_BEFORE_ANCHOR) / DAYS_BEFORE_ANCHOR
        level = profile.usd_at_first + (profile.usd_at_anchor - profile.usd_at_first) * progress
        noise = 0.5 + (luck.random() + luck.random() + luck.random()) / 3
        pace = profile.busy if is_busy else profile.calm
        is_quiet = 0 <= offset + profile.quiet_week_days_ago < 7
        target = 0.0 if is_quiet else level * profile.weekdays[day.weekday()] * noise * pace
        days[day] = _day_of_work(profile, luck, offset, target)
    spending = Ledger(days, (), profile.hours)
    return Ledger(days, _moves(profile, spending, anchor), profile.hours)


def _day_of_work(profile: Profile, luck: random.Random, offset: int, target_usd: float) -> dict[str, Counts]:
    switched = min(max((offset + profile.switch_days_ago) / SWITCH_DAYS, 0.0), 1.0)
    work = {}
    for slug, share_before, share_after in profile.models:
        share = share_before + (share_after - share_before) * switched
        mood, prompts, answers = (0.8 + 0.4 * luck.random() for _ in range(3))
        if target_usd * share > 0:
            counts = _work(MODELS[slug], target_usd * share * mood, prompts, answers)
            if counts.requests:
                work[slug] = counts
    return work


def _work(model: Model, target_usd: float, prompts: float, answers: float) -> Counts:
    """Requests that cost about the target; the cost is then worked out from the tokens, exactly."""
    requests = int(target_usd * NANO / model.nano_per_request())
    prompt = int(requests * model.prompt * prompts)
    completion = int(requests * model.completion * answers)
    cached = prompt * model.cached_percent // 100
    reasoning = completion * model.reasoning_percent // 100
    cost = (prompt - cached) * model.input_nano + cached * model.cached_nano + completion * model.output_nano
    if model.is_free:
        cost = 0
    credits, byok = (cost * BYOK_FEE_PERCENT // 100, cost) if model.is_byok else (cost, 0)
    return Counts(credits, byok, requests, prompt, completion, reasoning, cached)


def _moves(profile: Profile, spending: Ledger, anchor: date) -> list[LedgerEvent]:
    """Top-ups by a fixed amount whenever the balance gets low, so that the anchor's balance is as wished."""
    used = spending.usage_at(midnight(anchor))
    recent = used - spending.usage_at(midnight(anchor - timedelta(days=28)))
    step, amount, low = 5 * NANO, profile.top_up_usd * NANO, profile.low_usd * NANO
    wished = used + min(max(recent * profile.days_left // 28, low + step), low + amount - step)
    at_anchor = -(-wished // step) * step  # credits at the anchor: a whole number of 5 USD
    bought = (at_anchor - low) % amount + low  # the first purchase; the others are all alike
    begin = midnight(anchor - timedelta(days=DAYS_BEFORE_ANCHOR))
    events = [LedgerEvent(begin, "top_up", usd(bought))]
    while (reached := spending.when_usage_reaches(bought - low)) is not None:
        bought += amount
        events.append(LedgerEvent(reached + timedelta(minutes=3), "top_up", usd(amount)))
    # Bought twice by mistake in the evening, refunded the next afternoon (refunds are possible within 24 h).
    mistake = midnight(anchor - timedelta(days=profile.refund_days_ago)) + timedelta(hours=21, minutes=40)
    events.append(LedgerEvent(mistake, "top_up", usd(amount)))
    events.append(LedgerEvent(mistake + timedelta(hours=17), "credit_decrease", usd(-amount)))
    if profile.correction_days_ago:
        day = anchor - timedelta(days=profile.correction_days_ago)
        while spending.used(day):  # on a day without spend, so that the counter is seen to fall
            day -= timedelta(days=1)
        corrected = midnight(day) + timedelta(hours=13)
        events.append(LedgerEvent(corrected, "usage_correction", -profile.correction_usd))
    return events


def event(at: datetime, kind: str, amount: Decimal) -> LedgerEvent:
    if at.tzinfo is None:
        raise ValueError(f"{kind} at {at} needs an aware time: add tzinfo=UTC")
    return LedgerEvent(at.astimezone(UTC), kind, usd(to_nano(amount)))


def plausible_counts(nano: int) -> Counts:
    """Counts for a stated cost: a request per cent, 1,500 tokens in and 500 out each."""
    requests = max(1, abs(nano) // (NANO // 100))
    return Counts(nano, 0, requests, 1500 * requests, 500 * requests, 100 * requests, 300 * requests)
