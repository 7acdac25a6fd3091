"""Who spent what: breakdowns against bills, and teams against breakdowns, row by row."""

from collections.abc import Sequence
from datetime import date, timedelta

import pytest

from credits_pipeline.sql_project import BuildResult
from credits_pipeline_tests.models import World

MARTS = {"api_key": "key", "workspace": "workspace", "user": "user", "app": "app"}
DAILY = tuple(f"daily_spend_by_{mart}" for mart in MARTS.values())
MODELS = ("stg_model_usage_days", "daily_spend_by_model", *DAILY, "int_member_teams", "monthly_chargeback")
FINAL = "2026-02-10"


def bill(world: World, day: str, usd: str, fetched: str = FINAL, account: str = "a") -> None:
    world.bill(day, usd, fetched, account, models={"m": usd})


def of_teams(world: World, *lines: Sequence[str]) -> None:
    for position, line in enumerate(lines, 1):
        world.con.execute("insert into raw.teams values (?, ?, ?, ?, ?, null)", [position, *line])


def build(world: World) -> BuildResult:
    return world.project.build(world.con, select=MODELS)


def rows(world: World, query: str) -> list[tuple[object, ...]]:
    return world.con.execute(query).fetchall()


def spend(world: World) -> dict[tuple[object, ...], float]:
    query = "select day(spend_date), member, model, spend_usd::double from marts.daily_spend_by_key where account = 'a'"
    return {tuple(part): usd for *part, usd in rows(world, query) if usd}


def test_what_no_named_key_used_is_unattributed_so_that_every_sum_is_the_bill(world):
    """A name that is empty, a model that no row has, a day never broken down, one billed nothing, another account."""
    world.bill("2026-01-01", "3.5", models={"m": "2", "n": "1", "o": "0.5"})
    bill(world, "2026-01-02", "1")
    world.bill("2026-01-03", "0")
    bill(world, "2026-01-01", "7", account="b")
    world.break_down("2026-01-01", {("k", "m"): "1.4", ("l", "m"): "0.6", ("k", "n"): "0.3", ("", "n"): "0.7"})
    assert [test.message for test in build(world).tests if not test.passed] == []
    named = {(1, "k", "m"): 1.4, (1, "l", "m"): 0.6, (1, "k", "n"): 0.3}
    assert spend(world) == named | {
        (day, "(unattributed)", model): usd for day, model, usd in ((1, "n", 0.7), (1, "o", 0.5), (2, "m", 1.0))
    }
    of_b = "select member, spend_usd::int from marts.daily_spend_by_key where account = 'b'"
    assert rows(world, of_b) == [("(unattributed)", 7)]


def test_a_dimension_that_was_never_asked_for_is_an_empty_table(world):
    bill(world, "2026-01-01", "1")
    world.break_down("2026-01-01", {("k", "m"): "1"})
    build(world)
    counts = {mart: rows(world, f"select count(*) from marts.daily_spend_by_{mart}")[0][0] for mart in MARTS.values()}
    assert counts["key"] > 0
    assert counts | {"key": 0} == dict.fromkeys(MARTS.values(), 0)


@pytest.mark.parametrize(("fetched", "warned"), [("2026-01-03", True), ("2026-01-01 12:00", False)])
def test_keys_that_were_billed_more_than_the_account_are_a_warning_once_the_day_is_over(world, fetched, warned):
    bill(world, "2026-01-01", "1", fetched=fetched)
    world.break_down("2026-01-01", {("k", "m"): "1.5"}, fetched=fetched)
    result = build(world)
    assert ["breakdown_is_within_the_bill"] * warned == [t.test.name for t in result.tests if not t.passed]
    assert not result.blocking
    assert spend(world) == {(1, "k", "m"): 1.5, (1, "(unattributed)", "m"): -0.5}


def test_the_first_line_that_is_like_account_and_member_says_whose_team_it_is(world):
    bill(world, "2026-01-01", "10")
    members = {("batch_1", "m"): "1", ("batchx1", "m"): "2", ("bot", "m"): "3", ("50%", "m"): "0.5", ("web", "m"): "1"}
    world.break_down("2026-01-01", members)
    lines = [("b", "api_key", "*", "other"), ("*", "api_key", "batch_*", "Data"), ("a", "api_key", "b*", "Support")]
    of_teams(world, *lines, ("a", "api_key", "5*%", "Discount"))
    assert not build(world).blocking
    assert rows(world, "select team, spend_usd::double, share, requests from marts.monthly_chargeback") == [
        ("(no team)", 3.5, 0.35, 1 - 4),
        ("Data", 1.0, 0.1, 1),
        ("Discount", 0.5, 0.05, 1),
        ("Support", 5.0, 0.5, 2),
    ]


def test_an_account_is_charged_by_the_dimension_of_its_first_line_and_others_are_a_warning(world):
    bill(world, "2026-01-01", "3")
    world.break_down("2026-01-01", {("k", "m"): "2"})
    world.break_down("2026-01-01", {("Research", "m"): "3"}, dimension="workspace")
    of_teams(world, ("a", "workspace", "Research", "R"), ("a", "api_key", "k", "K"))
    failed = [test.test.name for test in build(world).tests if not test.passed]
    assert failed == ["teams_charge_an_account_by_one_dimension"]
    assert rows(world, "select team, spend_usd::int from marts.monthly_chargeback") == [("R", 3)]


def test_a_month_is_final_when_each_of_its_days_and_who_spent_it_is_settled(world):
    days = [f"2026-01-{day:02}" for day in range(1, 32)]
    for day in days:
        bill(world, day, "1")
    build(world)
    final = "select spend_usd::int, is_final from marts.monthly_chargeback where account = 'a' and month = '2026-01-01'"
    assert rows(world, final) == [(31, True)], "without teams the bill is all that counts"
    of_teams(world, ("a", "api_key", "*", "T"))
    for day in days[1:]:
        world.break_down(day, {("k", "m"): "1"})
    build(world)
    assert rows(world, final) == [(31, False)], "who spent on the first day is not known"
    world.break_down(days[0], {("k", "m"): "1"})
    build(world)
    assert rows(world, final) == [(31, True)]
    world.con.execute("delete from raw.model_usage_days where usage_date = '2026-01-20'")
    build(world)
    assert rows(world, final)[0][1] is False, "a day is missing"


def test_members_are_summed_beside_the_period_before_where_all_of_it_was_fetched(world):
    """`old` stopped, `new` began, `k` went on; a workspace that is not asked for any more is not said."""
    for number in range(1, 60):
        day = f"{date(2026, 1, 1) + timedelta(number)}"
        bill(world, day, "3", fetched="2026-03-04")
        if number > 1:
            world.break_down(day, {("k", "m"): "1", ("old" if number < 50 else "new", "m"): "2"})
    world.break_down("2026-01-05", {("w", "m"): "1"}, dimension="workspace")
    world.build_for("spend_summary_by_member")
    assert rows(
        world,
        """
        select dimension, dimension_rank, place, member, spend_1d_usd::int, before_1d_usd::int, spend_7d_usd::int,
            before_7d_usd::int, spend_30d_usd::int, before_30d_usd, round(share, 4)
        from marts.spend_summary_by_member where account = 'a'
        """,
    ) == [
        ("api_key", 1, 1, "old", 0, 0, 0, 8, 40, None, 0.4444),
        ("api_key", 1, 2, "k", 1, 1, 7, 7, 30, None, 0.3333),
        ("api_key", 1, 3, "new", 2, 2, 14, 6, 20, None, 0.2222),
        ("api_key", 1, 4, "(unattributed)", 0, 0, 0, 0, 0, None, 0),
    ]
