"""How much to buy, what the month will cost, which automatic top-ups to expect, and what is left of each purchase."""

import random
from collections.abc import Sequence
from datetime import date, timedelta
from decimal import Decimal
from itertools import groupby
from typing import Any

import pytest

from credits_pipeline_tests.models import DAY, Row, World, at, usd
from credits_pipeline_tests.sql.test_forecast import believable

START = date(2026, 3, 2)  # a Monday
HOUR = timedelta(hours=1)


def built(world: World, *marts: str) -> list[Row]:
    """Build the marts and what they are built from; the rows of the first, of all accounts."""
    world.build_for(*marts)
    return world.table(marts[0], account=None)


def fan_of(world: World) -> dict[date, Row]:
    return {row["forecast_date"]: row for row in world.table("balance_forecast")}


def plan(world: World, account: str = "a", **columns: Any) -> None:
    values = [columns.get(name) for name in ("budget_usd", "topup_below_usd", "topup_buys_usd", "topup_until")]
    world.con.execute("insert into raw.account_plans values (?, ?, ?, ?, ?)", [account, *values])


def test_buying_what_the_plan_says_lasts_until_that_day_and_more_certainty_or_time_never_costs_less(world):
    chance = random.Random(1)
    for number in range(64):
        spend, account = believable(number, chance.choice([4, 12, 60, 90])), f"a{number:02}"
        world.spend_nightly(START, spend, usd(f"{float(sum(spend)) * chance.uniform(0.9, 1.5):.6f}"), account=account)
        plan(world, account, topup_until=START + chance.randint(95, 500) * DAY)
    rows = built(world, "topup_plan", "runway_curve", "credits_readings")
    by_account = {name: list(mine) for name, mine in groupby(rows, lambda row: row["account"])}
    assert len(by_account) > 50  # the others spent nothing on most of their days
    for mine in by_account.values():
        for row in mine:
            others = [r for r in mine if r["until_date"] >= row["until_date"] and r["confidence"] >= row["confidence"]]
            assert min(r["credits_usd"] for r in others) == row["credits_usd"]
            assert row["charged_usd"] >= row["charged_in_crypto_usd"] >= row["credits_usd"]

    bought = [mine[number % len(mine)] for number, mine in enumerate(by_account.values())]
    assert sum(row["credits_usd"] > 5 for row in bought) > 25
    for row in bought:
        *_, last = world.table("credits_readings", row["account"])
        credits = last["total_credits"] + row["credits_usd"]
        world.read(last["observed_at"] + HOUR, credits, last["total_usage"], row["account"])
    built(world, "runway_curve")
    for row in bought:
        curve = world.table("runway_curve", row["account"])
        gone = [day["run_out_date"] for day in curve if day["probability"] >= 1 - row["confidence"]]
        assert not gone or gone[0] >= row["until_date"]


def test_a_plan_reaches_the_ends_of_this_month_and_the_next_and_the_day_that_is_set(world):
    plan(world, topup_until=date(2026, 12, 31))
    assert world.spend_nightly(START, [10] * 44, 440) == date(2026, 4, 15)
    found = built(world, "topup_plan", "month_outlook", "balance_forecast")
    rows = {(row["reason"], row["confidence"]): row for row in found}
    after = {f"{days} days": date(2026, 4, 14) + days * DAY for days in (7, 14, 30, 60, 90)}
    ends = {"this month": date(2026, 4, 30), "next month": date(2026, 5, 31), "CREDITS_TOPUP_UNTIL": date(2026, 12, 31)}
    until = {reason: row["until_date"] for (reason, confidence), row in rows.items() if confidence == 0.5}
    assert until == after | ends
    # Nothing is left, so all that will be spent is to be bought, in whole cents: what fan and month_outlook say.
    for day, reason in ((date(2026, 4, 30), "this month"), (date(2026, 12, 31), "CREDITS_TOPUP_UNTIL")):
        assert 0 <= rows[reason, 0.5]["credits_usd"] - fan_of(world)[day]["spend_p50"] < Decimal("0.01")
    [month] = world.table("month_outlook")
    assert 0 <= rows["this month", 0.9]["credits_usd"] - (month["month_p90_usd"] - 140) < Decimal("0.01")


@pytest.mark.parametrize(
    ("days", "until", "advised"),
    [(44, None, "this month"), (47, None, "next month"), (44, date(2026, 4, 20), "CREDITS_TOPUP_UNTIL")],
    ids=["16 days to its end", "13 days to its end", "a day that is set, however near"],
)
def test_one_plan_of_an_account_is_advised(world, days, until, advised):
    plan(world, topup_until=until)
    world.spend_nightly(START, [10] * days, 1000)
    [row] = [row for row in built(world, "topup_plan") if row["is_advised"]]
    assert (row["reason"], row["confidence"]) == (advised, 0.9)


def test_the_least_purchase_is_bought_and_charged_with_the_least_fee(world):
    world.spend_nightly(START, [0.01] * 40, "0.4")
    row = next(row for row in built(world, "topup_plan") if row["reason"] == "7 days")
    assert (row["credits_usd"], row["charged_usd"], row["charged_in_crypto_usd"]) == (usd(5), usd("5.8"), usd("5.25"))


def test_who_gets_no_date_gets_no_plan(world):
    world.spend_nightly(START, [5, 5], 100, account="new")
    world.spend_nightly(START, [5] * 10 + [0] * 31, 100, account="idle")
    assert built(world, "topup_plan") == []


def test_the_month_is_what_was_spent_and_what_the_fan_adds_until_its_end(world):
    plan(world, budget_usd=500)
    world.spend_nightly(START, [10] * 30 + [20] * 14)  # to the end of 14 April
    world.read("2026-04-15 12:00", 1000, 300 + 280 + 7)
    [row] = built(world, "month_outlook", "balance_forecast")
    assert (row["month"], row["as_of"]) == (date(2026, 4, 1), at("2026-04-15 12:00"))
    assert (row["spent_usd"], row["unknown_days"]) == (usd(287), 0)
    assert (row["last_month_usd"], row["last_month_unknown_days"]) == (usd(300), 1)  # 1 March was before all readings
    fan = fan_of(world)
    assert row["month_p50_usd"] == 280 + fan[date(2026, 4, 30)]["spend_p50"]
    assert row["month_p10_usd"] < 280 + fan[date(2026, 4, 30)]["spend_p10"]  # money's interval is the wider one
    assert row["month_p90_usd"] > 280 + fan[date(2026, 4, 30)]["spend_p90"]
    reached = next(day for day, figures in fan.items() if figures["spend_p50"] >= 500 - 280)
    assert row["budget_reached_p50"] == reached <= date(2026, 4, 30)


@pytest.mark.parametrize(
    ("budget", "least", "most", "day"),
    [(139, 1, 1, date(2026, 4, 14)), (146, 1, 1, date(2026, 4, 15)), (300, 0.2, 0.8, None), (5000, 0, 0.01, None)],
    ids=["passed on its last complete day", "passed on the running day", "likely or not", "out of reach"],
)
def test_a_budget_is_passed_with_a_probability(world, budget, least, most, day):
    plan(world, budget_usd=budget)
    world.spend_nightly(START, [10] * 44)
    world.read("2026-04-15 12:00", 1000, 447)
    [row] = built(world, "month_outlook")
    assert least <= row["probability_over_budget"] <= most
    assert day is None or row["budget_reached_p50"] == day


def test_unknown_days_are_counted_and_add_nothing_and_days_billed_nothing_are_known(world):
    for day in range(10):
        world.bill(date(2026, 4, 1) + day * DAY, 0)
    for day in range(12, 20):
        world.bill(date(2026, 4, 1) + day * DAY, 3)
    world.read("2026-04-21 08:00", 100, 24)
    [row] = built(world, "month_outlook")
    assert (row["spent_usd"], row["unknown_days"]) == (usd(24), 2)  # the 11th and the 12th
    assert (row["last_month_usd"], row["last_month_unknown_days"], row["budget_usd"]) == (None, 31, None)


def test_on_the_first_of_a_month_nothing_was_spent_yet(world):
    plan(world, budget_usd=500)
    assert world.spend_nightly(START, [10] * 30) == date(2026, 4, 1)
    [row] = built(world, "month_outlook")
    assert (row["month"], row["spent_usd"], row["last_month_usd"]) == (date(2026, 4, 1), usd(0), usd(300))
    assert 250 < row["month_p50_usd"] < 350


def test_a_replayed_month_is_judged_by_the_outlook_that_was_made_then(world):
    spend = [10 + n % 5 for n in range(70)]  # to the end of 10 May: April is the only month known as a whole
    world.spend_nightly(START, spend[:40])  # to the end of 10 April
    [then] = built(world, "month_outlook")
    world.empty()
    world.spend_nightly(START, spend)
    rows = {row["origin_day"]: row for row in built(world, "month_outlook_accuracy")}
    assert {day: row["replays"] for day, row in rows.items()} == {5: 1, 10: 1, 15: 1, 20: 1, 25: 1}
    april = sum(spend[30:60])
    quantiles = {level: then[f"month_p{level}_usd"] for level in (10, 50, 90)}
    losses = [max(level * (april - at), (100 - level) * (at - april)) / 100 for level, at in quantiles.items()]
    assert rows[10]["pinball_loss_usd"] == pytest.approx(sum(losses) / 3)
    assert rows[10]["coverage_80"] == (quantiles[10] <= april <= quantiles[90])
    assert rows[10]["run_rate_pinball_loss_usd"] == pytest.approx(Decimal(abs(april - 3 * sum(spend[30:40]))) / 2)


def test_the_next_automatic_top_ups_are_expected_when_the_fan_falls_below_the_threshold(world):
    plan(world, topup_below_usd=10, topup_buys_usd=50)
    world.spend_nightly(START, [5] * 40, 250)  # 50 are left: 40 above the threshold
    [row] = built(world, "topup_outlook", "balance_forecast")
    fan = fan_of(world)
    for quantile, spend in (("p10", "spend_p90"), ("p50", "spend_p50"), ("p90", "spend_p10")):
        for name, above in (("next", 40), ("following", 90)):
            expected = next(day for day, figures in fan.items() if figures[spend] > above)
            assert row[f"{name}_topup_{quantile}"] == expected
    assert (row["below_usd"], row["buys_usd"], row["charged_usd"]) == (usd(10), usd(50), usd("52.75"))
    assert (row["is_suggestion"], row["is_overdue"], row["below_since"]) == (False, False, None)
    # 150 in 30 days: the first purchase after 40, the second after 90, the third after 140.
    assert (row["topups_30d_p50"], row["charged_30d_p50_usd"]) == (3, usd("158.25"))


def buy_automatically(world: World, amounts: Sequence[int], every_hours: int = 6, below: int = 10) -> None:
    """1.5 USD an hour are spent, and the vendor buys the next amount as soon as less than `below` is left."""
    credits, usage, now, left = Decimal(60), Decimal(0), at("2026-03-02 00:00"), [*amounts]
    while left or credits - usage > 30:
        if now.hour % every_hours == 0:
            world.read(now, credits, usage)
        now, usage = now + HOUR, usage + Decimal("1.5")
        if left and credits - usage < below:
            credits += left.pop(0)


@pytest.mark.parametrize(
    ("amounts", "found"),
    [([50, 50, 50], [(10, 50)]), ([20, 50, 50, 50], [(10, 50)]), ([50, 50], []), ([50, 50, 60], [])],
    ids=["three equal ones below ten", "after another amount", "two may be chance", "amounts differ"],
)
def test_equal_top_ups_that_one_threshold_explains_are_a_suggestion(world, amounts, found):
    buy_automatically(world, amounts)
    for number, left in enumerate([40, 3, 25]):  # bought by hand, at any balance
        credits = 100 + 50 * number
        counters = [(credits, credits - left), (credits + 50, credits - left + 1)]
        world.read_nightly(START + 2 * number * DAY, counters, account="by hand")
    rows = built(world, "topup_outlook")
    assert [(row["below_usd"], row["buys_usd"]) for row in rows] == found
    assert all(row["is_suggestion"] and not row["is_overdue"] for row in rows)


@pytest.mark.parametrize(
    ("readings", "overdue", "since"),
    [
        pytest.param([("12:00", 100, 91)], False, "12:00", id="one reading below"),
        pytest.param([("12:00", 100, 91), ("13:00", 100, 92)], False, "12:00", id="a payment can take an hour"),
        pytest.param([("12:00", 100, 91), ("14:00", 100, 92)], True, "12:00", id="two hours"),
        pytest.param([("12:00", 100, 91), ("14:00", 150, 92)], False, None, id="it arrived"),
        pytest.param([("12:00", 100, 91), ("14:00", 105, 99)], False, "14:00", id="it arrived and is not enough"),
        pytest.param([("12:00", 100, 91), ("13:00", 100, 85), ("14:00", 100, 92)], False, "14:00", id="corrected"),
    ],
)
def test_a_top_up_is_overdue_two_hours_after_a_reading_below_the_threshold(world, readings, overdue, since):
    plan(world, topup_below_usd=10, topup_buys_usd=50)
    world.spend_nightly(START, [10] * 8, 100)
    for time, credits, usage in readings:
        world.read(f"2026-03-10 {time}", credits, usage)
    [row] = built(world, "topup_outlook")
    assert (row["is_overdue"], row["below_since"]) == (overdue, since and at(f"2026-03-10 {since}"))
    assert since is None or row["next_topup_p50"] == date(2026, 3, 10)


def test_what_remains_of_all_lots_is_the_balance_whatever_is_bought_spent_and_taken_back(world):
    chance = random.Random(2)
    balances = {}
    for number in range(60):
        counters = [(Decimal(chance.choice([0, 100])), Decimal(0))]
        for _ in range(30):
            moves = chance.choice([0, 0, 0, 10, 25, -10, -40]), chance.choice([0, 1, 2, 2, 9, -1])
            moved = map(sum, zip(counters[-1], moves, strict=True))
            counters.append(tuple(max(counter, Decimal(0)) for counter in moved))
        world.read_nightly(START, counters, f"a{number:02}")
        balances[f"a{number:02}"] = counters[-1][0] - counters[-1][1]
    lots = built(world, "credit_lots")
    left = {account: [lot for lot in lots if lot["account"] == account] for account in balances}
    for account, mine in left.items():
        assert sum(lot["remaining_usd"] for lot in mine) == max(balances[account], Decimal(0))
    assert all(0 <= lot["remaining_usd"] <= lot["amount_usd"] for lot in lots)
    assert min(balances.values()) < 0 < max(balances.values())


def test_the_oldest_credits_are_spent_first_and_a_refund_takes_the_newest(world):
    world.read_nightly(START, [(60, 50), (160, 52), (160, 65), (185, 65), (165, 65)])
    rows = built(world, "credit_lots")
    assert [(row["amount_usd"], row["remaining_usd"]) for row in rows] == [
        (usd(60), usd(0)),  # what was there before the first reading
        (usd(100), usd(95)),
        (usd(25), usd(5)),  # 20 of them were taken back
    ]
    assert [row["bought_earliest"] for row in rows] == [None, at("2026-03-02"), at("2026-03-04")]
    assert [row["expires_on"] for row in rows] == [None, date(2027, 3, 2), date(2027, 3, 4)]
    assert rows[0]["at_risk_usd"] is None


def test_at_risk_is_what_the_median_of_spend_leaves_of_a_lot_when_it_may_expire_and_all_of_it_past_its_year(world):
    world.read_nightly(START, [(100 if day < 5 else 1000, day) for day in range(60)])
    world.read_nightly(START, [(0 if day < 2 else 1000, day) for day in range(400)], account="past its year")
    *rows, past = built(world, "credit_lots", "balance_forecast")
    spent = fan_of(world)[date(2027, 3, 6)]["spend_p50"]
    assert [row["expires_on"] for row in rows] == [None, date(2027, 3, 6)]
    assert rows[1]["at_risk_usd"] == 1000 - 59 - spent > 0
    assert rows[1]["remaining_usd"] == usd(900)
    assert past["expires_on"] == date(2027, 3, 3)
    assert past["at_risk_usd"] == past["remaining_usd"] == usd(601)
