"""What a day costs, worked out by hand: examples to read. test_oracle.py computes every rule on random histories.

Most readings lie at 00:05, so a midnight lies 1435 of the 1440 minutes after one reading and 5 before the
next: a counter that moved by 1.44 between them stood 1.435 above the earlier reading at midnight.
"""

from collections.abc import Iterator
from datetime import date
from decimal import Decimal

import pytest

from credits_pipeline_tests.models import World, usd


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
