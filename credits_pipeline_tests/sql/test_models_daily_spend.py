"""What a day costs: the models over a real DuckDB, with figures worked out by hand.

Most readings lie at 00:05, so a midnight lies 1435 of the 1440 minutes after one reading and 5 before the
next: a counter that moved by 1.44 between them stood 1.435 above the earlier reading at midnight.
"""

from collections.abc import Iterator
from datetime import date, datetime
from decimal import Decimal

import pytest

from credits_pipeline_tests.models import NANO, World, usd


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


def test_a_day_fetched_before_its_end_is_not_filled_from_its_half_bill(world: World):
    world.read("2026-01-01 00:00", 100, 0)
    world.read("2026-01-03 00:00", 100, 6)
    world.bill("2026-01-01", 1, fetched="2026-01-01 12:00")
    world.bill("2026-01-02", 4, fetched="2026-01-02 23:59:59.999999")
    world.build()
    day = world.days()["01-01"]
    assert (day["method"], day["spend_usd"], day["billed_usd"]) == ("interpolated", usd(3), usd(1))
    assert methods(world)["01-02"] == "interpolated"


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


def test_an_account_that_is_only_billed_is_known_up_to_its_last_whole_day(world: World):
    world.bill("2026-01-01", 0)
    world.bill("2026-01-02", 3)
    world.bill("2026-01-04", 1)
    world.bill("2026-01-05", 2, fetched="2026-01-05 12:00")
    world.build()
    assert spend(world) == {"01-02": usd(3), "01-03": None, "01-04": usd(1)}
    assert complete(world) == ["01-02", "01-04"]


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
def test_a_cent_off_is_within_tolerance_and_a_nano_dollar_more_is_not(world: World, billed: str, is_within: bool):
    # 1 dollar by the counter; above it 1 % of the bill is more than a cent: 1.01 - 1 = 0.01 <= 0.0101
    world.read("2026-01-01 00:00", 100, 0)
    world.read("2026-01-02 00:00", 100, 1)
    world.bill("2026-01-01", billed)
    world.build()
    [row] = world.table("spend_reconciliation")
    assert row["is_within_tolerance"] == is_within


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


# -- by model -----------------------------------------------------------------------------------------


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
