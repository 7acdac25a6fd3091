"""The wording of amounts, days and the answer wherever people read them: charts, report, UI, alerts."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any, Literal, TypeAlias

from credits_pipeline.text import plain

Row: TypeAlias = Mapping[str, Any]

# A name is one line of a table or a legend: a longer one would push everything else off a phone's screen.
LONGEST_NAME = 80
# Money has 9 decimals; for an amount under a cent, two significant digits are enough to compare it.
_MONEY_PLACES = 9
_CENT = Decimal("0.01")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_SIZES = ((10**12, "T"), (10**9, "B"), (10**6, "M"), (10**3, "k"))
UNKNOWN = "unknown"


def name(text: object, *, longest: int = LONGEST_NAME) -> str:
    """An account's or a model's name on one line of at most `longest` characters, none of them invisible."""
    line = " ".join(plain(str(text)[: 4 * longest]).split()) or "(no name)"
    return line if len(line) <= longest else line[: longest - 1] + "…"


def usd(amount: Decimal | float | int | None, *, signed: bool = False) -> str:
    """An amount in USD: "$1,234.56", under a cent two significant digits ("$0.0012"), "unknown" when null."""
    if amount is None:
        return UNKNOWN
    exact = amount if isinstance(amount, Decimal) else Decimal(repr(amount))
    size = abs(exact)
    if size.quantize(_CENT) >= _CENT or size == 0:
        digits = f"{size.quantize(_CENT):,.2f}"
    else:
        places = min(_MONEY_PLACES, 1 - size.adjusted())
        digits = f"{size.quantize(Decimal(1).scaleb(-places)):.{places}f}".rstrip("0")
    sign = "\u2212" if exact < 0 else "+" if signed and exact > 0 else ""
    return f"{sign}${digits}"


def day(value: date | None, *, year: bool = True) -> str:
    """A UTC day as "12 Mar 2026"; month names do not follow the machine's locale."""
    if value is None:
        return UNKNOWN
    return f"{value.day} {_MONTHS[value.month - 1]}" + (f" {value.year}" if year else "")


def days(first: datetime, last: datetime) -> str:
    """The UTC days of two instants as one span: "10 – 11 Mar 2026", or the one day of both."""
    if first.date() == last.date():
        return day(last)
    if (first.year, first.month) == (last.year, last.month):
        return f"{first.day} – {day(last)}"
    return f"{day(first, year=first.year != last.year)} – {day(last)}"


def month(value: date) -> str:
    """A UTC month, by one of its days, as "Mar 2026"."""
    return f"{_MONTHS[value.month - 1]} {value.year}"


def instant(value: datetime | None) -> str:
    """An instant in UTC (naive values are UTC already) as "12 Mar 2026 00:05 UTC"."""
    return UNKNOWN if value is None else f"{day(value.date())} {value:%H:%M} UTC"


def percent(ratio: float | None) -> str:
    """A ratio as whole percent ("80 %", with a no-break space); 0 % and 100 % only when exact, else <1 % or >99 %."""
    if ratio is None:
        return UNKNOWN
    whole = f"{100 * ratio:.0f}"
    if whole == "0" and ratio > 0:
        whole = "<1"
    if whole == "100" and ratio < 1:
        whole = ">99"
    return f"{whole}\u00a0%".replace("-", "\u2212")


def count(number: int | None) -> str:
    """A count with thousands separated: "1,234,567"."""
    return UNKNOWN if number is None else f"{number:,}"


def compact(number: int | None) -> str:
    """A large count in three digits: "145 M" (k, M, B, T); exact below ten thousand."""
    if number is None:
        return UNKNOWN
    if number < 10_000:
        return f"{number:,}"
    rounded = round(number, 3 - len(str(number)))
    size, unit = next((size, unit) for size, unit in _SIZES if rounded >= size)
    return f"{rounded / size:,.12g}\u00a0{unit}"


def of_days(unknown: int | None, days: int) -> str:
    """What must be said beside spend of so many calendar days, of which only the known ones count; else nothing."""
    if not unknown:
        return ""
    return f"{unknown} of these {days} days {'is' if unknown == 1 else 'are'} unknown" if days > 1 else "unknown"


TIMES_FROM = 4  # "300 % more" is harder to read than "4 times"


def change(row: Row, span: int) -> str:
    """The change of `spend_{span}d_usd` of `spend_summary` against the days before, when all of both are known."""
    than = "the day before" if span == 1 else f"the {span} days before"
    now, before = row[f"spend_{span}d_usd"], row[f"before_{span}d_usd"]
    if now is None:
        return ""
    if row[f"unknown_days_{span}d"]:
        return of_days(row[f"unknown_days_{span}d"], span)
    if before is None or row[f"unknown_days_before_{span}d"]:
        return f"no full {'day' if span == 1 else f'{span} days'} before to compare"
    if before == now:
        return f"the same as {than}"
    if before <= 0 or now <= 0:
        return f"{'after ' if before > 0 and now == 0 else ''}{usd(before)} {than}"
    by = moved(now, before)
    return f"{by} {'that of' if 'times' in by else 'more than' if now > before else 'less than'} {than}"


FEW_CHECKS = 20  # fewer say little about a 1-in-5 chance


def record(check: Row | None) -> str:
    """How often the 80 % interval was right so far: a row of `forecast_accuracy`, or none that could be checked yet."""
    if not check:
        return "It is too early to say how often this is right: no forecast of a week or more can be checked yet."
    replays, coverage = check["replays"], check["coverage_80"]
    forecasts = f"{check['horizon_days']}-day forecasts were right"
    tested = "Tested on this account’s own history,"
    if replays < FEW_CHECKS:
        return f"{tested} {round(coverage * replays)} of {replays} {forecasts}: too few to rely on."
    return f"{tested} {count(replays)} {forecasts} {percent(coverage)} of the time (target: 80\u00a0%)."


def age(as_of: datetime | None, seen_at: datetime) -> str:
    """How old a reading (UTC, naive) is at `seen_at` (aware), in the largest unit that says enough."""
    if as_of is None:
        return "without a reading"
    minutes = int((seen_at - as_of.replace(tzinfo=UTC)).total_seconds() // 60)
    for size, unit, least in ((1440, "day", 2), (60, "hour", 1), (1, "minute", 1)):
        if minutes >= least * size:
            return f"{minutes // size} {unit}{'' if minutes // size == 1 else 's'} old"
    return "less than a minute old"


def no_key(runway: Row) -> str:
    """What is left to say of an account whose key was taken away; null `as_of`: it was never read."""
    read = f"last read on {day(runway['as_of'].date())}" if runway.get("as_of") else "never read"
    return f"no key any more, {read}"


Tone = Literal["calm", "watch", "urgent", "open"]


@dataclass(frozen=True)
class Answer:
    """When the credits run out, in words: the date, how sure it is, and how near (`tone`).

    `brief` and `span` are the same for a cell of a table; `span` is empty where there is no interval, `explanation`
    (why the date is what it is and why it moved, as `credits_runway` says) where `detail` says it already.
    """

    headline: str
    detail: str
    tone: Tone
    brief: str
    span: str = ""
    explanation: str = ""


# The default thresholds of the alerts: under two weeks is worth a look, under one week a top-up.
WATCH_DAYS, URGENT_DAYS = 14, 7

# With the default schedule: one night may be missed. `Settings.stale_after` follows the schedule that is configured.
STALE_AFTER = timedelta(hours=36)


def is_stale(as_of: datetime | None, seen_at: datetime, after: timedelta = STALE_AFTER) -> bool:
    """Whether a reading (UTC, naive as tables hold it) is too old to speak of the present at `seen_at` (aware)."""
    return as_of is not None and seen_at - as_of.replace(tzinfo=UTC) > after


def answer(runway: Row, *, seen_at: datetime | None = None, after: timedelta = STALE_AFTER) -> Answer:
    """A row of `credits_runway` (no status: never read) as one sentence and one more about how sure it is.

    `is_unused` in it says that nothing was ever bought or spent.
    One that is stale at `seen_at` (aware; None: it was just read) says so first, and its tone is never calm.
    """
    if not runway["status"]:
        brief = "never read: check its key"
        return Answer("This account has never been read.", "Check its key, then run again.", "watch", brief)
    said = _answer(runway)
    if seen_at is None or not is_stale(runway["as_of"], seen_at, after):
        return said
    then = f"{said.headline[0].lower()}{said.headline[1:]}"
    headline = f"No reading since {day(runway['as_of'].date())}. At that time: {then}"
    return replace(said, headline=headline, tone="watch" if said.tone == "calm" else said.tone)


def _answer(runway: Row) -> Answer:
    """Dates are UTC days. No "today" and no "tomorrow": a page or a message is read later than it was written."""
    why = plain(runway.get("explanation") or "")
    if runway.get("is_unused"):
        detail = "There is nothing to forecast until the first credits are bought."
        return Answer("No credits were ever bought or spent.", detail, "open", "never used")
    if runway["status"] == "exhausted":
        advice = "a top-up settles this debt first." if runway["balance_usd"] < 0 else "top up to continue."
        detail = f"The balance is {usd(runway['balance_usd'])}: {advice}"
        return Answer("Credits are used up.", detail, "urgent", "used up")
    if runway["status"] == "idle":
        return Answer("No run-out date: the account is idle.", why, "calm", "idle")
    if runway["status"] == "accumulating":
        return Answer("No run-out date yet: too little history.", why, "open", "too little history")
    found, known = replace(dated(runway), explanation=why), runway["history_days"]
    if not runway["is_early"]:
        return replace(found, detail=found.detail + own_record(runway))
    caution = f" This is an early estimate from {known} complete days: the date may still move a lot."
    return replace(found, detail=found.detail + caution, span=", ".join(filter(None, (found.span, "early"))))


def own_record(runway: Row) -> str:
    """What "80 % sure" was worth on this account so far, where that was less; else nothing."""
    record = runway.get("calibration_80")
    if record is None or round(record, 2) >= 0.8:
        return ""
    return f" So far, such intervals have been right {percent(record)} of the time on this account."


def dated(runway: Row) -> Answer:
    """`run_out_p10`, `_p50` and `_p90` (UTC days; null: beyond a year) in words; `days_left_p50` decides the tone."""
    early, middle, late = (runway.get(f"run_out_p{p}") for p in (10, 50, 90))
    if early is None:
        brief = "longer than a year"
        detail = "The chance that they do is at least 90\u00a0%."
        return Answer("Credits last longer than a year.", detail, "calm", brief)
    if middle is None:
        detail = f"There is a 1-in-10 chance that they run out by {day(early)}."
        brief = "probably longer than a year"
        return Answer("Credits probably last longer than a year.", detail, "calm", brief, span(early, late))
    left = runway["days_left_p50"]
    tone: Tone = "urgent" if left < URGENT_DAYS else "watch" if left < WATCH_DAYS else "calm"
    interval = "that day" if early == late else span(early, late)
    if late is None:
        sure = f"{interval}, and possibly for more than a year"
    else:
        sure = "on that day" if early == late else f"between {interval.replace(' – ', ' and ')}"
    return Answer(f"Credits last until about {day(middle)}.", f"80\u00a0% sure: {sure}.", tone, day(middle), interval)


def member(dimension: str) -> str:
    """What a member of a dimension is called: a key, a workspace, a user, an app."""
    return dimension.removeprefix("api_")


def limit_reached(key: Row) -> str:
    """A row of `key_limits`, whether its limit will be reached: "94 %, about 28 Nov 2026", "reached"."""
    if key["remaining_usd"] <= 0:
        return "reached"
    chance, about = key["probability_before_reset"], key["limit_reached_p50"]
    return ", ".join([percent(chance)] * (chance is not None) + [f"about {day(about)}"] * (about is not None))


def moved(now: Decimal | None, before: Decimal | None) -> str:
    """A change in a cell of a table: "▲ 50 %", "▼ 20 %", "▲ 6 times", "new"; nothing where it cannot be told."""
    if now is None or before is None or now == before:
        return ""
    if before <= 0 or now <= 0:
        return "new" if before == 0 and now > 0 else "stopped" if now == 0 else ""
    ratio = float(now / before)
    if ratio >= TIMES_FROM:
        return f"▲ {ratio:,.0f} times"
    return f"{'▲' if ratio > 1 else '▼'} {percent(abs(ratio - 1))}"


def span(early: date | None, late: date | None) -> str:
    """The 80 % interval of a day: "26 Nov – 1 Dec 2026", "not before 26 Nov 2026"."""
    if early is None:
        return "beyond a year"
    if late is None:
        return f"not before {day(early)}"
    return day(early) if early == late else f"{day(early, year=early.year != late.year)} – {day(late)}"


def spent_most(account: Row) -> str:
    """Who spent most, on the last day and in 7: "key batch-7: $3.20 on 21 Nov 2026, $21.00 in 7 days"."""
    spenders, last = account["spenders"], day(account["close_date"])
    dimension, week, newest = (spenders[key] for key in ("dimension", "most_7d", "most_1d"))
    found = f"{member(dimension)} {name(week['member'])}: {usd(week['usd'])} in 7 days"
    return found + (f"; {name(newest['member'])}: {usd(newest['usd'])} on {last}" if newest else "")


def to_buy(plan: Row) -> str:
    """A row of `topup_plan` as advice: "buy $420.00 (charged $443.10) to reach 31 Dec 2026 with 90 %"."""
    reach = f"to reach {day(plan['until_date'])} with {percent(plan['confidence'])}"
    if plan["credits_usd"] == 0:
        return f"nothing to buy {reach}"
    return f"buy {usd(plan['credits_usd'])} (charged {usd(plan['charged_usd'])}) {reach}"


def month_so_far(outlook: Row) -> str:
    """A row of `month_outlook`: "$312.00 of $500.00 in Nov 2026, 22 % likely to pass it"."""
    spent, budget, when = usd(outlook["spent_usd"]), outlook["budget_usd"], month(outlook["month"])
    if budget is not None:
        return f"{spent} of {usd(budget)} in {when}, {over_budget(outlook) or 'too early to say more'}"
    if outlook["month_p50_usd"] is None:
        return f"{spent} so far in {when}"
    in_all = f"about {usd(outlook['month_p50_usd'])} in all (80\u00a0% sure: {between(outlook, 'month_')})"
    return f"{spent} so far in {when}, {in_all}"


def between(row: Row, start: str) -> str:
    """The 80 % interval of an amount, of the columns `{start}p10_usd` and `{start}p90_usd`: "$390.00 – $480.00"."""
    return " – ".join(dict.fromkeys((usd(row[f"{start}p10_usd"]), usd(row[f"{start}p90_usd"]))))


def over_budget(outlook: Row) -> str:
    """Whether the month of `month_outlook` passes its budget; nothing where that cannot be told."""
    chance, reached = outlook["probability_over_budget"], outlook["budget_reached_p50"]
    if chance is None:
        return ""
    if chance == 1 and outlook["spent_usd"] >= outlook["budget_usd"]:
        return f"passed on {day(reached)}" if reached else "passed"
    return f"{percent(chance)} likely to pass it" + (f", on about {day(reached)}" if reached else "")


def outlooks_were_right(outlook: Row) -> str:
    """How often the 80 % interval of past months held: `right_replays` of `replays`, both null if none was checked."""
    if not outlook["replays"]:
        return "It is too early to say how often this is right: no past month can be checked yet."
    few = ": too few to rely on" if outlook["replays"] < FEW_CHECKS else " (target: 80\u00a0%)"
    held = f"{outlook['right_replays']:.0f} of {outlook['replays']:.0f} such intervals were right"
    return f"Tested on this account’s past months, {held}{few}."


def times(number: int | None, one: str) -> str:
    """A count and what it counts: "1 purchase", "3 purchases"."""
    return f"{count(number)} {one}{'' if number == 1 else 's'}"


def untidy(key: Row) -> str:
    """Why somebody should look at a key: "no limit, unused for 45 days"."""
    reasons = ["no limit"] * key["has_no_limit"]
    reasons += [f"unused for {times(key['unused_days'], 'day')}"] * bool(key["unused_days"])
    return ", ".join(reasons + [f"expires on {day(key['expires_on'])}"] * bool(key["expires_on"]))
