"""The daily figures and the runway's rules, a second time: a naive oracle against the SQL, on random histories.

The oracle walks through days and readings in plain Python, with exact fractions, and was written from the promises
alone, never from the SQL; each rule quotes its promise (»…«). Many random histories become as many accounts of one
warehouse, so that one build answers for all of them. Of the histories on which the two disagree the smallest is
shown, which a person can work out by hand.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from functools import cache
from itertools import accumulate, pairwise
from random import Random

import pytest

from credits_pipeline_tests.models import DAY, NANO, Row, World, midnight

LEAST_USD = Decimal(-999_999_999)  # no fan goes lower
TWO_HOURS = timedelta(hours=2)
MICROSECOND = timedelta(microseconds=1)


Answer = Callable[[str, str], list[Row]]

# -- a history: what raw holds for one account -----------------------------------------------------------


@dataclass(frozen=True)
class RawReading:
    at: datetime
    credits: Decimal
    usage: Decimal
    source: str = "api"


@dataclass(frozen=True)
class RawBill:
    day: date
    usd: Decimal
    fetched_at: datetime


@dataclass(frozen=True)
class History:
    readings: tuple[RawReading, ...]
    bills: tuple[RawBill, ...]

    def __str__(self) -> str:
        lines = [f"  read   {r.at}  credits {r.credits}  usage {r.usage}  ({r.source})" for r in self.readings]
        lines += [f"  billed {b.day}  {b.usd}  fetched {b.fetched_at}" for b in self.bills]
        return "\n".join(lines)


# -- the oracle --------------------------------------------------------------------------------------------


class Oracle:
    """The tables of one account, each by the sentence that promises it."""

    def __init__(self, history: History) -> None:
        # Two rows of one instant are one reading: our own before an imported one, then the higher counters.
        by_instant: dict[datetime, RawReading] = {}
        for row in sorted(history.readings, key=lambda r: (r.source != "api", -r.usage, -r.credits)):
            by_instant.setdefault(row.at, row)
        self.readings = [by_instant[instant] for instant in sorted(by_instant)]
        self.bills = {bill.day: bill for bill in history.bills}
        self.newest_day = self.readings[-1].at.date() if self.readings else None
        self.rows = [self.daily_spend(day) for day in self.days()]
        self.complete = [row for row in self.rows if row["is_complete"]]

    # ---- marts.credits_readings

    def credits_readings(self) -> list[Row]:
        """»The readings as people want them.«"""
        return [
            {"observed_at": r.at, "snapshot_date": r.at.date(), "total_credits": r.credits, "total_usage": r.usage,
             "balance_usd": r.credits - r.usage, "source": r.source}
            for r in self.readings
        ]  # fmt: skip

    # ---- marts.daily_spend

    def days(self) -> list[date]:
        """»From the first known day to the day of the newest reading, no day left out. The first known day is the
        earlier of the first day billed above zero and the day of the first reading.« An account without a reading
        ends with its last day that was fetched after its end."""
        known = [day for day, bill in self.bills.items() if bill.usd > 0]
        known += [r.at.date() for r in self.readings]
        last = self.newest_day or max((day for day in self.bills if self.is_billed(day)), default=None)
        if not known or last is None:
            return []
        return [min(known) + n * DAY for n in range((last - min(known)).days + 1)]

    def usage_at_midnight(self, day: date) -> Decimal | None:
        """»The cumulative total interpolated in time between the readings on either side: earlier reading +
        CAST(difference × elapsed ÷ total AS DECIMAL(18,9)), rounded once per midnight.«"""
        instant = midnight(day)
        earlier = next((r for r in reversed(self.readings) if r.at <= instant), None)
        later = next((r for r in self.readings if r.at >= instant), None)
        if earlier is None or later is None:
            return None
        if earlier is later:
            return earlier.usage
        share = Fraction((instant - earlier.at) // MICROSECOND, (later.at - earlier.at) // MICROSECOND)
        return earlier.usage + nine_decimals(Fraction(later.usage - earlier.usage) * share)

    def is_read(self, day: date) -> bool:
        """»A reading lies within 2 h« of the midnight that begins the day."""
        return any(abs(r.at - midnight(day)) <= TWO_HOURS for r in self.readings)

    def is_billed(self, day: date) -> bool:
        """»The day was fetched after its end.«"""
        return day in self.bills and self.bills[day].fetched_at >= midnight(day + DAY)

    def is_over(self, day: date) -> bool:
        """»The day is over (a reading lies after it, or it was fetched after its end).«"""
        return any(r.at >= midnight(day + DAY) for r in self.readings) or self.is_billed(day)

    def is_known_from_its_start(self, day: date) -> bool:
        """»… for the day of the first reading unless that reading lies within 2 h of its midnight or the day was
        billed.« Nothing but the bill is known of the days before that."""
        if self.is_billed(day):
            return True
        if not self.readings or day < self.readings[0].at.date():
            return False
        return day > self.readings[0].at.date() or self.readings[0].at - midnight(day) <= TWO_HOURS

    def observed(self, day: date) -> Decimal | None:
        """»Usage at the next midnight − usage at this midnight. On the day of the first reading it counts from that
        reading; on the running day (the newest reading's day) up to that reading.«"""
        if not self.readings or day < self.readings[0].at.date():
            return None
        start = self.usage_at_midnight(day)
        if day == self.readings[0].at.date():
            start = self.readings[0].usage
        end = self.usage_at_midnight(day + DAY)
        if day == self.newest_day:
            end = self.readings[-1].usage
        assert start is not None
        assert end is not None
        return end - start

    def method(self, day: date) -> str:
        """»`observed` where a reading lies within 2 h of both midnights (for the running day: of its first); else
        `billed` where the day was fetched after its end; else `interpolated`.« A day that is over does not run."""
        if self.is_read(day) and (self.is_read(day + DAY) or not self.is_over(day)):
            return "observed"
        return "billed" if self.is_billed(day) else "interpolated"

    def daily_spend(self, day: date) -> Row:
        method, observed = self.method(day), self.observed(day)
        billed = self.bills[day].usd if day in self.bills else None  # »null exactly where that row is missing«
        # »residual_usd = observed − billed where the method is `observed` and the bill is known.«
        residual = None
        if method == "observed" and observed is not None and billed is not None:
            residual = observed - billed
        return {
            "spend_date": day,
            "spend_usd": billed if method == "billed" else observed,  # »spend_usd is that method's figure«
            "method": method,
            "is_complete": self.is_over(day) and self.is_known_from_its_start(day),
            "observed_usd": observed,
            "billed_usd": billed,
            "residual_usd": residual,
            "readings": len([r for r in self.readings if r.at.date() == day]),
        }

    # ---- marts.daily_balance

    def daily_balance(self) -> list[Row]:
        """»At the close of each day.«"""
        found = []
        for row in self.rows:
            day = row["spend_date"]
            credits, usage = self.credits_at_close(day), self.usage_at_midnight(day + DAY)
            balance = credits - usage if credits is not None and usage is not None else None
            is_estimated = balance is None or not self.is_read(day + DAY)
            close = {"balance_date": day, "total_credits": credits, "total_usage": usage, "is_estimated": is_estimated}
            found.append(close | {"balance_usd": balance})  # »never clamped: debt is shown«
        return found

    def credits_at_close(self, day: date) -> Decimal | None:
        """»Credits as the nearest reading within 2 h of that midnight says, else as both neighbouring readings say
        if they agree, else null.« Of two equally near, the earlier."""
        close = midnight(day + DAY)
        near = [r for r in self.readings if abs(r.at - close) <= TWO_HOURS]
        if near:
            return min(near, key=lambda r: (abs(r.at - close), r.at)).credits
        before = [r.credits for r in self.readings if r.at < close]
        after = [r.credits for r in self.readings if r.at > close]
        return before[-1] if before and after and before[-1] == after[0] else None

    # ---- marts.credit_events

    def credit_events(self) -> list[Row]:
        """»Kinds `top_up`, `credit_decrease` (refund, transfer or expiry), `usage_correction`.« »A falling counter is
        a correction: it is kept with its sign and named in `credit_events`, never clamped.«"""
        found = []
        for earlier, later in pairwise(self.readings):
            bought, used = later.credits - earlier.credits, later.usage - earlier.usage
            moves = {"top_up": max(bought, 0), "credit_decrease": min(bought, 0), "usage_correction": min(used, 0)}
            between = {"event_at_earliest": earlier.at, "event_at_latest": later.at}
            found += [{**between, "kind": kind, "amount_usd": amount} for kind, amount in moves.items() if amount]
        return found

    # ---- marts.spend_reconciliation

    def spend_reconciliation(self) -> list[Row]:
        """»Gaps are reconciled as a whole: sum over the gap's days when all of them are billed«, from one midnight
        that was read to the next, within the larger of a cent and 1 % of the bill."""
        read = [day for day in [*self.days(), *(self.days()[-1:] and [self.days()[-1] + DAY])] if self.is_read(day)]
        read = [day for day in read if self.readings[-1].at >= midnight(day)]
        found = []
        for first, end in pairwise(read):
            days = [row for row in self.rows if first <= row["spend_date"] < end]
            if all(self.is_billed(row["spend_date"]) for row in days):
                observed, billed = (sum(row[name] for row in days) for name in ("observed_usd", "billed_usd"))
                tolerance = max(nine_decimals(Fraction(abs(billed)) / 100), Decimal("0.01"))
                row = {
                    "first_date": first, "last_date": end - DAY, "days": len(days), "observed_usd": observed,
                    "billed_usd": billed, "residual_usd": observed - billed,
                    "shared_usd": self.shared(first) + self.shared(end),
                    "is_within_tolerance": abs(observed - billed) <= tolerance,
                }  # fmt: skip
                found.append(row)
        return found

    def shared(self, day: date) -> Decimal:
        """What lies between the midnight that begins the day and the reading nearest in usage."""
        usage, instant = self.usage_at_midnight(day), midnight(day)
        before = [r.usage for r in self.readings if r.at < instant][-1:]
        after = [r.usage for r in self.readings if r.at >= instant][:1]
        return min((abs(usage - side) for side in before + after if usage is not None), default=Decimal(0))

    # ---- marts.credits_runway

    def known(self, first: date, last: date) -> list[Row]:
        """The complete days from `first` to `last`."""
        return [row for row in self.complete if first <= row["spend_date"] <= last]

    def status(self) -> str:
        return self.status_on(self.close(), self.readings[-1].credits - self.readings[-1].usage, self.rows)

    def status_on(self, close: date, balance: Decimal | None, rows: Sequence[Row]) -> str:
        """»`ok`; `accumulating` (under 3 complete days, or under 2 with spend, or nothing spent while fewer than
        30 days are known: no dates are given); `idle` (nothing spent in the last 30 days, all of them known: no date,
        not infinity); `exhausted` (balance ≤ 0: run-out is today). Precedence: exhausted, idle, accumulating, ok.«
        The running day is one more in which something may have been spent."""
        complete = self.known(date.min, close)
        spent = [row["spend_date"] for row in rows if row["spend_usd"] and row["spend_usd"] > 0]
        if balance is not None and balance <= 0:
            return "exhausted"
        if not any(day > close - 30 * DAY for day in spent):
            return "idle" if len(self.known(close - 29 * DAY, close)) == 30 else "accumulating"
        if len(complete) < 3 or len([row for row in complete if row["spend_usd"] > 0]) < 2:
            return "accumulating"
        return "ok"

    def close(self) -> date:
        """»The forecast starts at the close of the last complete day L.« And »no published date lies before the day of
        the newest reading«: where L lies further back, the forecast starts with that day."""
        days: list[date] = [row["spend_date"] for row in self.complete]
        return max([self.readings[-1].at.date() - DAY, *days])

    def balance_at_close(self) -> Decimal | None:
        """»… with the balance *credits now − usage at that close*.« None where no reading tells that usage.

        The close may lie after the newest reading, where the day was billed after its end: by then at least what was
        read is used, and what that day cost since its own midnight.
        """
        newest, close = self.readings[-1], self.close()
        usage = self.usage_at_midnight(close + DAY)
        if usage is None and close == self.newest_day:
            start, row = self.usage_at_midnight(close), self.rows[-1]
            usage = max(newest.usage, start + row["spend_usd"]) if start is not None else None
        return newest.credits - usage if usage is not None else None

    def has_curve(self) -> bool:
        """»For every account with at least 2 complete days and some spend, whatever its status.«"""
        return len(self.complete) >= 2 and any(row["spend_usd"] > 0 for row in self.complete)

    def credits_runway(self, curve: Mapping[int, float]) -> Row:
        """One account's row; `curve` is its probability by day ahead, which the oracle takes as given."""
        newest, status, close = self.readings[-1], self.status(), self.close()
        [summary] = self.spend_summary()
        row: Row = {
            "as_of": newest.at,
            "status": status,
            "is_early": len(self.complete) < 14,  # »`is_early`: under 14 of them«
            "balance_usd": newest.credits - newest.usage,  # »as of the newest reading«
            # »The 7 and 30 calendar days up to L, known ones only.«
            "spend_7d_usd": summary["spend_7d_usd"],
            "spend_30d_usd": summary["spend_30d_usd"],
            "history_days": len(self.complete),  # »`history_days` counts complete days«
            "imputed_days": len([day for day in self.complete if day["method"] == "interpolated"]),
        }
        for name, reached in (("p10", 0.1), ("p50", 0.5), ("p90", 0.9)):
            days_left = None
            if status == "ok":  # »the first `day_ahead` whose probability reaches X«, »null beyond the horizon«
                days_left = min((day for day, p in curve.items() if p >= reached), default=None)
            if status == "exhausted":  # »run-out is today«
                days_left = (newest.at.date() - close).days
            row[f"days_left_{name}"] = days_left
            # »run_out_date = L + day_ahead«
            row[f"run_out_{name}"] = close + days_left * DAY if days_left is not None else None
        for days in (7, 30):  # »`probability_7d` is the curve at 7«
            row[f"probability_{days}d"] = {"ok": curve.get(days), "exhausted": 1.0}.get(status)
        # »`idle`: `expected_daily_spend_usd` is 0«, as where nothing was spent at all; nothing under 3 complete days.
        if len(self.complete) < 3:
            row["expected_daily_spend_usd"] = None
        elif status == "idle" or not any(day["spend_usd"] > 0 for day in self.complete[-180:]):
            row["expected_daily_spend_usd"] = Decimal(0)
        return row

    # ---- marts.spend_summary, runway_history, forecast_accuracy

    def spend_summary(self) -> list[Row]:
        """»Yesterday, 7 and 30 days, each with the period before« up to the close at which the forecast begins, known
        days only; an account that was never read is known up to its last day."""
        if not self.rows:
            return []
        row: Row = {"close_date": self.close() if self.readings else self.rows[-1]["spend_date"]}
        for days in (1, 7, 30):
            for name, unknown, ago in (("spend", "", 0), ("before", "before_", days)):
                last = row["close_date"] - ago * DAY
                known = self.known(last - (days - 1) * DAY, last)
                row[f"{name}_{days}d_usd"] = sum(day["spend_usd"] for day in known) if known else None
                row[f"unknown_days_{unknown}{days}d"] = days - len(known)
        return [row]

    def runway_history(self) -> list[Row]:
        """»On each of the last 90 days with a known balance«; and the day on which what was spent since
        reached the balance, if anything was left."""
        nights = []
        for close in [row for row in self.daily_balance() if row["balance_usd"] is not None][-90:]:
            night, balance = close["balance_date"], close["balance_usd"]
            since = self.known(night + DAY, date.max) if balance > 0 else []
            spent = accumulate(row["spend_usd"] for row in since)
            used_up = next((row["spend_date"] for row, usd in zip(since, spent, strict=True) if usd >= balance), None)
            tomorrow = self.known(night + DAY, night + DAY)
            next_day = tomorrow[0]["spend_usd"] if tomorrow else None
            row = {"as_of_date": night, "balance_usd": balance, "used_up_date": used_up}
            nights.append(row | {"next_day_spend_usd": next_day})
        return nights

    def replays(self) -> dict[int, int]:
        """By horizon, on how many of the last 120 days a date would have been given, »only nights with something left«,
        and »only horizons of which every day is known«."""
        if not self.complete:
            return {}
        balances = {row["balance_date"]: row["balance_usd"] for row in self.daily_balance()}
        last, found = self.complete[-1]["spend_date"], {7: 0, 14: 0, 30: 0}
        for night in (last - n * DAY for n in range(120)):
            status = self.status_on(night, balances.get(night), self.known(date.min, night))
            # A virtual balance is worth four weeks of spend; their mean stands in for a day that is not known.
            spent = [row["spend_date"] for row in self.known(night - 27 * DAY, night) if row["spend_usd"] > 0]
            if status == "ok" and (spent or self.is_filled(night)):
                for days in found:
                    found[days] += len(self.known(night + DAY, night + days * DAY)) == days
        return {days: count for days, count in found.items() if count}

    def is_filled(self, night: date) -> bool:
        """Whether one of the four weeks before is not known and was replaced by a mean above zero."""
        complete = {row["spend_date"] for row in self.complete}
        first = max(night - 27 * DAY, min(complete))
        unknown = [first + n * DAY for n in range((night - first).days + 1) if first + n * DAY not in complete]
        return any(row["spend_usd"] > 0 for day in unknown for row in self.known(day - 28 * DAY, day - DAY))


def nine_decimals(value: Fraction) -> Decimal:
    """Rounded as CAST AS DECIMAL(18,9) does: half away from zero."""
    nano = int(abs(value) * 10**9 + Fraction(1, 2))
    return NANO * (nano if value >= 0 else -nano)


# -- random histories --------------------------------------------------------------------------------------

FIRST = midnight(date(2026, 2, 20))  # a month ends within most of them
HOUR, MINUTE = timedelta(hours=1), timedelta(minutes=1)

# Where a promise changes, and a hair to either side.
CLOCK_TIMES = (
    *(timedelta(0), MICROSECOND, 30 * MICROSECOND, 5 * MINUTE, 6 * MINUTE, 2 * HOUR, 2 * HOUR + MICROSECOND),
    *(9 * HOUR, 12 * HOUR, 22 * HOUR - MICROSECOND, 22 * HOUR, 23 * HOUR, DAY - MINUTE, DAY - MICROSECOND),
)
# From one reading to the next: mostly a day's spend, at times nothing, a nano-dollar, a correction.
USED = ("0", "0.000000001", "0.123456789", "1.44", "2", "2", "33", "-3.5")
USED_BY_A_BIG_ACCOUNT = ("0.000000001", "3333333.333333333", "1000000", "-0.999999999")
USED_BY_AN_IDLE_ACCOUNT = ("0", "0", "0", "0", "0", "0", "0", "0", "2", "-0.5")
BOUGHT = (*("0",) * 12, "25", "0.000000001", "-7", "-40")
BILLED = ("0", "0", "1", "2.5", "0.000000001", "-0.5")
# From the day's beginning: half a bill, almost a whole one, a whole one by a hair, the next night, a settled one.
FETCHED = (12 * HOUR, DAY - MICROSECOND, DAY, DAY + 5 * MINUTE, DAY + 3 * HOUR, 3 * DAY)


def random_history(random: Random) -> History:
    """Any readings and bills: nights kept and missed, odd instants, twins, corrections, bills early, late or never."""

    def money(choices: Sequence[str]) -> Decimal:
        return Decimal(random.choice(choices))

    def clock_time() -> timedelta:
        return random.choice([*CLOCK_TIMES, random.randrange(DAY // MICROSECOND) * MICROSECOND])

    goes_idle = random.random() < 0.15
    length = random.randint(30, 34) if goes_idle else random.choice([0, 1, 2, 3, 5, 9, 16, 45])
    instants = set()
    if goes_idle or random.random() < 0.7:
        nightly, kept = clock_time(), 1 if goes_idle else random.choice([0.3, 0.8, 1])
        instants |= {FIRST + n * DAY + nightly for n in range(length + 1) if random.random() < kept}
    for _ in range(random.choice([0, 0, 1, 2, 5])):
        instants.add(FIRST + random.randint(0, length) * DAY + clock_time())
    instants |= {instant + MINUTE for instant in sorted(instants) if random.random() < 0.1}
    credits, usage = (
        money(("400000000",) if goes_idle else ("0", "0.000000001", "10", "1000", "1000", "400000000")),
        money(("0", "7.25")),
    )
    steps = random.choice([USED, USED, USED_BY_AN_IDLE_ACCOUNT, USED_BY_A_BIG_ACCOUNT])
    readings = []
    for instant in sorted(instants):
        credits += money(BOUGHT)
        usage += money(steps) if not goes_idle or instant < FIRST + 4 * DAY else 0
        readings.append(RawReading(instant, credits, usage))
        while random.random() < 0.05:  # the same instant once more
            twin = replace(readings[-1], usage=usage + money(steps), credits=credits + money(BOUGHT))
            readings.append(replace(twin, source=random.choice(["api", "import"])))
    random.shuffle(readings)

    bills, coverage, always = [], random.choice([0, 0, 0.3, 0.8, 1]), random.choice([None, None, 3 * DAY])
    for number in range(-random.choice([0, 0, 1, 4, 40]), length + random.choice([0, 1, 3])):
        if random.random() < coverage:
            day = (FIRST + number * DAY).date()
            bills.append(RawBill(day, money(BILLED), midnight(day) + (always or random.choice(FETCHED))))
    return History(tuple(readings), tuple(bills))


# Nothing at all, hardly anything, something ordinary, and as much a day as a counter of 990 million can take for years.
DAILY = ("0", "0.00000001", "0.00007", "2", "1000000")


def steady_history(random: Random, longest: int) -> History:
    """An account as people have them, but extreme: never spends, was never read, lost its key, is in debt, lasts for
    years, pays a fraction of a cent or a million a day, pauses for months."""
    days = random.choice([1, 3, 29, 31, 70, longest])
    daily, pause = Decimal(random.choice(DAILY)), random.choice([0, 0, 28, 31, 200])
    spend = [daily * random.choice([0, 1, 1, 2]) if n < days - pause else Decimal(0) for n in range(days)]
    usage = list(accumulate(spend, initial=Decimal(random.choice(["0", "900"]))))
    left = daily * random.choice([-30, 0, 1, 20, 500]) + random.choice([0, 0, 1000])
    credits = min(max(usage[-1] + left, Decimal(0)), Decimal(990_000_000))
    lost = random.choice([days, days, days // 2])  # the day of the last reading
    every, minutes = random.choice([1, 1, 7, days]), random.choice([0, 5, 1430])
    instants = [FIRST + n * DAY + minutes * MINUTE for n in range(lost, -1, -every)]
    readings = [RawReading(at, credits, min(usage[(at - FIRST) // DAY], Decimal(990_000_000))) for at in instants]
    fetched = random.choice([range(0), range(days), range(days // 3), range(max(days - 4, 0), days)])
    bills = [RawBill((FIRST + n * DAY).date(), spend[n], FIRST + (n + 1) * DAY + HOUR) for n in fetched]
    return History(tuple(readings) if random.random() < 0.9 else (), tuple(bills))


# -- the SQL's answer ----------------------------------------------------------------------------------------


def load(world: World, histories: Sequence[History]) -> None:
    """Every history as an account of its own, named by its number."""
    world.empty()
    numbered = [(f"{n:05}", history) for n, history in enumerate(histories)]
    readings = [(name, r.at, f"{r.credits:f}", f"{r.usage:f}", r.source) for name, h in numbered for r in h.readings]
    bills = [(name, b.day, f"{b.usd:f}", b.fetched_at) for name, h in numbered for b in h.bills]
    world.con.execute(
        """
        insert into raw.credits_snapshots
        select unnest($1), unnest($2::date[]), unnest($2), unnest($3), unnest($4), null, 'r', unnest($5), null
        """,
        list(map(list, zip(*readings, strict=True))),
    )
    days = list(map(list, zip(*bills, strict=True)))
    world.con.execute(
        "insert into raw.model_usage_days select unnest($1), unnest($2), unnest($3), unnest($4), 'r'", days
    )
    world.con.execute(
        "insert into raw.model_usage select account, usage_date, 'vendor/model', credits_usd, 0, 1, 10, 20, 5, 2"
        " from raw.model_usage_days where credits_usd <> 0"
    )


def answers(world: World) -> Answer:
    """What one build says, by table and account."""

    @cache
    def by_account(table: str) -> dict[str, list[Row]]:
        rows = defaultdict(list)
        for row in world.table(table, None):
            rows[row.pop("account")].append(row)
        return rows

    return lambda table, account: by_account(table)[account]


def differences(oracle: Oracle, answer: Answer, account: str) -> Iterator[str]:
    """What the SQL says of an account and the oracle does not, or the other way round."""

    def unlike(table: str, expected: list[Row]) -> Iterator[str]:
        found = answer(table, account)
        if len(found) != len(expected):
            yield f"{table}: {len(found)} rows, {len(expected)} by hand"
        for row, wanted in zip(found, expected, strict=False):
            yield from (
                f"{table} {next(iter(row.values()))}: {name} is {row[name]}, by hand {value}"
                for name, value in wanted.items()
                if row[name] != value
            )

    yield from unlike("credits_readings", oracle.credits_readings())
    yield from unlike("daily_spend", oracle.rows)
    yield from unlike("daily_balance", oracle.daily_balance())
    yield from unlike("credit_events", oracle.credit_events())
    yield from unlike("spend_reconciliation", oracle.spend_reconciliation())
    yield from unlike("spend_summary", oracle.spend_summary())
    if not oracle.readings:  # nothing is known of its balance
        for table in ("credits_runway", "runway_curve", "balance_forecast"):
            yield from unlike(table, [])
        return
    days_ahead = range(1, 366) if oracle.has_curve() else ()  # »P(gone within 1 … 365 days)«
    as_of, close = oracle.readings[-1].at, oracle.close()
    dates = [{"as_of": as_of, "day_ahead": n, "run_out_date": close + n * DAY} for n in days_ahead]
    yield from unlike("runway_curve", dates)
    curve = {row["day_ahead"]: row["probability"] for row in answer("runway_curve", account)}
    yield from unlike("credits_runway", [oracle.credits_runway(curve)])
    yield from forecast_differences(oracle, answer, account, dates, unlike)


def forecast_differences(
    oracle: Oracle,
    answer: Answer,
    account: str,
    dates: Sequence[Row],
    unlike: Callable[[str, list[Row]], Iterator[str]],
) -> Iterator[str]:
    """The same of what derives from the curve and its nights."""
    balance = oracle.balance_at_close()
    # »Dates, fan and alerts derive from it.« »The fan, for every account that has a curve.«
    yield from unlike("balance_forecast", [{"forecast_date": row["run_out_date"]} for row in dates])
    for row in answer("balance_forecast", account) if balance is not None else ():
        for spent, left in (("p10", "p90"), ("p50", "p50"), ("p90", "p10")):
            if row[f"balance_{left}"] != max(balance - row[f"spend_{spent}"], LEAST_USD):
                yield f"balance_forecast {row['forecast_date']}: {left} does not start at {balance}"
    fan, [runway] = answer("balance_forecast", account), answer("credits_runway", account)
    # Money ends with the ninth decimal: of less than this a rounded quantile may take everything a day early.
    is_enough = runway["status"] == "ok" and runway["balance_usd"] > Decimal("0.0001")
    for p in ("p10", "p50", "p90") if is_enough else ():
        gone = next((row["forecast_date"] for row in fan if row[f"balance_{p}"] <= 0), None)
        if gone != runway[f"run_out_{p}"]:
            yield f"balance_forecast: {p} is gone on {gone}, but the runway says {runway[f'run_out_{p}']}"
    for earlier, later in pairwise(fan):
        spends = [row[f"spend_{p}"] for p in ("p10", "p50", "p90") for row in (earlier, later)]
        if spends[::2] != sorted(spends[::2]) or any(spends[n] > spends[n + 1] for n in (0, 2, 4)):
            yield f"balance_forecast {later['forecast_date']}: spend falls, or its quantiles are out of order"
    nights = answer("runway_history", account)
    yield from unlike("runway_history", oracle.runway_history())
    for night in nights:
        day = night["as_of_date"]
        if night["run_out_p10"] and oracle.status_on(day, night["balance_usd"], oracle.known(date.min, day)) != "ok":
            yield f"runway_history {day}: a date that nobody would have been given"
    yield from unlike(
        "forecast_accuracy", [{"horizon_days": n, "replays": count} for n, count in oracle.replays().items()]
    )


def assert_agreement(world: World, histories: Sequence[History]) -> None:
    """Build once for all histories; SQL and oracle agree on each."""
    load(world, histories)
    world.build_and_test(world.project.models)
    answer = answers(world)
    lines = {n: list(differences(Oracle(history), answer, f"{n:05}")) for n, history in enumerate(histories)}
    if wrong := [n for n in lines if lines[n]]:
        least = min(wrong, key=lambda n: len(histories[n].readings) + len(histories[n].bills))
        said = "\n".join([str(histories[least]), *lines[least][:20]])
        pytest.fail(f"{len(wrong)} of {len(histories)} histories; the smallest:\n{said}")


def histories(count: int, seed: int, longest: int = 240) -> list[History]:
    """Most of them random; every fifth an account as people have them, of up to `longest` days."""
    random = Random(seed)
    return [steady_history(random, longest) if n % 5 == 4 else random_history(random) for n in range(count)]


def test_the_sql_says_of_any_history_what_the_promises_say(world):
    assert_agreement(world, histories(150, seed=20260220))


@pytest.mark.heavy
@pytest.mark.parametrize("seed", range(1, 21))
def test_the_sql_says_of_twenty_thousand_histories_what_the_promises_say(world, seed):
    assert_agreement(world, histories(1000, seed, longest=900))
