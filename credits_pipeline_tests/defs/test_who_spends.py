"""Who spends: breakdown and keys, from the simulated API to the tables, against the hidden ledger by key."""

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import dagster as dg
import pytest

from credits_pipeline import clock, config
from credits_pipeline.defs.schedules import range_tags
from credits_pipeline.simulator import SimulatedAccount, SimulatedKey
from credits_pipeline.warehouse import Warehouse
from credits_pipeline_tests.conftest import NOW, TODAY
from credits_pipeline_tests.defs.test_daily_run import raw
from credits_pipeline_tests.defs.test_history import unsettled
from credits_pipeline_tests.faulty import Fault

KEY = "sk-or-v1-simulated-default"
DAY = timedelta(days=1)


def noon(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, 12, tzinfo=UTC)


DAYS = [TODAY - timedelta(days=n) for n in range(9, -1, -1)]
# Two of one name, one that is renamed, one rotated at noon, one deleted, and work that no key did.
KEYS = (
    SimulatedKey("batch", 3, user="Ada Example", app="Nightly"),
    SimulatedKey("batch", 1, "Research", "Ben Example"),
    SimulatedKey("bot", 2, renamed=(noon(DAYS[4]), "support-bot"), limit_usd=5, limit_reset="weekly"),
    SimulatedKey("old", 5, until=noon(DAYS[6])),
    SimulatedKey("new", 5, since=noon(DAYS[6]), has_counters=False),
)


def account(more_keys: Sequence[SimulatedKey] = ()) -> SimulatedAccount:
    models = {"a/x": Decimal("1.234567891"), "b/y": Decimal("0.000000007"), "c/z": Decimal("0.3")}
    days = {day: {model: usd * (n + 1) for model, usd in models.items()} for n, day in enumerate(DAYS)}
    credits = [(noon(DAYS[0]), Decimal(100))]
    return SimulatedAccount.from_ledger("default", KEY, days=days, credits=credits, keys=[*KEYS, *more_keys], unkeyed=2)


def the_ledger(of: SimulatedAccount, dimension: str) -> dict[tuple[object, ...], Decimal]:
    """What each member used, by day and model: what no analytics row may differ from."""
    return {(day, *part): use.credits_usd for day in DAYS for part, use in of.billed_by(dimension, day, NOW).items()}


def stored(dimension: str) -> dict[tuple[object, ...], Decimal]:
    rows = raw("select dimension, usage_date, member, model, credits_usd from raw.usage_breakdown")
    return {row[1:4]: row[4] for row in rows if row[0] == dimension}


@pytest.fixture
def ten_days(run_job):
    tags = range_tags(DAYS[0].isoformat(), TODAY.isoformat())
    selection = [dg.AssetKey("model_usage"), dg.AssetKey("usage_breakdown")]
    return lambda: run_job("backfill_history", tags=tags, asset_selection=selection)


def test_each_dimension_is_one_request_more_and_equals_the_ledger_by_key_to_the_last_digit(
    simulate, ten_days, run_job, monkeypatch, instance
):
    """Through names that two keys share, a rename, a key rotated at noon and work that no key did."""
    monkeypatch.setenv("CREDITS_BREAKDOWNS", "api_key,workspace,user,app")
    of = account()
    api = simulate(of)
    assert ten_days().success
    assert [request.path for request in api.requests] == ["/analytics/query"] * 5
    for dimension in config.BREAKDOWNS:
        assert stored(dimension) == the_ledger(of, dimension)
    members = {part[1] for part in stored("api_key")}
    assert members == {"batch", "bot", "support-bot", "old", "new", ""}
    assert {part[1] for part in stored("workspace")} == {"Default", "Research"}
    days = raw("select dimension, count(*), sum(credits_usd) from raw.usage_breakdown_days group by all order by all")
    billed = sum(of.spend(day, NOW) for day in DAYS)
    nightly = sum(the_ledger(of, "app").values())
    assert days == [("api_key", 10, billed), ("app", 10, nightly), ("user", 10, billed), ("workspace", 10, billed)]
    assert 0 < nightly < billed
    assert "@" not in str(raw("from raw.usage_breakdown")), "e-mail addresses come along and are not kept"
    materialized = instance.get_materialized_partitions(dg.AssetKey("usage_breakdown"))
    assert materialized == {day.isoformat() for day in DAYS}
    tables = [dg.AssetKey("stg_model_usage_days"), dg.AssetKey("daily_spend_by_key")]
    assert run_job("rebuild", asset_selection=tables).success
    spent = raw("select spend_date, member, model, spend_usd from marts.daily_spend_by_key where spend_usd <> 0")
    assert {(day, "" if member == "(unattributed)" else member, model): usd for day, member, model, usd in spent} == {
        part: usd for part, usd in the_ledger(of, "api_key").items() if usd
    }


def test_days_whose_bill_is_settled_and_breakdown_is_not_are_fetched_again(simulate, ten_days, monkeypatch, instance):
    monkeypatch.setenv("CREDITS_START_DATE", DAYS[0].isoformat())
    api = simulate(account())
    api.misbehave(Fault.status(401), times=None)
    assert not ten_days().success
    api.behave()
    with clock.frozen(NOW + 3 * DAY):
        warehouse = Warehouse(config.current().warehouse_path)
        warehouse.replace_usage("default", DAYS[0], TODAY, [], fetched_at=clock.now(), run_id="r")
        assert unsettled(instance) == ("2026-06-08", "2026-06-19")
        assert ten_days().success
        assert unsettled(instance) == ("2026-06-18", "2026-06-19")


def test_keys_are_listed_in_all_workspaces_once_a_day_and_deleted_ones_stay(simulate, run_job, now):
    many = [SimulatedKey(f"key {n}", 0, is_disabled=n == 7) for n in range(120)]
    of = account(more_keys=many)
    api = simulate(of)
    now.set(noon(DAYS[6]) - timedelta(hours=1))
    only = {"asset_selection": [dg.AssetKey("api_keys")]}
    assert run_job("daily_credits", **only).success
    assert [request.path for request in api.requests] == ["/workspaces", "/keys", "/keys", "/keys"]
    now.advance(timedelta(minutes=30))
    assert run_job("daily_credits", **only).success
    now.set(NOW)
    assert run_job("daily_credits", **only).success
    assert raw("select count(*), count(distinct key_hash) from raw.api_keys") == [(124 + 124, 125)]
    newest = """
        select name, workspace, limit_usd::int, limit_usd - limit_remaining_usd, limit_reset, usage_daily_usd is null
        from raw.api_keys where observed_at::date = '2026-06-17' and name not like 'key %' order by name, workspace
    """
    bot = {part: usd for part, usd in the_ledger(of, "api_key").items() if part[1] == "support-bot"}
    week = sum(usd for part, usd in bot.items() if part[0] >= DAYS[7])
    assert raw(newest) == [
        ("batch", "Default", None, None, None, False),
        ("batch", "Research", None, None, None, False),
        ("new", "Default", None, None, None, True),
        ("support-bot", "Default", 5, week, "weekly", False),
    ]
    assert raw("select name from raw.api_keys where is_disabled") == [("key 7",), ("key 7",)]
    assert raw("select name, max(observed_at)::date from raw.api_keys where name = 'old' group by all") == [
        ("old", DAYS[6])
    ]
    assert KEY not in str(raw("from raw.api_keys"))
