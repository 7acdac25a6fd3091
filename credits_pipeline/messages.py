"""What alerts say, in plain text: what happened, how sure that is, what to do, and the numbers.

Names and errors come from outside. In a chat they could call people, post a link or pretend to be another line, so
they are shown on one line, without what chats give a meaning to.
"""

import re
from collections.abc import Mapping, Sequence
from datetime import date, datetime, timedelta
from typing import Any

from credits_pipeline import wording

TOP_UP_PAGE = "https://openrouter.ai/settings/credits"
KEYS_PAGE = "https://openrouter.ai/settings/keys"
SIMULATED = "SIMULATED"

# A phone shows about this many characters of a sentence before one stops reading.
LONGEST_SENTENCE = 400
# Alerts of one message told in full; of more than these only the first lines, so that the message stays readable.
MOST_IN_FULL, MOST_TITLES = 3, 20

_MEANT_BY_CHATS = str.maketrans({"<": "‹", ">": "›", "@": "＠"})
# Links of our own sentences stay links.
_FOREIGN_LINK = re.compile(r"(?<!https)://|://(?!openrouter\.ai/)", re.IGNORECASE)

Row = Mapping[str, Any]


def shown(text: object, *, longest: int = wording.LONGEST_NAME) -> str:
    """A name or a sentence from outside, on one line, that calls nobody and links nowhere."""
    return _FOREIGN_LINK.sub(": //", wording.name(text, longest=longest).translate(_MEANT_BY_CHATS))


def sentence(text: object) -> str:
    return shown(text, longest=LONGEST_SENTENCE)


def run_out(runway: Row, threshold: int) -> tuple[str, str]:
    """Title and body: the likely run-out date of a row of `credits_runway` is nearer than `threshold` days."""
    account, left, until = shown(runway["account"]), runway["days_left"], wording.day(runway["run_out_p50"])
    early = " (early estimate)" if runway["is_early"] else ""
    title = f"{account}: credits run out around {until}, {_days(left)} left{early}"
    return title, _lines(
        (
            "What happened",
            f"The likely run-out date is nearer than {_days(threshold)}: {until}. {_money(runway)}",
        ),
        ("How sure", _how_sure(runway)),
        ("Why", sentence(runway["explanation"]) if runway["explanation"] else None),
        ("What to do", _top_up(runway)),
        ("As of", f"the reading of {wording.instant(runway['as_of'])}."),
    )


def exhausted(runway: Row) -> tuple[str, str]:
    """Title and body: the balance of a row of `credits_runway` is zero or below."""
    account, balance = shown(runway["account"]), wording.usd(runway["balance_usd"])
    return f"{account}: credits are used up, balance {balance}", _lines(
        ("What happened", f"{_money(runway)} Requests may be refused from now on."),
        ("How sure", "This is no estimate: the balance was read. A top-up by card can take an hour to show."),
        ("What to do", f"Top up at {TOP_UP_PAGE}.{_month(runway)}"),
        ("As of", f"the reading of {wording.instant(runway['as_of'])}."),
    )


def spend(day: Row, models: Sequence[Row], runway: Row) -> tuple[str, str]:
    """Title and body: a complete day cost more than the forecast of the evening before held possible."""
    account, on = shown(day["account"]), wording.day(day["spend_date"])
    spent, possible = wording.usd(day["spend_usd"]), wording.usd(day["possible_usd"])
    source = "as billed" if day["method"] == "billed" else "measured from readings"
    answer = wording.answer(runway)
    caused = [
        f"{shown(m['model'])} {wording.usd(m['spend_usd'])} (usually {wording.usd(m['usual_usd'])})"
        for m in models
    ]
    return f"{account}: {spent} spent on {on}, more than the forecast held possible", _lines(
        (
            "What happened",
            f"{spent} were spent on {on}. The forecast of the evening before was 99\u00a0% sure of no more than "
            f"{possible}; usual is {wording.usd(day['usual_usd'])} a day.",
        ),
        ("Models", "; ".join(caused) + "." if caused else "the bill by model is not known for this day."),
        (
            "How sure",
            f"The spend is certain ({source}). By chance alone one day in a hundred is like this."
            + (" The forecast is an early one, from few days." if runway["is_early"] else ""),
        ),
        (
            "What to do",
            f"Find out what used these models; if nobody meant it, disable or limit its key at {KEYS_PAGE}.",
        ),
        ("The forecast now", f"{answer.headline} {answer.detail}"),
    )


def stale(account: str, newest: datetime | None, age: timedelta, *, is_alone: bool) -> tuple[str, str]:
    """Title and body: the newest reading of `account` is `age` old (None: watched that long, and there is none)."""
    name, hours = shown(account), int(age.total_seconds() // 3600)
    happened = (
        f"The newest reading of {name} is of {wording.instant(newest)}, {hours} hours ago."
        if newest
        else f"There is no reading of {name} at all, {hours} hours after it was set up."
    )
    cause = (
        "Other accounts are read, so the key of this one is the first suspect: look at the newest run of daily_credits."
        if is_alone
        else "No account is read: check that the Dagster daemon runs, that the schedule daily_credits is on, that this"
        " machine was awake and reaches the API; then what the newest run of daily_credits says."
    )
    return f"{name}: no new reading for {hours} hours", _lines(
        ("What happened", happened),
        ("How sure", "This is certain. Balance, dates and alerts stand still until the next reading."),
        ("What to do", cause),
    )


def run_failed(what: str, run_id: str, at: datetime, reasons: Sequence[str]) -> tuple[str, str]:
    """Title and body: a run of `what` failed; `reasons`: a sentence for each failed step and blocking check."""
    name = shown(what)
    return f"The run of {name} failed", _lines(
        ("What happened", f"Run {run_id[:8]} of {name} failed at {wording.instant(at)}."),
        *((None, f"- {sentence(reason)}") for reason in reasons),
        ("How sure", "This is certain. What the run had not reached stays as it was before."),
        (
            "What to do",
            f"Open run {run_id[:8]} in the Dagster UI. If the cause goes by itself, so does this: the next run"
            " brings everything up to date.",
        ),
    )


def test() -> tuple[str, str]:
    return (
        "Test of the alerts of credits_pipeline",
        "If you can read this, alerts reach you here. Nothing to do.",
    )


def simulated(title: str, body: str) -> tuple[str, str]:
    """The same message, marked: nobody may take the demo's money for real."""
    return (
        f"[{SIMULATED}] {title}",
        f"{body}\n{SIMULATED}: these figures come from a simulated API, no money is real.",
    )


def together(alerts: Sequence[tuple[str, str]]) -> tuple[str, str]:
    """One message of several, the most urgent first: some in full, of the others the titles."""
    (title, body), *others = alerts
    if not others:
        return title, body
    parts = [f"{title}\n{body}" for title, body in alerts[:MOST_IN_FULL]]
    titles = [f"- {title}" for title, _ in alerts[MOST_IN_FULL:][:MOST_TITLES]]
    unnamed = len(alerts) - MOST_IN_FULL - MOST_TITLES
    more = [f"- and {unnamed} more: see the asset alerts_sent"] if unnamed > 0 else []
    parts += ["\n".join(["Also:", *titles, *more])] if titles else []
    return f"{title} (and {len(others)} more alert{'s' if len(others) > 1 else ''})", "\n\n".join(parts)


def _lines(*parts: tuple[str | None, str | None]) -> str:
    return "\n".join(f"{head}: {text}" if head else text for head, text in parts if text)


def _days(number: int) -> str:
    return "less than a day" if number <= 0 else f"{number} day{'' if number == 1 else 's'}"


def _money(runway: Row) -> str:
    return (
        f"Balance {wording.usd(runway['balance_usd'])}; expected spend "
        f"{wording.usd(runway['expected_daily_spend_usd'])} a day; spent in the last 7 days "
        f"{wording.usd(runway['spend_7d_usd'])}, in the last 30 {wording.usd(runway['spend_30d_usd'])}."
    )


def _how_sure(runway: Row) -> str:
    held = runway["calibration_80"]
    return " ".join(
        [
            wording.answer(runway).detail,
            f"Gone within 7 days: {wording.percent(runway['probability_7d'])}; "
            f"within 30 days: {wording.percent(runway['probability_30d'])}.",
            *(
                [f"Such 80\u00a0% intervals were right {wording.percent(held)} of the time so far."]
                if held
                else []
            ),
        ]
    )


def _top_up(runway: Row) -> str:
    first: date | None = runway["run_out_p10"]
    soon = first is None or first <= runway["as_of"].date() + timedelta(days=1)
    when = "now" if soon else f"before {wording.day(first)}"
    return f"Top up {when} at {TOP_UP_PAGE}, or spend less.{_month(runway)}"


def _month(runway: Row) -> str:
    month = runway["expected_30d_usd"]
    return f" {wording.usd(month)} would last about 30 days at the expected pace." if month else ""
