"""What alerts say, in plain text: what happened, how sure that is, what to do, and the numbers.

Names and errors come from outside. In a chat they could mention people, post a link or pretend to be another line, so
they are shown on one line, without the characters that chats interpret.
"""

import re
from collections.abc import Mapping, Sequence
from datetime import date, datetime, timedelta
from typing import Any

from credits_pipeline import wording

TOP_UP_PAGE = "https://openrouter.ai/settings/credits"
KEYS_PAGE = "https://openrouter.ai/settings/keys"
SIMULATED = "SIMULATED"

# About as much of one sentence as people read on a phone.
LONGEST_SENTENCE = 400
# Alerts shown in full in one message; of the rest only the titles, so that the message stays readable.
MOST_IN_FULL, MOST_TITLES = 3, 20

_MEANT_BY_CHATS = str.maketrans({"<": "‹", ">": "›", "@": "＠"})
# Links in our own sentences stay links.
_FOREIGN_LINK = re.compile(r"(?<!https)://|://(?!openrouter\.ai/)", re.IGNORECASE)

Row = Mapping[str, Any]


def shown(text: object, *, longest: int = wording.LONGEST_NAME) -> str:
    """A name or a sentence from outside, on one line, that mentions nobody and links nowhere."""
    return _FOREIGN_LINK.sub(": //", wording.name(text, longest=longest).translate(_MEANT_BY_CHATS))


def sentence(text: object) -> str:
    return shown(text, longest=LONGEST_SENTENCE)


def run_out(runway: Row, threshold: int) -> tuple[str, str]:
    """Title and body: the likely run-out date of a row of `credits_runway` is less than `threshold` days away."""
    account, left, until = shown(runway["account"]), runway["days_left"], wording.day(runway["run_out_p50"])
    early = " (early estimate)" if runway["is_early"] else ""
    title = f"{account}: credits run out around {until}, {_days(left)} left{early}"
    return title, _lines(
        (
            "What happened",
            f"Credits will probably run out around {until}, less than {_days(threshold)} after the latest reading. "
            f"{_money(runway)}",
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
        (
            "How sure",
            "This is not an estimate: it is the balance OpenRouter reported. A card top-up can take an hour to "
            "appear.",
        ),
        ("What to do", f"Top up at {TOP_UP_PAGE}.{_month(runway)}"),
        ("As of", f"the reading of {wording.instant(runway['as_of'])}."),
    )


def spend(day: Row, models: Sequence[Row], runway: Row) -> tuple[str, str]:
    """Title and body: a complete day cost more than the P99 of the forecast from the day before."""
    account, on = shown(day["account"]), wording.day(day["spend_date"])
    spent, possible = wording.usd(day["spend_usd"]), wording.usd(day["possible_usd"])
    source = "as billed" if day["method"] == "billed" else "measured from readings"
    answer = wording.answer(runway)
    caused = [
        f"{shown(m['model'])} {wording.usd(m['spend_usd'])} (usually {wording.usd(m['usual_usd'])})"
        for m in models
    ]
    return f"{account}: unusually high spend on {on}: {spent}", _lines(
        (
            "What happened",
            f"{spent} was spent on {on}. The forecast from the day before was 99\u00a0% sure of at most {possible}; "
            f"a usual day costs {wording.usd(day['usual_usd'])}.",
        ),
        ("Models", "; ".join(caused) + "." if caused else "there is no bill by model for this day yet."),
        (
            "How sure",
            f"The spend is certain ({source}). About one ordinary day in a hundred looks like this by chance."
            + (" The forecast is still based on only a few days." if runway["is_early"] else ""),
        ),
        (
            "What to do",
            f"Find out what used these models. If the use was not intended, disable or limit the API key at "
            f"{KEYS_PAGE}.",
        ),
        ("The forecast now", f"{answer.headline} {answer.detail}"),
    )


def stale(account: str, newest: datetime | None, age: timedelta, *, is_alone: bool) -> tuple[str, str]:
    """Title and body: the latest reading of `account` is `age` old (None: watched that long without any)."""
    name, hours = shown(account), int(age.total_seconds() // 3600)
    happened = (
        f"The latest reading of {name} is from {wording.instant(newest)}, {hours} hours ago."
        if newest
        else f"{name} has never been read since it was set up {hours} hours ago."
    )
    cause = (
        "The other accounts are being read, so check this account's key first, then the latest run of daily_credits."
        if is_alone
        else "No account is being read. Check that the Dagster daemon is running, that the schedule daily_credits is"
        " on, and that this machine is awake and can reach the API; then look at the latest run of daily_credits."
    )
    return f"{name}: no new reading for {hours} hours", _lines(
        ("What happened", happened),
        ("How sure", "This is certain. Balance, dates and alerts will not change until the next reading."),
        ("What to do", cause),
    )


def run_failed(what: str, run_id: str, at: datetime, reasons: Sequence[str]) -> tuple[str, str]:
    """Title and body: a run of `what` failed; `reasons`: a sentence for each failed step and blocking check."""
    name = shown(what)
    return f"The run of {name} failed", _lines(
        ("What happened", f"Run {run_id[:8]} of {name} failed at {wording.instant(at)}."),
        *((None, f"- {sentence(reason)}") for reason in reasons),
        ("How sure", "This is certain. Anything the run did not get to is unchanged."),
        (
            "What to do",
            f"Open run {run_id[:8]} in the Dagster UI. If the cause was temporary, nothing needs doing: the next run"
            " catches up.",
        ),
    )


def test() -> tuple[str, str]:
    return (
        "Test alert from credits_pipeline",
        "If you can read this, alerts reach you here. There is nothing to do.",
    )


def simulated(title: str, body: str) -> tuple[str, str]:
    """The same message, marked: nobody should take the demo's money for real."""
    return (
        f"[{SIMULATED}] {title}",
        f"{body}\n{SIMULATED}: these figures come from a simulated API; no real money is involved.",
    )


def together(alerts: Sequence[tuple[str, str]]) -> tuple[str, str]:
    """Several alerts as one message, the most urgent first: some in full, the others as titles."""
    (title, body), *others = alerts
    if not others:
        return title, body
    parts = [f"{title}\n{body}" for title, body in alerts[:MOST_IN_FULL]]
    titles = [f"- {title}" for title, _ in alerts[MOST_IN_FULL:][:MOST_TITLES]]
    unnamed = len(alerts) - MOST_IN_FULL - MOST_TITLES
    more = [f"- and {unnamed} more, listed on the asset alerts_sent in Dagster"] if unnamed > 0 else []
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
                [f"So far, these 80\u00a0% intervals have been right {wording.percent(held)} of the time."]
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
    """In Python, whose decimals have no limit: in the query, one account's figure could fail those of all."""
    rate = runway["expected_daily_spend_usd"]
    return f" {wording.usd(30 * rate)} would last about 30 days at the expected rate." if rate else ""
