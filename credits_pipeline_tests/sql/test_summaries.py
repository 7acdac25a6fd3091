"""What report and alerts read: spend by period, days that cost too much, and when a balance was used up."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from credits_pipeline_tests.models import DAY, Row, World, midnight, usd

START = date(2026, 3, 2)  # a Monday
FIVE_MINUTES = timedelta(minutes=5)


@pytest.fixture(scope="module")
def _world() -> Iterator[World]:
    world = World()
    yield world
    world.con.close()


@pytest.fixture
def world(_world: World) -> World:
    _world.empty()
    return _world


def read_nightly(world: World, spend: Sequence[Any], credits: Any = 1000, at: timedelta = timedelta()) -> date:
    """A reading at the beginning of each day and one at the end of the last; the day after the last is returned."""
    usage = Decimal(0)
    for number, amount in enumerate([*spend, 0]):
        world.read(midnight(START + number * DAY) + at, credits, usage)
        usage += Decimal(str(amount))
    return START + len(spend) * DAY


def summary(world: World) -> Row:
    world.build(list(world.project.models))
    [row] = world.table("spend_summary")
    return row


def unusual(world: World) -> list[Row]:
    world.build(list(world.project.models))
    return world.table("unusual_spend")


# -- spend_summary -------------------------------------------------------------------------------------


def test_each_period_stands_beside_the_one_before_it(world: World):
    today = read_nightly(world, range(1, 62))
    row = summary(world)
    assert row["close_date"] == today - DAY
    assert {name: value for name, value in row.items() if name.endswith("_usd")} == {
        "spend_1d_usd": usd(61),
        "before_1d_usd": usd(60),
        "spend_7d_usd": usd(sum(range(55, 62))),
        "before_7d_usd": usd(sum(range(48, 55))),
        "spend_30d_usd": usd(sum(range(32, 62))),
        "before_30d_usd": usd(sum(range(2, 32))),
    }
    assert {value for name, value in row.items() if name.startswith("unknown")} == {0}
    [runway] = world.table("credits_runway")
    assert (runway["spend_7d_usd"], runway["spend_30d_usd"]) == (row["spend_7d_usd"], row["spend_30d_usd"])


def test_days_that_are_not_known_are_counted_and_add_nothing(world: World):
    read_nightly(world, [5] * 9)
    row = summary(world)
    assert (row["spend_7d_usd"], row["unknown_days_7d"]) == (usd(35), 0)
    assert (row["before_7d_usd"], row["unknown_days_before_7d"]) == (usd(10), 5)
    assert (row["spend_30d_usd"], row["unknown_days_30d"]) == (usd(45), 21)
    assert (row["before_30d_usd"], row["unknown_days_before_30d"]) == (None, 30)


def test_periods_end_where_the_forecast_begins_also_where_the_last_days_are_not_known(world: World):
    for number in range(20):
        world.bill(START + number * DAY, 5)
    world.read(midnight(START + 23 * DAY) + timedelta(hours=8), 300, 290)  # three days later; none was fetched
    row = summary(world)
    assert row["close_date"] == START + 22 * DAY
    assert (row["spend_1d_usd"], row["unknown_days_1d"]) == (None, 1)
    assert (row["spend_7d_usd"], row["unknown_days_7d"]) == (usd(20), 3)
    [runway] = world.table("credits_runway")
    assert runway["spend_7d_usd"] == usd(20)


def test_an_account_that_was_never_read_is_summed_up_from_its_bills(world: World):
    for number in range(8):
        world.bill(START + number * DAY, 2)
    row = summary(world)
    assert (row["close_date"], row["spend_7d_usd"]) == (START + 7 * DAY, usd(14))


def test_the_dearest_models_come_first_and_all_after_the_twelfth_share_a_row(world: World):
    world.bill(START, 1000, models={"old/news": 1000})
    for number in range(1, 31):
        models = {f"v/m{place:02}": 20 - place for place in range(14)}
        world.bill(START + number * DAY, sum(models.values()), models=models)
    world.build(list(world.project.models))
    rows = world.table("spend_summary_by_model")
    assert [row["model"] for row in rows] == [*(f"v/m{place:02}" for place in range(12)), None]
    assert [row["place"] for row in rows] == list(range(1, 14))
    assert (rows[0]["spend_usd"], rows[0]["models"], rows[0]["requests"]) == (usd(600), 1, 30)
    assert (rows[12]["spend_usd"], rows[12]["models"], rows[12]["requests"]) == (usd(30 * (8 + 7)), 2, 60)
    assert sum(row["share"] for row in rows) == pytest.approx(1)


# -- unusual_spend -------------------------------------------------------------------------------------


def bill_each(world: World, spend: Sequence[Any], models: Mapping[int, Mapping[str, Any]] | None = None) -> None:
    for number, amount in enumerate(spend):
        world.bill(START + number * DAY, amount, models=(models or {}).get(number))


def test_a_day_beyond_what_was_possible_is_there_with_the_models_that_cost_more_than_usual(world: World):
    spend = [5] * 40 + [60]
    read_nightly(world, spend)
    bill_each(world, spend, {40: {"vendor/model": 6, "v/new": 30, "v/other": 20, "v/small": 3, "v/tiny": 1}})
    rows = unusual(world)
    assert {row["spend_date"] for row in rows} == {START + 40 * DAY}
    assert [(row["cause_rank"], row["model"], row["model_usd"], row["model_usual_usd"]) for row in rows] == [
        (1, "v/new", usd(30), usd(0)),
        (2, "v/other", usd(20), usd(0)),
        (3, "v/small", usd(3), usd(0)),
    ]
    first = rows[0]
    assert (first["unusual_usd"], first["method"], first["usual_usd"]) == (usd(60), "billed", usd(5))
    night = world.days("runway_history", "as_of_date")[f"{START + 39 * DAY:%m-%d}"]
    assert usd(5) < first["possible_usd"] == night["next_day_p99_usd"] < usd(60)


def test_a_day_without_a_bill_is_judged_by_its_readings_and_has_one_row_without_a_cause(world: World):
    read_nightly(world, [5] * 40 + [60])
    [row] = unusual(world)
    assert (row["unusual_usd"], row["method"], row["billed_usd"]) == (usd(60), "observed", None)
    assert (row["cause_rank"], row["model"]) == (1, None)


def test_a_batch_job_just_after_midnight_makes_no_day_before_it_unusual_whose_whole_bill_is_usual(
    world: World,
):
    read_nightly(world, [2] * 20 + [44], at=FIVE_MINUTES)  # the last $42 come in the five minutes after midnight
    bill_each(world, [2] * 20, None)
    world.bill(START + 20 * DAY, "2.2", fetched=datetime.combine(START + 21 * DAY, datetime.min.time()))
    assert unusual(world) == []
    # The day after is over, too: its bill shows the batch, its readings do not.
    world.read(midnight(START + 22 * DAY) + FIVE_MINUTES, 1000, 86)
    world.bill(START + 21 * DAY, 44)
    [row] = unusual(world)
    assert (row["spend_date"], row["unusual_usd"], row["method"]) == (START + 21 * DAY, usd(44), "billed")
    assert row["observed_usd"] < 3
    assert row["billed_usd"] == usd(44)


def test_a_bill_fetched_before_the_end_of_its_day_does_not_make_it_usual(world: World):
    read_nightly(world, [5] * 40 + [60])
    world.bill(START + 40 * DAY, 5, fetched=midnight(START + 40 * DAY) + timedelta(hours=12))
    [row] = unusual(world)
    assert (row["method"], row["observed_usd"], row["billed_usd"]) == ("observed", usd(60), usd(5))


@pytest.mark.parametrize(
    ("spend", "found"),
    [
        pytest.param([0] * 190 + [3], [190], id="any spend after half a year without"),
        pytest.param([0] * 10 + [3], [], id="the first spend of a new account"),
        pytest.param(["0.00001"] * 40 + ["0.009"], [], id="less than a cent"),
        pytest.param([5, 6] * 20 + [7], [], id="a usual day"),
    ],
)
def test_unusual_is(world: World, spend: list[Any], found: list[int]):
    read_nightly(world, spend)
    assert [(row["spend_date"] - START).days for row in unusual(world)] == found


def test_a_day_estimated_across_a_gap_is_never_unusual(world: World):
    read_nightly(world, [5] * 40)
    world.read(midnight(START + 42 * DAY), 1000, 400)
    assert unusual(world) == []


# -- runway_history.used_up_date -----------------------------------------------------------------------


def used_up(world: World) -> dict[int, int | None]:
    world.build(list(world.project.models))
    return {
        (row["as_of_date"] - START).days: row["used_up_date"] and (row["used_up_date"] - START).days
        for row in world.table("runway_history")
    }


def test_a_balance_is_used_up_on_the_day_on_which_as_much_was_spent_whatever_was_bought_since(world: World):
    read_nightly(world, [3] * 6, credits=10)
    world.read(midnight(START + 7 * DAY), 100, 21)  # a top-up; 3 a day go on
    # Left at the closes of day 0, 1, …: 7, 4, 1, then debt, which nobody can use up.
    assert used_up(world) == {0: 3, 1: 3, 2: 3, 3: None, 4: None, 5: None, 6: None}


def test_a_correction_does_not_undo_that_a_balance_was_used_up_once(world: World):
    read_nightly(world, [1, 4, -4, 1], credits=5)
    assert used_up(world) == {0: 1, 1: None, 2: None, 3: None}
