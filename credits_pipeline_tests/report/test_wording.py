"""Amounts, days and the answer in words: what a reader, a chat or a screen reader gets to see."""

from datetime import date, datetime
from decimal import Decimal
from typing import Any

import pytest

from credits_pipeline import wording
from credits_pipeline.text import markdown_table

NBSP = "\u00a0"
AS_OF = datetime(2026, 3, 1, 0, 5)


def runway(early: date | None, middle: date | None, late: date | None, **more: Any) -> dict[str, Any]:
    return {
        "status": "ok", "is_early": False, "as_of": AS_OF, "balance_usd": Decimal("12.5"), "history_days": 60,
        "run_out_p10": early, "run_out_p50": middle, "run_out_p90": late, "explanation": "Why.",
        "days_left_p50": middle and (middle - AS_OF.date()).days + 1, **more,
    }  # fmt: skip


EARLY, MIDDLE, LATE = date(2026, 4, 5), date(2026, 4, 12), date(2026, 4, 27)
NEW_YEAR = date(2026, 12, 30), date(2026, 12, 31), date(2027, 1, 2)
GONE = [AS_OF.date()] * 3
UNTIL = "Credits last until about 12 Apr 2026."


@pytest.mark.parametrize(
    ("row", "headline", "detail", "tone", "brief", "span"),
    [
        (runway(EARLY, MIDDLE, LATE), UNTIL, "80 % sure: between 5 Apr and 27 Apr 2026.",
         "calm", "12 Apr 2026", "5 Apr – 27 Apr 2026"),
        (runway(*NEW_YEAR), "Credits last until about 31 Dec 2026.",
         "80 % sure: between 30 Dec 2026 and 2 Jan 2027.", "calm", "31 Dec 2026", "30 Dec 2026 – 2 Jan 2027"),
        (runway(MIDDLE, MIDDLE, MIDDLE), UNTIL, "80 % sure: on that day.", "calm", "12 Apr 2026", "that day"),
        (runway(EARLY, MIDDLE, None), UNTIL, "80 % sure: not before 5 Apr 2026, and possibly for more than a year.",
         "calm", "12 Apr 2026", "not before 5 Apr 2026"),
        (runway(EARLY, None, None), "Credits probably last longer than a year.",
         "There is a 1-in-10 chance that they run out by 5 Apr 2026.",
         "calm", "probably longer than a year", "not before 5 Apr 2026"),
        (runway(None, None, None), "Credits last longer than a year.", "The chance that they do is at least 90 %.",
         "calm", "longer than a year", ""),
        (runway(EARLY, MIDDLE, LATE, is_early=True, history_days=6), UNTIL,
         "80 % sure: between 5 Apr and 27 Apr 2026. This is an early estimate from 6 complete days: "
         "the date may still move a lot.", "calm", "12 Apr 2026", "5 Apr – 27 Apr 2026, early"),
        (runway(None, None, None, status="accumulating", history_days=2),
         "No run-out date yet: too little history.", "Why.", "open", "too little history", ""),
        (runway(None, None, None, status="idle"), "No run-out date: the account is idle.", "Why.", "calm", "idle", ""),
        (runway(*GONE, status="exhausted", balance_usd=Decimal("-3.2")), "Credits are used up.",
         "The balance is −$3.20: a top-up settles this debt first.", "urgent", "used up", ""),
        (runway(*GONE, status="exhausted", balance_usd=Decimal(0)), "Credits are used up.",
         "The balance is $0.00: top up to continue.", "urgent", "used up", ""),
        (runway(*GONE, status="exhausted", is_unused=True), "No credits were ever bought or spent.",
         "There is nothing to forecast until the first credits are bought.", "open", "never used", ""),
        ({"status": None}, "This account has never been read.", "Check its key, then run again.",
         "watch", "never read: check its key", ""),
    ],
)  # fmt: skip
def test_each_status_has_its_own_words(row, headline, detail, tone, brief, span):
    answer = wording.answer(row)
    assert (answer.headline, answer.detail.replace(NBSP, " ")) == (headline, detail)
    assert (answer.tone, answer.brief, answer.span) == (tone, brief, span)


@pytest.mark.parametrize(("left", "tone"), [(6, "urgent"), (7, "watch"), (13, "watch"), (14, "calm")])
def test_the_tone_turns_a_week_and_two_weeks_before_by_the_days_left_of_the_table(left, tone):
    assert wording.answer(runway(EARLY, MIDDLE, LATE, days_left_p50=left)).tone == tone


def test_unknown_days_are_counted_and_known_ones_are_not_mentioned():
    assert wording.say("of_days", 0, 7) == wording.say("of_days", None, 7) == ""
    assert wording.say("of_days", 1, 7) == "1 of these 7 days is unknown"
    assert wording.say("of_days", 30, 30) == "30 of these 30 days are unknown"
    assert wording.say("of_days", 1, 1) == "unknown"


def test_80_percent_sure_is_not_said_alone_where_the_accounts_own_record_is_worse():
    worse = wording.answer(runway(EARLY, MIDDLE, LATE, calibration_80=0.62)).detail
    assert worse.endswith(f"So far, such intervals have been right 62{NBSP}% of the time on this account.")
    for record in (None, 0.8, 0.91):
        assert "so far" not in wording.answer(runway(EARLY, MIDDLE, LATE, calibration_80=record)).detail.lower()


def test_an_answer_from_an_old_reading_says_so_first_and_is_never_calm():
    fresh, stale = (wording.answer(runway(EARLY, MIDDLE, LATE, is_stale=is_stale)) for is_stale in (False, True))
    assert stale.headline.startswith("No reading since 1 Mar 2026. At that time: credits last until about")
    assert (fresh.tone, stale.tone) == ("calm", "watch")


@pytest.mark.parametrize(
    ("amount", "words"),
    [
        ("1234.56", "$1,234.56"), ("0", "$0.00"), ("-0.3", "−$0.30"), ("0.996", "$1.00"), ("0.012", "$0.01"),
        ("0.0049", "$0.0049"), ("0.000001", "$0.000001"), ("0.000000001", "$0.000000001"), ("-0.0000123", "−$0.000012"),
        ("999999999.123456789", "$999,999,999.12"), ("123456789012.5", "$123,456,789,012.50"),
    ],
)  # fmt: skip
def test_an_amount_keeps_the_digits_that_count(amount, words):
    assert wording.usd(Decimal(amount)) == words


def test_what_is_not_known_is_said_to_be_unknown():
    for word in (wording.usd, wording.percent, wording.count, wording.compact, wording.day, wording.instant):
        assert word(None) == "unknown"


@pytest.mark.parametrize(
    ("ratio", "words"),
    [(0, "0 %"), (0.001, "<1 %"), (0.005, "<1 %"), (0.5, "50 %"), (0.9951, ">99 %"), (1, "100 %"), (-0.2, "−20 %")],
)
def test_only_nothing_is_no_per_cent_and_only_all_a_hundred(ratio, words):
    assert wording.percent(ratio) == words.replace(" ", NBSP)


@pytest.mark.parametrize(
    ("number", "words"),
    [(0, "0"), (9_999, "9,999"), (10_000, "10 k"), (999_499, "999 k"), (999_999, "1 M"), (145_200_000, "145 M"),
     (999_999_999, "1 B"), (5_000_000_000_000, "5 T")],
)  # fmt: skip
def test_a_large_count_has_three_digits(number, words):
    assert wording.compact(number).replace(NBSP, " ") == words


@pytest.mark.parametrize(
    ("first", "last", "words"),
    [
        (datetime(2026, 3, 1, 0, 5), datetime(2026, 3, 1, 9, 0), "1 Mar 2026"),
        (datetime(2026, 3, 1), datetime(2026, 3, 2), "1 – 2 Mar 2026"),
        (datetime(2026, 2, 28), datetime(2026, 3, 2), "28 Feb – 2 Mar 2026"),
        (datetime(2025, 12, 31), datetime(2026, 1, 1), "31 Dec 2025 – 1 Jan 2026"),
    ],
)
def test_a_span_of_days_names_each_part_once(first, last, words):
    assert wording.say("days", first, last) == words


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("acme", "acme"), ("", "(no name)"), ("  ", "(no name)"), ("a\u202eb", "a\ufffdb"), ("x" * 81, "x" * 79 + "…"),
        ("two  words", "two words"), ("\ud800", "\ufffd"),
    ],
)  # fmt: skip
def test_a_name_is_one_visible_line(name, words):
    assert wording.name(name) == words
    wording.name(name).encode("utf-8")


def test_a_table_shows_amounts_in_plain_digits_to_the_right_and_nothing_for_a_null():
    rows = [("a|b", Decimal("0E-9"), None), ("c", Decimal("-1.500000000"), 7)]
    assert markdown_table(["account", "spend_usd", "readings"], rows).splitlines() == [
        "| account | spend\\_usd | readings |",
        "| --- | ---: | ---: |",
        "| a\\|b | 0\\.000000000 |  |",
        "| c | \\-1\\.500000000 | 7 |",
    ]
