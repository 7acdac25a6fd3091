"""What is due: once per crossing, for every account with a key, in sentences that the tables do not contradict."""

from datetime import date, timedelta
from decimal import Decimal
from typing import Any

import pytest

from credits_pipeline import clock
from credits_pipeline.alerts.memory import Alert
from credits_pipeline_tests.conftest import NOW, TODAY

YESTERDAY = TODAY - timedelta(days=1)


@pytest.mark.parametrize(
    ("days_left", "expected"),
    [
        pytest.param([20, 14], [None, None], id="at a threshold is not nearer than it"),
        pytest.param([20, 13, 12, 12, 8], [None, 14, None, None, None], id="once per crossing"),
        pytest.param([13, 6, 2, 1, 0], [14, 7, 3, None, None], id="each threshold once"),
        pytest.param([20, 2, 5, 6, 13], [None, 3, None, None, None], id="the nearest only, and no farther one later"),
        pytest.param([13, 14, 13, 15, 13, 16, 13], [14, None, None, None, None, None, None], id="wandering"),
        pytest.param([13, 17, 13], [14, None, 14], id="well beyond it, the date arms it again"),
        pytest.param([2, 3, 2, 4, 2], [3, None, None, None, 3], id="the margin is a day at least"),
        pytest.param([13, None, 13], [14, None, 14], id="beyond a year arms it again"),
    ],
)
def test_a_threshold_alerts_once_per_crossing_and_again_after_the_date_was_beyond_it(world, now, days_left, expected):
    said = []
    for left in days_left:
        world.runway(left)
        due = world.send().due
        assert len(due) <= 1
        said.append(due[0].threshold_days if due else None)
        now.advance(timedelta(days=1))
    assert said == expected


@pytest.mark.parametrize(
    ("hours", "left_after", "then", "expected"),
    [
        pytest.param(6, 3, 2, [[], ["run_out/default/3"]], id="just beyond the threshold is enough"),
        pytest.param(6, 2, 2, [[], []], id="too small to move the date beyond it: nothing new to say"),
        pytest.param(480, 2, 2, [["run_out/default/3"], []], id="used up already between two readings"),
    ],
)
def test_a_top_up_arms_a_threshold_again(world, now, hours, left_after, then, expected):
    world.top_up()  # before the alert: this one arms nothing
    world.runway(2)
    assert world.due() == ["run_out/default/3"]
    assert world.due() == []
    now.advance(timedelta(hours=hours))
    world.top_up()
    said = []
    for left in (left_after, then):
        world.runway(left)
        said.append(world.due())
        now.advance(timedelta(hours=6))
    assert said == expected


def test_used_up_credits_are_an_alert_of_their_own_once_until_there_are_credits_again(world, now):
    world.runway(0, status="exhausted", balance_usd=Decimal("-3.2"), expected_daily_spend_usd=None)
    (alert,) = world.send().due
    assert (alert.kind, alert.title) == ("exhausted", "default: credits are used up, balance −$3.20")
    assert "https://openrouter.ai/settings/credits. $3.20 would settle the debt." in alert.body
    assert "unknown a day" not in alert.body
    now.advance(timedelta(hours=1))
    assert world.due() == []
    world.runway(60)
    assert world.due() == []
    world.runway(0, status="exhausted", balance_usd=Decimal(0))
    assert world.due() == ["exhausted/default"]


def test_an_idle_or_young_account_is_no_alarm_and_too_little_history_arms_nothing(world):
    for status in ("idle", "accumulating"):
        world.runway(None, status=status)
        assert world.due() == []
    world.runway(2)
    assert world.due() == ["run_out/default/3"]
    world.runway(None, status="accumulating")
    assert world.due() == []
    world.runway(2)
    assert world.due() == []


def test_other_thresholds_are_taken_from_the_settings_and_a_new_one_repeats_nothing(world):
    world.env["CREDITS_ALERT_DAYS"] = "30"
    world.runway(13)
    assert world.due() == ["run_out/default/30"]
    world.env["CREDITS_ALERT_DAYS"] = "40,30,10"
    assert world.due() == []
    world.runway(9)
    assert world.due() == ["run_out/default/10"]
    world.env["CREDITS_ALERT_DAYS"] = "12"  # ten days were told of already
    assert world.due() == []


def test_the_message_says_what_happened_how_sure_what_to_do_and_the_numbers(world):
    world.runway(6)
    world.insert("spend_summary", {"account": "default", "unknown_days_7d": 1, "unknown_days_30d": 12})
    world.topup_plan(date(2026, 7, 31), "420", "443.10")
    (alert,) = world.send().due
    assert alert.title == "default: credits run out around 23 Jun 2026, 7 days left"
    assert alert.body.replace("\u00a0", " ").splitlines() == [
        "What happened: Credits will probably run out around 23 Jun 2026 (threshold: 7 days). Balance "
        "$41.20; expected spend $6.40 a day; spent in the last 7 days $45.10 (1 of these 7 days is unknown), "
        "in the last 30 $180.00 (12 of these 30 days are unknown).",
        "How sure: 80 % sure: between 22 Jun and 26 Jun 2026. So far, such intervals have been right 78 % of the time "
        "on this account. Gone within 7 days: 63 %; within 30 days: >99 %.",
        "Why: The date moved 2 days nearer: spend was above expectation.",
        "What to do: Buy $420.00 (charged $443.10) to reach 31 Jul 2026 with 90 %, before 22 Jun 2026, at "
        "https://openrouter.ai/settings/credits, or spend less.",
        "As of: the reading of 17 Jun 2026 00:05 UTC.",
    ]


def test_an_early_estimate_says_so(world):
    world.runway(1, is_early=True, history_days=5, calibration_80=None, run_out_p90=None)
    (alert,) = world.send().due
    assert alert.title.endswith("2 days left (early estimate)")
    assert "early estimate from 5 complete days" in alert.body
    assert "What to do: Top up now at" in alert.body


def test_an_account_that_never_bought_or_spent_anything_is_no_alarm(world):
    world.env["OPENROUTER_API_KEY_NEW"] = "sk-or-v1-new"
    for is_unused, due in ((True, []), (False, ["exhausted/new"])):
        world.runway(0, "new", status="exhausted", balance_usd=Decimal(0), is_unused=is_unused)
        assert world.due() == due


def test_a_suggested_automatic_top_up_is_told_once_and_no_cycle_is_an_alert_until_one_does_not_arrive(world, now):
    world.topup_rule()
    told = []
    for left in (4, 1, 5, 2):
        world.runway(left)
        told += world.send().due
        now.advance(timedelta(days=1))
    (alert,) = told
    assert alert.key == "run_out/default/automatic"
    assert (
        "Automatic top-up: OpenRouter seems to buy $50.00 by itself whenever the balance falls below $10.00, as the "
        "last top-ups suggest. If so, nothing needs doing, and no such alert is sent again while they arrive. With "
        "CREDITS_AUTO_TOPUP=10:50 only one that does not arrive is an alert. Used-up credits always are."
    ) in alert.body
    assert "If you buy by hand: top up before 20 Jun 2026 at https://openrouter.ai" in alert.body
    since = clock.now().replace(tzinfo=None)
    world.topup_rule(below_since=since)  # the first reading below it
    world.runway(1)
    assert world.due() == []
    now.advance(timedelta(days=1))
    world.topup_rule(below_since=since)
    world.runway(1)
    assert world.due() == ["run_out/default/3"]


def test_with_a_configured_automatic_top_up_only_one_that_does_not_arrive_is_an_alert_once(world, now):
    world.runway(1)
    assert world.due() == ["run_out/default/3"]
    world.topup_rule(is_suggestion=False)
    assert world.due() == []
    since = clock.now().replace(tzinfo=None)
    now.advance(timedelta(hours=3))
    world.runway(1, balance_usd=Decimal("4.20"))
    world.topup_plan(date(2026, 7, 31), "420", "443.10")
    world.topup_rule(is_suggestion=False, below_since=since, is_overdue=True)
    (alert,) = world.send().due
    assert alert.title == "default: the automatic top-up did not arrive, balance $4.20"
    assert alert.body.replace("\u00a0", " ").splitlines() == [
        "What happened: The balance has been below $10.00 since 17 Jun 2026 00:05 UTC, and the $50.00 that OpenRouter "
        "buys then have not arrived: the card may have failed. Balance $4.20; expected spend $6.40 a day; spent in the "
        "last 7 days $45.10, in the last 30 $180.00.",
        "How sure: The balance is what OpenRouter reported. A card top-up can take an hour to appear.",
        "If nothing arrives: Credits last until about 18 Jun 2026. 80 % sure: between 17 Jun and 21 Jun 2026. So far, "
        "such intervals have been right 78 % of the time on this account.",
        "What to do: Check the card and the automatic top-up at https://openrouter.ai/settings/credits, or buy $420.00 "
        "(charged $443.10) to reach 31 Jul 2026 with 90 % by hand.",
        "As of: the reading of 17 Jun 2026 03:05 UTC.",
    ]
    assert world.due() == []
    world.topup_rule(is_suggestion=False)  # it arrived
    assert world.due() == []
    world.topup_rule(is_suggestion=False, below_since=since, is_overdue=True)
    assert world.due() == ["topup_overdue/default"]


def test_a_key_that_will_probably_reach_its_limit_is_an_alert_once_in_each_window(world):
    def key(probability: float | None, resets_on: date | None, remaining: str = "12", **columns: Any) -> None:
        world.execute("delete from marts.key_limits")
        row = {
            "account": "default", "key_hash": "h1", "name": "batch-7", "limit_usd": "50", "remaining_usd": remaining,
            "used_usd": Decimal(50) - Decimal(remaining), "resets_at": resets_on, "expected_daily_spend_usd": "4",
            "probability_before_reset": probability, "limit_reached_p50": date(2026, 6, 19),
            "is_disabled": False, "unused_days": 1, **columns,
        }  # fmt: skip
        world.insert("key_limits", row)

    world.runway(100)
    key(0.49, date(2026, 6, 22))
    assert world.due() == []
    key(0.5, date(2026, 6, 22))
    (alert,) = world.send().due
    assert alert.title == "default: key batch-7 will probably reach its limit of $50.00"
    assert alert.body.replace("\u00a0", " ").splitlines() == [
        "What happened: $38.00 of $50.00 is used, and the limit begins anew at 22 Jun 2026 00:00 UTC. It will "
        "probably be reached around 19 Jun 2026, and requests with this key are refused from then on.",
        "How sure: The probability is 50 %. Expected spend $4.00 a day.",
        "What to do: Raise the limit of batch-7 at https://openrouter.ai/settings/keys if the use is intended; else "
        "find out what uses it.",
    ]
    for probability in (0.4, 0.6):
        key(probability, date(2026, 6, 22))
        assert world.due() == []
    key(1, date(2026, 6, 29), remaining="0")
    (alert,) = world.send().due
    assert alert.title == "default: key batch-7 has reached its limit of $50.00"
    assert "Until then requests with this key are refused." in alert.body
    key(1, date(2026, 7, 6), remaining="0", is_disabled=True)
    assert world.due() == []
    # A limit that never begins anew: once when a week is left of it, and once more when it was raised.
    for quiet in ({"limit_reached_p50": date(2026, 6, 25)}, {"unused_days": 30}, {"unused_days": None}):
        key(None, None, **quiet)
        assert world.due() == []
    key(None, None)
    (alert,) = world.send().due
    assert "and the limit never begins anew. It will probably be reached around 19 Jun 2026" in alert.body
    assert "How sure: It is as likely before that day as after it. " in alert.body
    key(None, None, remaining="0")
    assert world.due() == []
    key(None, None, remaining="0", limit_usd="80")
    (alert,) = world.send().due
    assert "the limit never begins anew. Requests with this key are refused." in alert.body


def test_a_budget_is_an_alert_once_when_it_will_probably_be_passed_and_once_when_it_is_in_each_month(world, now):
    def month(spent: str, probability: float | None, first: date = date(2026, 6, 1), **columns: Any) -> list[str]:
        world.execute("delete from marts.month_outlook")
        row = {
            "account": "acme", "month": first, "as_of": clock.now().replace(tzinfo=None), "spent_usd": spent,
            "budget_usd": "500", "probability_over_budget": probability, "month_p10_usd": "480",
            "month_p50_usd": "520", "month_p90_usd": "570", **columns,
        }  # fmt: skip
        world.insert("month_outlook", row)
        told.extend(due := world.send().due)
        return [alert.key for alert in due]

    told: list[Alert] = []
    world.runway(100, "acme")
    spent = {"account": "acme", "spend_date": YESTERDAY, "model": "openai/gpt-5", "spend_usd": "240"}
    world.insert("daily_spend_by_model", spent)
    world.insert("daily_spend_by_key", spent | {"member": "batch-7"})
    world.insert("daily_spend_by_key", spent | {"member": "(unattributed)", "spend_usd": "250"})
    assert month("310", 0.5) == []
    assert month("320", 0.62) == ["budget/acme/2026-06/likely"]
    assert month("320", 0.4) == month("320", 0.7) == []
    assert month("501.5", 1) == ["budget/acme/2026-06/passed"]
    assert month("510", 1) == []
    now.advance(timedelta(days=14))
    assert month("20", 0.55, date(2026, 7, 1), last_month_usd="530") == ["budget/acme/2026-07/likely"]
    now.advance(timedelta(days=31))  # the last hours of July took it over the budget
    assert month("1", 0.1, date(2026, 8, 1), last_month_usd="501") == ["budget/acme/2026-07/passed"]
    likely, passed, *_ = told
    assert likely.title == "acme: the budget of Jun 2026 will probably be passed: $320.00 of $500.00 spent"
    assert likely.body.replace("\u00a0", " ").splitlines() == [
        "What happened: In Jun 2026 $320.00 was spent, the budget being $500.00. The whole month will cost about "
        "$520.00.",
        "Most of it: model openai/gpt-5 $240.00; key batch-7 $240.00.",
        "How sure: The probability is 62 %. 80 % sure: the month costs between $480.00 and $570.00.",
        "What to do: Limit the keys at https://openrouter.ai/settings/keys, or raise CREDITS_BUDGET_ACME. Nothing is "
        "stopped by itself.",
    ]
    assert passed.title == "acme: the budget of Jun 2026 is passed: $501.50 of $500.00 spent"


def test_credits_that_will_probably_expire_are_a_notice_30_and_7_days_ahead(world, now):
    world.insert("credit_lots", {"account": "default", "remaining_usd": "90", "at_risk_usd": None})
    for expires_on, at_risk in ((date(2026, 7, 17), "40"), (date(2026, 7, 17), "1.5"), (date(2026, 7, 1), "0")):
        lot = {"account": "default", "expires_on": expires_on, "remaining_usd": "50", "at_risk_usd": at_risk}
        world.insert("credit_lots", lot)
    told = []
    for days in (0, 1, 22, 23, 24, 31):
        now.set(NOW + timedelta(days=days))
        world.runway(100)
        told += world.send().due
    assert [(alert.key, alert.as_of.date() - TODAY) for alert in told if alert.as_of] == [
        ("expiry/default/2026-07-17/30", timedelta()),
        ("expiry/default/2026-07-17/7", timedelta(days=23)),
    ]
    assert told[0].title == "default: $41.50 of credits may expire on 17 Jul 2026"
    assert "$100.00 is left of what was bought a year before" in told[0].body


def test_a_day_above_what_seemed_possible_is_an_alert_once_with_the_models_that_caused_it(world, now):
    world.runway(100)
    world.spend(TODAY - timedelta(days=4), "50")  # old news, as after a backfill
    world.spend(YESTERDAY, "41.2")
    world.spend(YESTERDAY, "41.2", cause_rank=2, model="vendor/steady", model_usd="4.2", model_usual_usd="4")
    (alert,) = world.send().due
    assert alert.title == "default: unusually high spend on 16 Jun 2026: $41.20"
    assert alert.body.replace("\u00a0", " ").splitlines() == [
        "What happened: $41.20 was spent on 16 Jun 2026. The forecast from the day before was 99 % sure of at most "
        "$18.30; a usual day costs $5.00.",
        "Models: vendor/new $30.00 (usually $0.00); vendor/steady $4.20 (usually $4.00).",
        "How sure: It is the whole bill of that day. About one ordinary day in a hundred looks like this by chance.",
        "What to do: Find out what used these models. If the use was not intended, disable or limit the API key at "
        "https://openrouter.ai/settings/keys.",
        "The forecast now: Credits last until about 25 Sep 2026. 80 % sure: between 24 Sep and 28 Sep 2026. So far, "
        "such intervals have been right 78 % of the time on this account.",
    ]
    now.advance(timedelta(hours=12))
    assert world.due() == []


@pytest.mark.parametrize(
    ("key_share", "model_share", "title", "said"),
    [
        (0.94, 1, "$41.20, mostly by key batch-7", "94 % of all that was above usual, all openai/gpt-5."),
        (0.4, 0.7, "$41.20", "40 % of all that was above usual, mostly openai/gpt-5."),
    ],
)
def test_the_key_that_caused_it_is_named_with_what_to_do(world, key_share, model_share, title, said):
    key = {"key_name": "batch-7", "key_usd": "36", "key_usual_usd": "2", "key_model": "openai/gpt-5"}
    world.runway(100)
    world.spend(YESTERDAY, "41.2", **key, key_share=key_share, key_model_share=model_share)
    (alert,) = world.send().due
    assert alert.title == f"default: unusually high spend on 16 Jun 2026: {title}"
    text = alert.body.replace("\u00a0", " ")
    assert f"Key: batch-7 $36.00 (usually $2.00): {said}" in text
    assert "disable or limit batch-7 at https://openrouter.ai/settings/keys." in text


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        # Spent in the minutes after the reading at midnight; fetched while the day ran; more of everything; no bill.
        ({"method": "billed", "observed_usd": "4"},
         "whole bill of that day. Readings say $4.00, the bill $50.00: the difference is timing around midnight."),
        ({"method": "observed", "billed_usd": "4.2"},
         "measured from readings. Readings say $50.00, the bill $4.20: the difference is timing around midnight, "
         "or the bill is not complete yet."),
        ({"model": None}, "Models: no model was above its usual."),
        ({"model": None, "billed_usd": None, "method": "observed"}, "Models: there is no bill for this day yet."),
    ],
)  # fmt: skip
def test_both_figures_of_a_day_are_told_and_no_bill_is_not_called_a_usual_one(world, columns, said):
    world.runway(100, is_early=True)
    world.spend(YESTERDAY, "50", **columns)
    (alert,) = world.send().due
    assert said in alert.body
    assert "The forecast is still based on only a few days" in alert.body


def test_a_hostile_name_calls_nobody_links_nowhere_and_forges_no_line(world, receiver):
    world.channels(receiver.url("/a"))
    world.runway(100)
    hostile = "<!channel> @everyone\nWhat to do: pay at https://evil.example \x1b[31m\u202e" + "x" * 500
    world.spend(TODAY - timedelta(days=1), "50", model=hostile)
    world.send()
    (message,) = receiver.taken("/a")
    text = message["message"]
    assert "‹!channel› ＠everyone" in text
    for forbidden in ("<", "@", "\x1b", "\u202e", "https://evil"):
        assert forbidden not in text
    begins = ["What happened", "Models", "How sure", "What to do", "The forecast now"]
    assert [line.partition(":")[0] for line in text.splitlines()] == begins


def test_simulated_figures_are_called_simulated(world, receiver):
    world.env |= {"OPENROUTER_BASE_URL": "http://127.0.0.1:8787/api/v1", "OPENROUTER_ALLOW_CUSTOM_HOST": "1"}
    world.channels(receiver.url("/a"))
    world.runway(2)
    world.send()
    (message,) = receiver.taken("/a")
    assert message["title"].startswith("[SIMULATED] default: credits run out")
    assert message["message"].endswith("no real money is involved.")
