"""What report and alerts read: the models that cost most, and days that cost too much (sums: test_oracle.py)."""

from collections.abc import Mapping, Sequence
from datetime import date, datetime, timedelta
from typing import Any

import pytest

from credits_pipeline_tests.models import DAY, Row, World, midnight, usd

START = date(2026, 3, 2)  # a Monday
FIVE_MINUTES = timedelta(minutes=5)


def unusual(world: World) -> list[Row]:
    world.build_for("unusual_spend", "credits_runway", "runway_history")
    return world.table("unusual_spend")


def test_the_dearest_models_come_first_and_all_after_the_twelfth_share_a_row(world):
    world.bill(START, 1000, models={"old/news": 1000})
    for number in range(1, 31):
        models = {f"v/m{place:02}": 20 - place for place in range(14)}
        world.bill(START + number * DAY, sum(models.values()), models=models)
    world.build_for("spend_summary_by_model")
    rows = world.table("spend_summary_by_model")
    assert [row["model"] for row in rows] == [*(f"v/m{place:02}" for place in range(12)), None]
    assert [row["place"] for row in rows] == list(range(1, 14))
    assert (rows[0]["spend_usd"], rows[0]["models"], rows[0]["requests"]) == (usd(600), 1, 30)
    assert (rows[12]["spend_usd"], rows[12]["models"], rows[12]["requests"]) == (usd(30 * (8 + 7)), 2, 60)
    assert sum(row["share"] for row in rows) == pytest.approx(1)


def bill_each(world: World, spend: Sequence[Any], models: Mapping[int, Mapping[str, Any]] | None = None) -> None:
    for number, amount in enumerate(spend):
        world.bill(START + number * DAY, amount, models=(models or {}).get(number))


def test_a_day_beyond_what_was_possible_is_there_with_the_models_that_cost_more_than_usual(world):
    spend = [5] * 40 + [60]
    world.spend_nightly(START, spend)
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
    [night] = [row for row in world.table("runway_history") if row["as_of_date"] == START + 39 * DAY]
    assert usd(5) < first["possible_usd"] == night["next_day_p99_usd"] < usd(60)


def test_the_key_whose_spend_rose_most_is_named_with_its_share_and_its_model_and_moved_the_date(world):
    spend = [5] * 40 + [60]
    world.spend_nightly(START, spend, credits=700)
    bill_each(world, spend, {40: {"vendor/model": 6, "v/new": 54}})
    for number, amount in enumerate(spend):
        members = {("steady", "vendor/model"): min(amount, 5)}
        if number == 40:  # of which 7 are unattributed
            members |= {("batch-7", "v/new"): 47, ("batch-7", "vendor/model"): 1}
        world.break_down(START + number * DAY, members, fetched=f"{START + (number + 1) * DAY}")
    [first, *_] = unusual(world)
    assert (first["key_name"], first["key_usd"], first["key_usual_usd"]) == ("batch-7", usd(48), usd(0))
    assert first["key_share"] == pytest.approx(48 / 55)
    assert (first["key_model"], first["key_model_share"]) == ("v/new", pytest.approx(47 / 48))
    [row] = world.table("credits_runway")
    assert "days, mostly v/new; key batch-7)" in row["explanation"]
    world.con.execute("delete from raw.usage_breakdown_days where usage_date < ?", [START + 40 * DAY])
    assert unusual(world)[0]["key_name"] is None, "nothing is known of what is usual"
    assert "days, mostly v/new)" in world.table("credits_runway")[0]["explanation"]


def test_a_day_without_a_bill_is_judged_by_its_readings_and_has_one_row_without_a_cause(world):
    world.spend_nightly(START, [5] * 40 + [60])
    [row] = unusual(world)
    assert (row["unusual_usd"], row["method"], row["billed_usd"]) == (usd(60), "observed", None)
    assert (row["cause_rank"], row["model"]) == (1, None)


def test_a_batch_job_just_after_midnight_makes_no_day_before_it_unusual_whose_whole_bill_is_usual(world):
    world.spend_nightly(START, [2] * 20 + [44], at=FIVE_MINUTES)  # the last $42 come in the five minutes after midnight
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


def test_after_days_without_readings_a_usual_day_is_judged_by_its_own_night_and_nothing_was_bought(world):
    spend = [14, 14, 14, 14, 14, 14, 2] * 6 + [14, 14]
    world.spend_nightly(START, spend, credits=700)
    bill_each(world, spend)
    asleep = [START + 41 * DAY, START + 43 * DAY]  # over a Sunday, until Tuesday
    world.con.execute("delete from raw.credits_snapshots where snapshot_date between ? and ?", asleep)
    assert unusual(world) == []
    [change] = world.table("int_runway_change")
    assert (change["credit_change_usd"], change["credit_days"]) == (0, 0)


@pytest.mark.parametrize(
    ("spend", "found"),
    [
        pytest.param([0] * 190 + [3], [190], id="any spend after half a year without"),
        pytest.param([0] * 10 + [3], [], id="the first spend of a new account"),
        pytest.param(["0.00001"] * 40 + ["0.009"], [], id="less than a cent"),
        pytest.param([5, 6] * 20 + [7], [], id="a usual day"),
    ],
)
def test_unusual_is(world, spend, found):
    world.spend_nightly(START, spend)
    assert [(row["spend_date"] - START).days for row in unusual(world)] == found
