"""The wording of amounts, days and the answer wherever people read them: charts, report, UI, alerts.

Longer sentences about rows of the tables are the macros of `sentences.txt.j2`.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from credits_pipeline.text import one_line, plain

if TYPE_CHECKING:
    from jinja2 import Template

Row: TypeAlias = Mapping[str, Any]

SENTENCES = Path(__file__).with_name("sentences.txt.j2")
# A name is one line of a table or a legend: a longer one would push everything else off a phone's screen. A sentence
# of a table is one or two; a longer one can only come from a hostile name.
LONGEST_NAME, LONGEST_SENTENCE = 80, 400
# Money has 9 decimals; for an amount under a cent, two significant digits are enough to compare it.
_MONEY_PLACES = 9
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_SIZES = ((10**12, "T"), (10**9, "B"), (10**6, "M"), (10**3, "k"))
UNKNOWN = "unknown"

# The default thresholds of the alerts: under two weeks is worth a look, under one week a top-up.
WATCH_DAYS, URGENT_DAYS = 14, 7
# State of an account → the tone, and what it says in a cell of a table; with a run-out date, both follow from that.
STATES = {
    "unread": ("watch", "never read: check its key"),
    "unused": ("open", "never used"),
    "exhausted": ("urgent", "used up"),
    "idle": ("calm", "idle"),
    "accumulating": ("open", "too little history"),
    "beyond": ("calm", "longer than a year"),
    "perhaps": ("calm", "probably longer than a year"),
}


@cache
def template(path: Path, *filters: Callable[..., str]) -> "Template":
    """A template with `filters`, the words of this module and the macros of `sentences.txt.j2`, each by its name.

    In HTML everything is escaped.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

    from credits_pipeline.templates import KeptCompiled

    environment = Environment(
        loader=FileSystemLoader(path.parent),
        bytecode_cache=KeptCompiled(),
        autoescape=select_autoescape(["html.j2"]),  # in plain text there is nothing to escape
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    macros = re.findall(r"{% macro (\w+)", SENTENCES.read_text(encoding="utf-8"))
    environment.filters |= {macro: partial(say, macro) for macro in macros}
    own = (name, sentence, usd, day, month, instant, percent, count, compact, member, span, answer)
    environment.filters |= {word.__name__: word for word in (*own, *filters)}
    return environment.get_template(path.name)


def say(sentence: str, *facts: Any, file: Path = SENTENCES) -> str:
    """What the macro `sentence` of `file` says of `facts`, on one line; empty where there is nothing to say."""
    return re.sub(r"[ \n]+", " ", str(getattr(template(file).module, sentence)(*facts))).strip(" ")


def name(text: object, *, longest: int = LONGEST_NAME) -> str:
    """An account's or a model's name on one line of at most `longest` characters, none of them invisible."""
    return one_line(str(text)[: 4 * longest], longest) or "(no name)"


def sentence(text: object) -> str:
    return name(text, longest=LONGEST_SENTENCE)


def usd(amount: Decimal | float | int | None, *, signed: bool = False) -> str:
    """An amount in USD: "$1,234.56", under a cent two significant digits ("$0.0012"), "unknown" when null."""
    if amount is None:
        return UNKNOWN
    exact = amount if isinstance(amount, Decimal) else Decimal(repr(amount))
    size = abs(exact)
    digits = f"{size:,.2f}"
    if digits == "0.00" and size:
        digits = f"{size:.{min(_MONEY_PLACES, 1 - size.adjusted())}f}".rstrip("0")
    sign = "\u2212" if exact < 0 else "+" if signed and exact > 0 else ""
    return f"{sign}${digits}"


def day(value: date | None, *, year: bool = True) -> str:
    """A UTC day as "12 Mar 2026"; month names do not follow the machine's locale."""
    if value is None:
        return UNKNOWN
    return f"{value.day} {_MONTHS[value.month - 1]}" + (f" {value.year}" if year else "")


def month(value: date) -> str:
    """A UTC month, by one of its days, as "Mar 2026"."""
    return f"{_MONTHS[value.month - 1]} {value.year}"


def instant(value: datetime | None) -> str:
    """An instant in UTC (naive values are UTC already) as "12 Mar 2026 00:05 UTC"."""
    return UNKNOWN if value is None else f"{day(value)} {value:%H:%M} UTC"


def percent(ratio: float | Decimal | None) -> str:
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
    if number is None or number < 10_000:
        return count(number)
    rounded = round(number, 3 - len(str(number)))
    size, unit = next((size, unit) for size, unit in _SIZES if rounded >= size)
    return f"{rounded / size:,.12g}\u00a0{unit}"


def member(dimension: str) -> str:
    """What a member of a dimension is called: a key, a workspace, a user, an app."""
    return dimension.removeprefix("api_")


def span(early: date | None, late: date | None) -> str:
    """The 80 % interval of a day: "26 Nov – 1 Dec 2026", "not before 26 Nov 2026"."""
    if early is None:
        return "beyond a year"
    if late is None:
        return f"not before {day(early)}"
    return day(early) if early == late else f"{day(early, year=early.year != late.year)} – {day(late)}"


@dataclass(frozen=True)
class Answer:
    """When the credits run out, in words: the date, how sure it is, and how near (`tone`).

    `brief` and `span` are the same for a cell of a table; `span` is empty where there is no interval, `explanation`
    (why the date is what it is and why it moved, as `credits_runway` says) where `detail` says it already.
    """

    headline: str
    detail: str
    tone: str  # calm, watch, urgent, open
    brief: str
    span: str = ""
    explanation: str = ""


def answer(runway: Row) -> Answer:
    """A row of `credits_runway` (no status: never read), or only its dates, as a sentence and how sure it is.

    Dates are UTC days. No "today" and no "tomorrow": a page or a message is read later than it was written. A row that
    `is_stale`, of a reading too old to speak of the present, says so first, and its tone is never calm.
    """
    early, middle, late = (runway.get(f"run_out_p{p}") for p in (10, 50, 90))
    state = "unused" if runway.get("is_unused") else runway.get("status", "ok") or "unread"
    if is_dated := state == "ok":
        state = "ok" if middle else "perhaps" if early else "beyond"
    left = runway.get("days_left_p50") or 0
    near = "urgent" if left < URGENT_DAYS else "watch" if left < WATCH_DAYS else "calm"
    tone, brief = STATES.get(state, (near, day(middle)))
    interval = "" if state not in ("ok", "perhaps") else "that day" if early == late else span(early, late)
    headline, why = say("headline", runway, state), plain(runway.get("explanation") or "")
    if runway.get("is_stale"):
        headline = f"No reading since {day(runway['as_of'])}. At that time: {headline[0].lower()}{headline[1:]}"
        tone = "watch" if tone == "calm" else tone
    parts = (interval, "early" if is_dated and runway.get("is_early") else "")
    detail = say("detail", runway, state, interval, why)
    return Answer(headline, detail, tone, brief, ", ".join(filter(None, parts)), why if is_dated else "")
