"""What a day costs: the models over a real DuckDB, with figures worked out by hand.

Most readings lie at 00:05, so a midnight lies 1435 of the 1440 minutes after one reading and 5 before the
next: a counter that moved by 1.44 between them stood 1.435 above the earlier reading at midnight.
"""

from collections.abc import Iterator
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from credits_pipeline_tests.models import DAY, NANO, Bill, ByHand, Reading, World, midnight, usd


@pytest.fixture(scope="module")
def _world() -> Iterator[World]:
    world = World()
    yield world
    world.con.close()


@pytest.fixture
def world(_world: World) -> World:
    _world.empty()
    return _world


def spend(world: World, account: str = "a") -> dict[str, Decimal | None]:
    return {day: row["spend_usd"] for day, row in world.days(account=account).items()}


def methods(world: World, account: str = "a") -> dict[str, str]:
    return {day: row["method"] for day, row in world.days(account=account).items()}


def complete(world: World, account: str = "a") -> list[str]:
    return [day for day, row in world.days(account=account).items() if row["is_complete"]]


# -- readings alone ------------------------------------------------------------------------------------


def test_no_readings_and_no_bills_give_empty_tables(world: World):
    world.build()
    for name in ("daily_spend", "daily_balance", "credit_events", "credits_readings", "spend_reconciliation"):
        assert world.table(name, None) == []


def test_the_very_first_reading_is_a_running_day_with_nothing_spent_yet(world: World):
    world.read("2026-01-01 00:05", 10, "2.5")
    world.build()
    assert world.table("daily_spend") == [
        {
            "account": "a",
            "spend_date": date(2026, 1, 1),
            "spend_usd": usd(0),
            "method": "observed",
            "is_complete": False,
            "observed_usd": usd(0),
            "billed_usd": None,
            "residual_usd": None,
            "readings": 1,
        }
    ]
    [balance] = world.table("daily_balance")
    assert balance["balance_usd"] is None
    assert balance["is_estimated"]


def test_spend_is_the_difference_of_the_usage_at_two_midnights(world: World):
    # usage at the midnights: 02: 10 + 1.435 = 11.435; 03: 11.44 + 2.87 = 14.31
    world.read("2026-01-01 00:05", 100, 10)
    world.read("2026-01-02 00:05", 100, "11.44")
    world.read("2026-01-03 00:05", 100, "14.32")
    world.build()
    assert spend(world) == {
        "01-01": usd("1.435"),  # from the first reading: 11.435 - 10
        "01-02": usd("2.875"),  # 14.31 - 11.435
        "01-03": usd("0.01"),  # up to the newest reading: 14.32 - 14.31
    }
    assert set(methods(world).values()) == {"observed"}
    assert complete(world) == ["01-01", "01-02"]


def test_a_reading_exactly_at_midnight_is_the_usage_at_that_midnight(world: World):
    world.read("2026-01-01 00:00", 100, "0.000000001")
    world.read("2026-01-02 00:00", 100, "3.000000003")
    world.read("2026-01-03 00:00", 100, "3.000000004")
    world.build()
    assert spend(world) == {"01-01": usd("3.000000002"), "01-02": NANO, "01-03": usd(0)}
    assert complete(world) == ["01-01", "01-02"]


def test_half_a_nano_dollar_is_rounded_away_from_zero_and_only_once_per_midnight(world: World):
    # noon to noon: the midnight lies half way, so a move of 1e-9 puts it at 0.5e-9, which rounds to 1e-9
    world.read("2026-01-01 12:00", 1, 0)
    world.read("2026-01-02 12:00", 1, NANO)
    world.read("2026-01-03 12:00", 1, 0)  # and -0.5e-9 rounds to -1e-9
    world.build()
    assert spend(world) == {"01-01": NANO, "01-02": -NANO, "01-03": usd(0)}


def test_two_readings_a_minute_apart_count_once_and_both_are_kept(world: World):
    world.read("2026-01-01 00:05", 100, 0)
    world.read("2026-01-02 00:05", 100, "1.44")
    world.read("2026-01-02 00:06", 100, "1.5")
    world.read("2026-01-03 00:06", 100, "2.94")
    world.build()
    # at midnight of the 3rd: 1.5 + 1.44 × 1434/1440 = 1.5 + 1.434 = 2.934
    assert spend(world) == {"01-01": usd("1.435"), "01-02": usd("1.499"), "01-03": usd("0.006")}
    assert [row["readings"] for row in world.table("daily_spend")] == [1, 2, 1]
    assert len(world.table("credits_readings")) == 4


def test_readings_at_nine_are_estimates_that_still_add_up(world: World):
    # 9 of 24 hours lie before the reading: at midnight 15/24 of the move has happened
    for day, usage in enumerate(("0", "2.4", "4.8", "12"), start=1):
        world.read(f"2026-01-0{day} 09:00", 100, usage)
    world.build()
    assert spend(world) == {
        "01-01": usd("1.5"),  # 2.4 × 15/24
        "01-02": usd("2.4"),  # 0.9 + 1.5
        "01-03": usd("5.4"),  # 0.9 + 7.2 × 15/24 = 0.9 + 4.5
        "01-04": usd("2.7"),
    }
    assert set(methods(world).values()) == {"interpolated"}
    # the first day is known from nine o'clock only, the last one still runs
    assert complete(world) == ["01-02", "01-03"]


@pytest.mark.parametrize(
    ("clock_time", "expected"),
    [("02:00:00", "observed"), ("02:00:00.000001", "interpolated")],
)
def test_a_midnight_counts_as_read_up_to_two_hours_away(world: World, clock_time: str, expected: str):
    world.read("2026-01-01 00:00", 100, 0)
    world.read(f"2026-01-02 {clock_time}", 100, 1)
    world.build()
    assert methods(world)["01-01"] == expected


def test_a_reading_just_before_midnight_serves_it_as_well_as_one_after(world: World):
    world.read("2026-01-01 22:00", 100, 0)
    world.read("2026-01-02 23:00", 100, 25)
    world.read("2026-01-04 01:00", 100, 51)
    world.build()
    # midnights: 02: 25 × 2/25 = 2; 03: 25 + 26 × 1/26 = 26; 04: 25 + 25 = 50
    assert spend(world) == {"01-01": usd(2), "01-02": usd(24), "01-03": usd(24), "01-04": usd(1)}
    assert methods(world) == {
        "01-01": "interpolated",  # its own start was not read
        "01-02": "observed",
        "01-03": "observed",
        "01-04": "observed",
    }
    assert complete(world) == ["01-02", "01-03"]


def test_missed_days_are_shared_out_by_time_and_add_up_to_the_counter(world: World):
    world.read("2026-01-01 00:00", 100, 0)
    world.read("2026-01-02 00:00", 100, 2)
    world.read("2026-01-05 00:00", 100, 9)  # three days, 7 dollars: 2.333333333 a day, rounded per midnight
    world.build()
    assert spend(world) == {
        "01-01": usd(2),
        "01-02": usd("2.333333333"),
        "01-03": usd("2.333333334"),  # 6.666666667 - 4.333333333
        "01-04": usd("2.333333333"),
        "01-05": usd(0),
    }
    assert list(methods(world).values()) == [
        "observed",
        "interpolated",
        "interpolated",
        "interpolated",
        "observed",
    ]
    assert complete(world) == ["01-01", "01-02", "01-03", "01-04"]


def test_the_running_day_is_observed_when_its_first_midnight_was_read(world: World):
    world.read("2026-01-01 00:05", 100, 0)
    world.read("2026-01-02 00:05", 100, "1.44")
    world.read("2026-01-02 15:00", 100, 5)
    world.build()
    running = world.days()["01-02"]
    assert running["spend_usd"] == usd("3.565")
    assert (running["method"], running["is_complete"], running["readings"]) == ("observed", False, 2)


def test_the_running_day_is_an_estimate_when_its_first_midnight_was_not_read(world: World):
    world.read("2026-01-01 12:00", 100, 0)
    world.read("2026-01-02 12:00", 100, 2)
    world.build()
    assert world.days()["01-02"]["method"] == "interpolated"
    assert spend(world) == {"01-01": usd(1), "01-02": usd(1)}
    assert complete(world) == []


def test_an_account_that_vanishes_keeps_its_rows_up_to_its_newest_reading(world: World):
    for day in (1, 2, 3, 4):
        world.read(f"2026-01-0{day} 00:05", 100, day, account="stays")
    for day in (1, 2):
        world.read(f"2026-01-0{day} 00:05", 100, day, account="gone")
    world.build()
    assert list(spend(world, "stays")) == ["01-01", "01-02", "01-03", "01-04"]
    assert list(spend(world, "gone")) == ["01-01", "01-02"]


def test_a_falling_counter_is_negative_spend_and_named_never_clamped(world: World):
    world.read("2026-01-01 00:00", 100, 10)
    world.read("2026-01-02 00:00", 100, 12)
    world.read("2026-01-03 00:00", 100, "7.5")
    world.read("2026-01-04 00:00", 100, 8)
    world.build()
    assert list(spend(world).values()) == [usd(2), usd("-4.5"), usd("0.5"), usd(0)]
    assert world.table("credit_events") == [
        {
            "account": "a",
            "event_at_earliest": datetime(2026, 1, 2),
            "event_at_latest": datetime(2026, 1, 3),
            "kind": "usage_correction",
            "amount_usd": usd("-4.5"),
        }
    ]


def test_of_two_rows_for_one_instant_our_own_reading_wins_over_an_imported_one(world: World):
    world.read("2026-01-01 00:00", 100, 9, source="import")
    world.read("2026-01-01 00:00", 100, 1, source="api")
    world.read("2026-01-02 00:00", 100, 3, source="import")
    world.read("2026-01-02 00:00", 100, 2, source="import")
    world.build()
    readings = [(row["total_usage"], row["source"]) for row in world.table("credits_readings")]
    assert readings == [(usd(1), "api"), (usd(3), "import")]  # of equals the higher counter
    assert spend(world)["01-01"] == usd(2)


# -- what was billed -----------------------------------------------------------------------------------


def test_a_gap_is_filled_from_what_was_billed_and_reconciled_as_a_whole(world: World):
    world.read("2026-01-01 00:00", 100, 0)
    world.read("2026-01-02 00:00", 100, 2)
    world.read("2026-01-05 00:00", 100, 11)
    world.bill("2026-01-02", 1)
    world.bill("2026-01-03", 0)
    world.bill("2026-01-04", "8.1")
    world.build()
    assert spend(world) == {
        "01-01": usd(2),
        "01-02": usd(1),
        "01-03": usd(0),
        "01-04": usd("8.1"),
        "01-05": usd(0),
    }
    gap = world.days()["01-03"]
    assert (gap["method"], gap["observed_usd"], gap["residual_usd"]) == ("billed", usd(3), None)
    # 11 - 2 = 9 by the counter, 9.1 by the bill: -0.1 is more than 1 % of 9.1
    assert world.table("spend_reconciliation") == [
        {
            "account": "a",
            "first_date": date(2026, 1, 2),
            "last_date": date(2026, 1, 4),
            "days": 3,
            "observed_usd": usd(9),
            "billed_usd": usd("9.1"),
            "residual_usd": usd("-0.1"),
            "shared_usd": usd(0),
            "tolerance_usd": usd("0.091"),
            "is_within_tolerance": False,
        }
    ]


def test_in_a_gap_billed_in_part_the_other_days_keep_their_plain_share(world: World):
    world.read("2026-01-01 00:00", 100, 0)
    world.read("2026-01-04 00:00", 100, 9)
    world.bill("2026-01-02", 5)
    world.build()
    assert spend(world) == {"01-01": usd(3), "01-02": usd(5), "01-03": usd(3), "01-04": usd(0)}
    assert list(methods(world).values()) == ["interpolated", "billed", "interpolated", "observed"]
    assert world.table("spend_reconciliation") == []  # two of its days have no bill


def test_a_day_fetched_before_its_end_is_not_filled_from_its_half_bill(world: World):
    world.read("2026-01-01 00:00", 100, 0)
    world.read("2026-01-03 00:00", 100, 6)
    world.bill("2026-01-01", 1, fetched="2026-01-01 12:00")
    world.bill("2026-01-02", 4, fetched="2026-01-02 23:59:59.999999")
    world.build()
    day = world.days()["01-01"]
    assert (day["method"], day["spend_usd"], day["billed_usd"]) == ("interpolated", usd(3), usd(1))
    assert methods(world)["01-02"] == "interpolated"


def test_a_day_fetched_at_the_midnight_that_ends_it_is_whole(world: World):
    world.read("2026-01-01 00:00", 100, 0)
    world.read("2026-01-03 00:00", 100, 6)
    world.bill("2026-01-01", 1, fetched="2026-01-02 00:00")
    world.build()
    assert world.days()["01-01"]["spend_usd"] == usd(1)


def test_an_observed_day_stays_observed_and_shows_how_far_the_bill_is_off(world: World):
    world.read("2026-01-01 00:00", 100, 0)
    world.read("2026-01-02 00:00", 100, 5)
    world.bill("2026-01-01", "5.02")
    world.build()
    day = world.days()["01-01"]
    assert (day["method"], day["spend_usd"], day["residual_usd"]) == ("observed", usd(5), usd("-0.02"))
    [row] = world.table("spend_reconciliation")
    assert (row["residual_usd"], row["tolerance_usd"]) == (usd("-0.02"), usd("0.0502"))
    assert row["is_within_tolerance"]


def test_history_reaches_back_to_the_first_day_billed_above_zero(world: World):
    world.bill("2025-12-28", 0)
    world.bill("2025-12-29", 3)
    world.bill("2025-12-30", 0)
    world.bill("2025-12-31", 4, fetched="2025-12-31 12:00")
    world.bill("2026-01-01", 5)
    world.read("2026-01-01 15:00", 100, 40)
    world.read("2026-01-02 00:05", 100, 42)
    world.build()
    assert spend(world) == {
        "12-29": usd(3),
        "12-30": usd(0),
        "12-31": None,  # nobody read it, and only half of its bill is known
        "01-01": usd(5),  # the whole bill, not only what followed the first reading
        "01-02": usd("0.018348624"),  # 2 × 5/545, as 42 - (40 + 1.981651376)
    }
    assert world.days()["12-31"]["billed_usd"] == usd(4)
    assert complete(world) == ["12-29", "12-30", "01-01"]
    observed = [row["observed_usd"] for row in world.table("daily_spend")]
    assert observed == [None, None, None, usd("1.981651376"), usd("0.018348624")]


def test_the_newest_readings_day_is_over_once_its_bill_was_fetched_after_its_end(world: World):
    # the counter has not been readable since 00:05 on the 2nd, the bills still arrive
    world.read("2026-01-01 00:05", 100, 0)
    world.read("2026-01-02 00:05", 100, "1.44")
    world.bill("2026-01-02", 7)
    world.bill("2026-01-03", 9)
    world.build()
    assert list(spend(world)) == ["01-01", "01-02"]
    day = world.days()["01-02"]
    assert (day["method"], day["spend_usd"], day["is_complete"]) == ("billed", usd(7), True)
    assert day["observed_usd"] == usd("0.005")


def test_an_account_that_is_only_billed_is_known_up_to_its_last_whole_day(world: World):
    world.bill("2026-01-01", 0)
    world.bill("2026-01-02", 3)
    world.bill("2026-01-04", 1)
    world.bill("2026-01-05", 2, fetched="2026-01-05 12:00")
    world.build()
    assert spend(world) == {"01-02": usd(3), "01-03": None, "01-04": usd(1)}
    assert complete(world) == ["01-02", "01-04"]


def test_an_account_billed_nothing_and_never_read_has_no_days(world: World):
    world.bill("2026-01-01", 0)
    world.build()
    assert world.table("daily_spend") == []


def test_a_residual_beyond_tolerance_warns_with_account_day_and_both_figures(world: World):
    world.read("2026-01-01 00:00", 100, 0)
    world.read("2026-01-02 00:00", 100, 5)
    world.read("2026-01-03 00:00", 100, 10)
    world.bill("2026-01-01", "4.9")  # 0.1 off, 0.049 allowed
    world.bill("2026-01-02", "5.01")  # 0.01 off, 0.0501 allowed
    result = world.build_and_test()
    [warning] = [test for test in result.tests if not test.passed]
    assert warning.test.severity == "warn"
    assert warning.failing_rows == 1
    assert "spend_agrees_with_the_bill" in warning.message
    for part in ("account=a", "2026-01-01", "observed_usd=5.0", "billed_usd=4.9"):
        assert part in warning.message
    assert world.table("spend_reconciliation_monthly") == [
        {
            "account": "a",
            "month": date(2026, 1, 1),
            "days": 2,
            "observed_usd": usd(10),
            "billed_usd": usd("9.91"),
            "residual_usd": usd("0.09"),
            "outside_tolerance": 1,
        }
    ]


@pytest.mark.parametrize(
    ("billed", "is_within"),
    [("0.99", True), ("0.989999999", False), ("1.01", True), ("1.010203040", False)],
)
def test_a_cent_off_is_within_tolerance_and_a_nano_dollar_more_is_not(
    world: World, billed: str, is_within: bool
):
    # 1 dollar by the counter; above it 1 % of the bill is more than a cent: 1.01 - 1 = 0.01 <= 0.0101
    world.read("2026-01-01 00:00", 100, 0)
    world.read("2026-01-02 00:00", 100, 1)
    world.bill("2026-01-01", billed)
    world.build()
    [row] = world.table("spend_reconciliation")
    assert row["is_within_tolerance"] == is_within


def test_the_running_day_and_a_half_fetched_day_never_warn(world: World):
    world.read("2026-01-01 00:00", 100, 0)
    world.read("2026-01-02 00:00", 100, 5)
    world.read(
        "2026-01-02 23:00", 100, 9
    )  # near the midnight that ends the day, but no reading lies after it
    world.bill("2026-01-01", 1, fetched="2026-01-01 12:00")
    world.bill("2026-01-02", 20)
    result = world.build_and_test()
    assert [test for test in result.tests if not test.passed] == []
    assert world.table("spend_reconciliation") == []


# -- balances and events -------------------------------------------------------------------------------


def balances(world: World) -> dict[str, Decimal | None]:
    return {day: row["balance_usd"] for day, row in world.days("daily_balance", "balance_date").items()}


def test_a_days_balance_is_the_one_at_the_midnight_that_ends_it(world: World):
    world.read("2026-01-01 00:05", 20, 0)
    world.read("2026-01-02 00:05", 20, "1.44")
    world.read("2026-01-03 00:05", 70, "2.88")
    world.build()
    # 20 - 1.435; the top-up shows in the reading five minutes after the close of the 2nd: 70 - 2.875
    assert balances(world) == {"01-01": usd("18.565"), "01-02": usd("67.125"), "01-03": None}
    assert [row["is_estimated"] for row in world.table("daily_balance")] == [False, False, True]


def test_within_a_gap_the_balance_is_given_where_both_neighbours_agree_and_null_where_not(world: World):
    world.read("2026-01-01 12:00", 50, 0)
    world.read("2026-01-03 12:00", 50, 4)
    world.read("2026-01-05 12:00", 80, 8)
    world.build()
    assert balances(world) == {
        "01-01": usd(49),
        "01-02": usd(47),
        "01-03": None,  # 50 or 80: the top-up may lie on either side of this midnight
        "01-04": None,
        "01-05": None,
    }
    row = world.days("daily_balance", "balance_date")["01-03"]
    assert (row["total_credits"], row["total_usage"], row["is_estimated"]) == (None, usd(5), True)
    assert world.days("daily_balance", "balance_date")["01-01"]["is_estimated"]


def test_of_two_readings_equally_near_a_midnight_the_earlier_says_the_credits(world: World):
    world.read("2026-01-01 23:00", 50, 0)
    world.read("2026-01-02 01:00", 80, 2)
    world.build()
    assert balances(world)["01-01"] == usd(49)


def test_debt_is_shown_as_a_negative_balance(world: World):
    world.read("2026-01-01 00:00", 1, 0)
    world.read("2026-01-02 00:00", 1, 3)
    world.build()
    assert balances(world)["01-01"] == usd(-2)
    assert [row["balance_usd"] for row in world.table("credits_readings")] == [usd(1), usd(-2)]


def test_top_ups_refunds_and_corrections_are_told_apart_between_the_readings_around_them(world: World):
    world.read("2026-01-01 00:05", 10, 5)
    world.read("2026-01-01 12:00", 35, 6)
    world.read("2026-01-02 00:05", 30, "5.5")
    world.read("2026-01-03 00:05", Decimal(30) + NANO, 7)
    world.build()
    noon, night = datetime(2026, 1, 1, 12), datetime(2026, 1, 2, 0, 5)
    found = [tuple(row.values())[1:] for row in world.table("credit_events")]
    assert found == [
        (datetime(2026, 1, 1, 0, 5), noon, "top_up", usd(25)),
        (noon, night, "credit_decrease", usd(-5)),
        (noon, night, "usage_correction", usd("-0.5")),
        (night, datetime(2026, 1, 3, 0, 5), "top_up", NANO),
    ]


def test_the_first_reading_is_no_top_up(world: World):
    world.read("2026-01-01 00:05", 10, 5)
    world.build()
    assert world.table("credit_events") == []


# -- by model, long form -------------------------------------------------------------------------------


def test_a_models_share_is_of_its_days_bill_and_null_where_nothing_was_billed(world: World):
    world.bill("2026-01-01", 4, models={"x/one": 3, "x/two": 1})
    world.bill("2026-01-02", 0, models={"x/free": 0})
    world.build()
    rows = world.table("daily_spend_by_model")
    assert [(row["model"], row["spend_usd"], row["share_of_day"]) for row in rows] == [
        ("x/one", usd(3), 0.75),
        ("x/two", usd(1), 0.25),
        ("x/free", usd(0), None),
    ]
    assert [rows[0][name] for name in ("requests", "prompt_tokens", "completion_tokens")] == [1, 10, 20]


def test_the_long_form_repeats_the_wide_figures_and_leaves_out_what_is_not_known(world: World):
    world.read("2026-01-01 00:00", 10, 0)
    world.read("2026-01-02 00:00", 10, 3)
    world.bill("2026-01-01", "2.99")
    world.build()
    found = {
        (f"{row['metric_date']:%m-%d}", row["metric"]): row["value_usd"]
        for row in world.table("daily_metrics_long")
    }
    assert found == {
        ("01-01", "spend"): usd(3),
        ("01-01", "observed"): usd(3),
        ("01-01", "billed"): usd("2.99"),
        ("01-01", "balance"): usd(7),
        ("01-02", "spend"): usd(0),
        ("01-02", "observed"): usd(0),
    }


@pytest.mark.parametrize(
    "name", ["credits_readings", "daily_spend", "daily_balance", "credit_events", "daily_spend_by_model"]
)
def test_types_are_those_that_tools_read(world: World, name: str):
    world.build()
    types = dict(
        world.con.execute(
            "select column_name, data_type from information_schema.columns where table_name = ?",
            [name],
        ).fetchall()
    )
    assert types == {column.name: column.data_type for column in world.project.models[name].columns}
    for column, found in types.items():
        assert found == "DECIMAL(18,9)" or not column.endswith("_usd")
    assert set(types.values()) <= {
        "VARCHAR",
        "DATE",
        "TIMESTAMP",
        "BOOLEAN",
        "BIGINT",
        "DOUBLE",
        "DECIMAL(18,9)",
    }


# -- sixty days, to the last digit ---------------------------------------------------------------------


def test_sixty_days_with_a_top_up_a_missed_week_and_a_refund_are_right_to_the_last_digit(world: World):
    # Between the readings at 00:05 of day n and n + 1 the counter moves by 1.44 × (n % 7 + 1): at the
    # midnight in between 1.435 × (n % 7 + 1) of it has happened, the rest counts on the next day.
    first = date(2026, 1, 1)
    weight = [n % 7 + 1 for n in range(61)]
    usage, credits = Decimal(10), Decimal(300)
    missed = range(30, 37)  # no reading on these seven days, all of them are billed
    for n in range(61):
        if n == 20:
            credits += 50  # seen first by the reading of day 20
        if n == 50:
            credits -= Decimal("12.34")
        if n not in missed:
            world.read(midnight(first + n * DAY) + timedelta(minutes=5), credits, usage)
        usage += Decimal("1.44") * weight[n]
    for n in missed:
        world.bill(first + n * DAY, Decimal("1.44") * weight[n])
    world.build()

    expected = [
        Decimal("1.435") * weight[n] + (Decimal("0.005") * weight[n - 1] if n else 0) for n in range(60)
    ]
    # The last reading before the missed week lies on day 29 at 00:05, the next on day 37. The counter moves
    # by 1.44 × (2 + 3 + 4 + 5 + 6 + 7 + 1 + 2) = 43.2 in between, 8 × 1440 minutes: 0.00375 a minute.
    expected[29] = Decimal("0.005") * weight[28] + Decimal("0.00375") * 1435
    for n in missed:
        expected[n] = Decimal("1.44") * weight[n]
    # Day 36 is missed itself: the midnight that ends it lies 5 minutes before the reading of day 37.
    expected[37] = Decimal("0.00375") * 5 + Decimal("1.435") * weight[37]
    running = Decimal("0.005") * weight[59]
    rows = world.table("daily_spend")
    assert [row["spend_usd"] for row in rows] == [usd(figure) for figure in [*expected, running]]
    # Day 29 begins within 2 h of a reading and ends a day before the next one.
    assert [n for n, row in enumerate(rows) if row["method"] != "observed"] == [29, *missed]
    assert [rows[n]["method"] for n in (29, 30, 36)] == ["interpolated", "billed", "billed"]
    assert [row["is_complete"] for row in rows] == [True] * 60 + [False]
    # 1.44 × (8 weeks of 28, and 1 + 2 + 3 + 4) = 1.44 × 234
    assert sum(row["observed_usd"] for row in rows) == Decimal("336.96")

    events = [
        (row["event_at_latest"].date(), row["kind"], row["amount_usd"])
        for row in world.table("credit_events")
    ]
    assert events == [
        (first + 20 * DAY, "top_up", usd(50)),
        (first + 50 * DAY, "credit_decrease", usd("-12.34")),
    ]
    closes = world.table("daily_balance")
    # Day 19 closes five minutes before the reading that first shows the top-up. By that reading 1.44 × 77
    # were spent (two weeks of 28 and 1 + 2 + 3 + 4 + 5 + 6), of which 0.005 × 6 after the close: 340 - ...
    assert closes[19]["balance_usd"] == usd(Decimal(340) - Decimal("1.44") * 77 + Decimal("0.005") * 6)
    # Around the missed week credits were 350 before and after: the balance is given, marked as an estimate.
    assert all(closes[n]["balance_usd"] is not None for n in range(60))
    assert [n for n in range(60) if closes[n]["is_estimated"]] == list(range(29, 36))
    assert closes[60]["balance_usd"] is None


# -- any readings, any bills ---------------------------------------------------------------------------

FIRST = datetime(2026, 2, 26)  # a month ends within the twelve days
SECOND = timedelta(seconds=1)
HOUR = timedelta(hours=1)
MICROSECOND = timedelta(microseconds=1)
times_of_day = st.one_of(
    st.sampled_from(
        [
            *(0 * HOUR, MICROSECOND, 300 * SECOND, 360 * SECOND, 2 * HOUR, 2 * HOUR + MICROSECOND),
            *(9 * HOUR, 12 * HOUR, 22 * HOUR - MICROSECOND, 22 * HOUR, 23 * HOUR, DAY - MICROSECOND),
        ]
    ),
    st.integers(0, 24 * 3600 * 10**6 - 1).map(lambda us: us * MICROSECOND),
)
instants = st.builds(lambda day, clock_time: FIRST + day * DAY + clock_time, st.integers(0, 11), times_of_day)
money = st.integers(-(10**18) // 3, 10**18 // 3).map(lambda nano: nano * NANO) | st.integers(-30, 90).map(
    lambda nano: nano * NANO
)
small = st.integers(-(10**10), 10**11).map(lambda nano: nano * NANO)
fetches = st.sampled_from([12 * HOUR, DAY - MICROSECOND, DAY, DAY + 300 * SECOND, 3 * DAY])


@st.composite
def accounts(draw: st.DrawFn) -> tuple[list[Reading], dict[date, Bill]]:
    figures = draw(st.sampled_from([money, small]))
    credits = draw(st.sampled_from([Decimal(50), Decimal(50), Decimal(80), Decimal("0.000000001")]))
    readings = []
    for instant in sorted(draw(st.sets(instants, max_size=12))):
        if draw(st.booleans()):
            credits = draw(st.sampled_from([credits, Decimal(50), Decimal("79.5")]))
        readings.append(Reading(instant, credits, draw(figures)))
    days = draw(st.sets(st.integers(-5, 14), max_size=20))
    bills = {}
    for number in days:
        day = (FIRST + number * DAY).date()
        total = draw(st.sampled_from([Decimal(0), Decimal(1)]) | small)
        bills[day] = Bill(total, midnight(day) + draw(fetches))
    return readings, bills


def without_account(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if name != "account"} for row in rows]


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(accounts(), min_size=1, max_size=6))
def test_any_readings_and_bills_give_what_plain_python_gives(
    world: World, accounts: list[tuple[list[Reading], dict[date, Bill]]]
):
    world.empty()
    for number, (readings, bills) in enumerate(accounts):
        for reading in readings:
            world.read(reading.at, reading.credits, reading.usage, account=str(number))
        for day, bill in bills.items():
            world.bill(day, bill.usd, bill.fetched_at, account=str(number))
    world.build()
    for number, (readings, bills) in enumerate(accounts):
        name, by_hand = str(number), ByHand(readings, bills)
        days = by_hand.days()
        found = without_account(world.table("daily_spend", name))
        assert found == [by_hand.spend(day) for day in days]
        assert without_account(world.table("daily_balance", name)) == [by_hand.balance(day) for day in days]
        assert without_account(world.table("credit_events", name)) == by_hand.events()
        assert without_account(world.table("spend_reconciliation", name)) == by_hand.reconciliation()
        if readings:
            moved = by_hand.readings[-1].usage - by_hand.readings[0].usage
            assert sum(row["observed_usd"] or 0 for row in found) == moved


def test_a_second_build_from_the_same_raw_rows_gives_the_same_rows_in_the_same_order(world: World):
    for account in ("b", "a", "c"):
        for number in reversed(range(30)):
            world.read(FIRST + number * 12 * HOUR, 100 + number // 9, number, account=account)
        for number in range(15):
            models = {"x/two": number % 5, "x/one": 1}
            world.bill((FIRST + number * DAY).date(), number % 5 + 1, account=account, models=models)
    names = ["credits_readings", "daily_spend", "daily_balance", "credit_events", "daily_spend_by_model"]
    names += ["spend_reconciliation", "spend_reconciliation_monthly", "daily_metrics_long"]
    world.build()
    once = {name: world.table(name, None) for name in names}
    world.build()
    assert {name: world.table(name, None) for name in names} == once
    assert all(once.values())
