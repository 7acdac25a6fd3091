"""What is due: once per crossing, for every account with a key, in sentences that the tables do not contradict."""

from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from credits_pipeline import clock
from credits_pipeline_tests.alerts.conftest import DAY, World
from credits_pipeline_tests.receiver import Receiver

YESTERDAY = DAY - timedelta(days=1)


# -- credits that run out ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("days_left", "expected"),
    [
        pytest.param([20, 14], [None, None], id="at a threshold is not nearer than it"),
        pytest.param([20, 13, 12, 12, 8], [None, 14, None, None, None], id="once per crossing"),
        pytest.param([13, 6, 2, 1, 0], [14, 7, 3, None, None], id="each threshold once"),
        pytest.param([20, 2, 2], [None, 3, None], id="the nearest only, not three messages"),
        pytest.param([20, 2, 5, 6, 13], [None, 3, None, None, None], id="the farther ones were said with it"),
        pytest.param([13, 14, 13, 15, 13, 16, 13], [14, None, None, None, None, None, None], id="wandering"),
        pytest.param([13, 17, 13], [14, None, 14], id="well beyond it, the date arms it again"),
        pytest.param([2, 3, 2, 4, 2], [3, None, None, None, 3], id="the margin is a day at least"),
        pytest.param([13, None, 13], [14, None, 14], id="beyond a year arms it again"),
        pytest.param([2, 30, 2], [3, None, 3], id="all are armed again at once"),
    ],
)
def test_a_threshold_alerts_once_per_crossing_and_again_when_the_date_has_moved_beyond_it(
    world: World, now: clock.FrozenClock, days_left: list[int | None], expected: list[int | None]
) -> None:
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
        pytest.param(6, 9, 2, [[], ["run_out/default/3"]], id="far beyond"),
        pytest.param(6, 2, 2, [[], []], id="too small to move the date beyond it: nothing new to say"),
        pytest.param(480, 2, 2, [["run_out/default/3"], []], id="used up already between two readings"),
    ],
)
def test_a_top_up_arms_a_threshold_again(
    world: World, now: clock.FrozenClock, hours: int, left_after: int, then: int, expected: list[list[str]]
) -> None:
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


def test_used_up_credits_are_an_alert_of_their_own_once_until_there_are_credits_again(
    world: World, now: clock.FrozenClock
) -> None:
    world.runway(0, status="exhausted", balance_usd=Decimal("-3.2"))
    (alert,) = world.send().due
    assert (alert.kind, alert.title) == ("exhausted", "default: credits are used up, balance −$3.20")
    now.advance(timedelta(hours=1))
    assert world.due() == []
    world.runway(60)
    assert world.due() == []
    world.runway(0, status="exhausted", balance_usd=Decimal(0))
    assert world.due() == ["exhausted/default"]


def test_an_idle_or_young_account_is_no_alarm_and_too_little_history_arms_nothing(
    world: World, now: clock.FrozenClock
) -> None:
    for status in ("idle", "accumulating"):
        world.runway(None, status=status)
        assert world.due() == []
    world.runway(2)
    assert world.due() == ["run_out/default/3"]
    world.runway(None, status="accumulating")
    assert world.due() == []
    world.runway(2)
    assert world.due() == []


def test_accounts_with_a_key_are_told_of_in_one_message_the_nearest_run_out_first(
    world: World, receiver: Receiver
) -> None:
    world.channels(receiver.url("/a"))
    world.runway(6)
    world.runway(1, "acme")
    world.runway(0, "gone", status="exhausted")  # its key was taken away
    world.send()
    assert receiver.titles == ["acme: credits run out around 18 Jun 2026, 2 days left (and 1 more alert)"]


def test_other_thresholds_are_taken_from_the_settings_and_a_new_one_repeats_nothing(world: World) -> None:
    world.env["CREDITS_ALERT_DAYS"] = "30"
    world.runway(13)
    assert world.due() == ["run_out/default/30"]
    world.env["CREDITS_ALERT_DAYS"] = "40,30,10"
    assert world.due() == []
    world.runway(9)
    assert world.due() == ["run_out/default/10"]
    world.env["CREDITS_ALERT_DAYS"] = "12"  # ten days were told of already
    assert world.due() == []


def test_the_message_says_what_happened_how_sure_what_to_do_and_the_numbers(world: World) -> None:
    world.runway(6)
    (alert,) = world.send().due
    assert alert.title == "default: credits run out around 23 Jun 2026, 7 days left"
    assert alert.body.replace("\u00a0", " ").splitlines() == [
        "What happened: Credits will probably run out around 23 Jun 2026 (threshold: 7 days). Balance "
        "$41.20; expected spend $6.40 a day; spent in the last 7 days $45.10, in the last 30 $180.00.",
        "How sure: 80 % sure: between 22 Jun and 26 Jun 2026. So far, such intervals have been right 78 % of the time "
        "on this account. Gone within 7 days: 63 %; within 30 days: >99 %.",
        "Why: The date moved 2 days nearer: spend was above expectation.",
        "What to do: Top up before 22 Jun 2026 at https://openrouter.ai/settings/credits, or spend less. $192.00 would "
        "last about 30 days at the expected rate.",
        "As of: the reading of 17 Jun 2026 00:05 UTC.",
    ]


def test_an_early_estimate_says_so(world: World) -> None:
    world.runway(1, is_early=True, history_days=5, calibration_80=None, run_out_p90=None)
    (alert,) = world.send().due
    assert alert.title.endswith("2 days left (early estimate)")
    assert "early estimate from 5 complete days" in alert.body
    assert "What to do: Top up now at" in alert.body


@pytest.mark.parametrize(
    ("balance", "rate", "said"),
    [
        ("-944.20", "38.0203333", "$2,084.81, of which $944.20 settle the debt, would last about 30 days"),
        ("-944.20", None, "$944.20 would settle the debt."),
        ("0", "2", "$60.00 would last about 30 days at the expected rate."),
        ("-0.00035", "0.00007", "$0.0024, of which $0.00035 settle the debt, would last"),
        ("-999999999", "999999999", "$30,999,999,969.00, of which $999,999,999.00 settle"),
    ],
)
def test_what_to_buy_settles_the_debt_and_lasts_30_days(
    world: World, balance: str, rate: str | None, said: str
) -> None:
    columns = {"balance_usd": Decimal(balance), "expected_daily_spend_usd": rate and Decimal(rate)}
    world.runway(0, status="exhausted", **columns)
    (alert,) = world.send().due
    assert f"https://openrouter.ai/settings/credits. {said}" in alert.body
    assert "unknown a day" not in alert.body


def test_an_account_that_never_bought_or_spent_anything_is_no_alarm(world: World) -> None:
    world.env["OPENROUTER_API_KEY_NEW"] = "sk-or-v1-new"
    world.reading("0", "0", "new")
    world.runway(0, "new", status="exhausted", balance_usd=Decimal(0), expected_daily_spend_usd=None)
    assert world.due() == []
    world.reading("0", "0.01", "new")
    assert world.due() == ["exhausted/new"]


def test_days_that_are_not_known_are_said_beside_the_sums(world: World) -> None:
    world.insert("spend_summary", {"account": "default", "unknown_days_7d": 1, "unknown_days_30d": 12})
    world.runway(2)
    (alert,) = world.send().due
    assert (
        "last 7 days $45.10 (1 of these 7 days is unknown), in the last 30 $180.00 (12 of these 30 days are unknown)."
        in alert.body
    )


# -- credits that are bought automatically -----------------------------------------------------------------------


def nights(world: World, now: clock.FrozenClock, balances: list[int]) -> list[str]:
    """$10 a day, one reading a night; a balance that rises was bought: what is told, by night."""
    told, used, bought = [], 1000, 1000 + balances[0]
    for balance in balances:
        used += 10
        bought = max(bought, used + balance)
        world.reading(str(bought), str(used))
        world.runway(balance // 10, balance_usd=Decimal(balance))
        told += [f"{balance}: {alert.key.removeprefix('run_out/default/')}" for alert in world.send().due]
        now.advance(timedelta(days=1))
    return told


CYCLE = [15, 55, 45, 35, 25]


def test_automatic_top_ups_are_told_once_and_their_every_cycle_is_no_alert(
    world: World, receiver: Receiver, now: clock.FrozenClock
) -> None:
    world.channels(receiver.url("/a"))
    assert nights(world, now, CYCLE * 6) == ["15: 3", "25: 3", "55: 7", "25: 3", "55: automatic"]
    (message,) = [m["message"] for m in receiver.taken("/a") if "Automatic top-up:" in m["message"]]
    assert (
        "The last 3 top-ups were $50.00 each, always at about the same balance, at most $15.00: OpenRouter seems to "
        "buy credits by itself. If so, nothing needs doing, and while this goes on no such alert is sent again unless "
        "the balance falls below $5.00. Used-up credits are always an alert."
    ) in message
    assert "If you buy by hand: top up before 2 Jul 2026 at https://openrouter.ai" in message


def test_an_automatic_top_up_that_does_not_come_is_an_alert(world: World, now: clock.FrozenClock) -> None:
    told = nights(world, now, [*CYCLE * 4, 15, 5, 4, 4])
    assert told[-2:] == ["55: automatic", "4: 3"]


def test_equal_top_ups_at_any_balance_are_not_called_automatic(world: World, now: clock.FrozenClock) -> None:
    told = nights(world, now, [15, 55, 45, 85, 75, 115, 105, 95, 85, 75, 65, 55, 45, 35, 25])
    assert told == ["15: 3", "115: 14", "65: 7", "25: 3"]


# -- a day that costs too much -----------------------------------------------------------------------------------


def test_a_day_above_what_seemed_possible_is_an_alert_once_with_the_models_that_caused_it(
    world: World, now: clock.FrozenClock
) -> None:
    world.runway(100)
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


def test_a_day_that_is_old_news_as_after_a_backfill_is_no_alert(world: World) -> None:
    world.runway(100)
    world.spend(DAY - timedelta(days=4), "50")
    assert world.due() == []


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        pytest.param(
            {"method": "billed", "observed_usd": "4"},
            "whole bill of that day. Readings say $4.00, the bill $50.00: the difference is timing around midnight.",
            id="spent in the minutes after the reading at midnight",
        ),
        pytest.param(
            {"method": "observed", "billed_usd": "4.2"},
            "measured from readings. Readings say $50.00, the bill $4.20: the difference is timing around midnight, "
            "or the bill is not complete yet.",
            id="the bill was fetched while the day ran",
        ),
        pytest.param({"model": None}, "Models: no model was above its usual.", id="more of everything, as usual"),
        pytest.param(
            {"model": None, "billed_usd": None, "method": "observed"},
            "Models: there is no bill for this day yet.",
            id="no bill",
        ),
    ],
)
def test_both_figures_of_a_day_are_told_and_no_bill_is_not_called_a_usual_one(
    world: World, columns: dict[str, Any], said: str
) -> None:
    world.runway(100, is_early=True)
    world.spend(YESTERDAY, "50", **columns)
    (alert,) = world.send().due
    assert said in alert.body
    assert "The forecast is still based on only a few days" in alert.body


# -- hostile text, the demo, tests -------------------------------------------------------------------------------


def test_a_hostile_name_calls_nobody_links_nowhere_and_forges_no_line(world: World, receiver: Receiver) -> None:
    world.channels(receiver.url("/a"))
    world.runway(100)
    hostile = "<!channel> @everyone\nWhat to do: pay at https://evil.example \x1b[31m\u202e" + "x" * 500
    world.spend(DAY - timedelta(days=1), "50", model=hostile)
    world.send()
    (message,) = receiver.taken("/a")
    text = message["message"]
    assert "‹!channel› ＠everyone" in text
    for forbidden in ("<", "@", "\x1b", "\u202e", "https://evil"):
        assert forbidden not in text
    assert [line.partition(":")[0] for line in text.splitlines()] == [
        "What happened",
        "Models",
        "How sure",
        "What to do",
        "The forecast now",
    ]


def test_simulated_figures_are_called_simulated(world: World, receiver: Receiver) -> None:
    world.env |= {"OPENROUTER_BASE_URL": "http://127.0.0.1:8787/api/v1", "OPENROUTER_ALLOW_CUSTOM_HOST": "1"}
    world.channels(receiver.url("/a"))
    world.runway(2)
    world.send()
    (message,) = receiver.taken("/a")
    assert message["title"].startswith("[SIMULATED] default: credits run out")
    assert message["message"].endswith("no real money is involved.")
