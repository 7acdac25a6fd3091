"""The daily run, from the API to the published copy, over a simulated API and a real DuckDB file."""

import json
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from functools import partial
from typing import Any

import dagster as dg
import pytest

from credits_pipeline import clock, config
from credits_pipeline.defs.schedules import range_tags
from credits_pipeline.simulator import SimulatedAccount
from credits_pipeline.warehouse import Warehouse, open_published, open_warehouse
from credits_pipeline_tests.conftest import TODAY
from credits_pipeline_tests.faulty import Fault

READINGS, BILL = [dg.AssetKey("credits_snapshots")], [dg.AssetKey("model_usage")]


def spender(name: str = "default", usd_a_day: str = "2.5", days: int = 40, key: str = "") -> SimulatedAccount:
    """An account that bought 500 USD long ago and spends the same every day."""
    ledger = {TODAY - timedelta(days=n): {"vendor/model-a": Decimal(usd_a_day)} for n in range(days, -days, -1)}
    bought = datetime.combine(min(ledger), datetime.min.time(), UTC)
    return SimulatedAccount.from_ledger(
        name, f"sk-or-v1-simulated-{key or name}", days=ledger, credits=[(bought, Decimal(500))]
    )


def raw(query: str) -> list[tuple[Any, ...]]:
    with Warehouse(config.current().warehouse_path).reading() as con:
        return con.execute(query).fetchall()


def raw_readings(columns: str = "*") -> list[tuple[Any, ...]]:
    return raw(f"select {columns} from raw.credits_snapshots order by account, observed_at")


def published(query: str) -> list[tuple[Any, ...]]:
    with open_published(config.current().published_path) as con:
        return con.execute(query).fetchall()


def failures(result: dg.ExecuteInProcessResult) -> dict[str, str]:
    """The sentence that each failed step ended with."""
    from credits_pipeline.launch.runs import reason

    return {event.step_key: reason(event) for event in result.all_events if event.is_step_failure}


def test_a_daily_run_appends_one_reading_per_account_with_the_reply_kept(simulate, run_job):
    simulate(spender(), spender("acme", "0.123456789"))
    result = run_job("daily_credits")
    assert result.success
    built = [event.materialization for event in result.get_asset_materialization_events()]
    assert [event.asset_key.path[-1] for event in built][-3:] == ["published", "alerts_sent", "report"]
    assert not [event for event in built if "could not be shown" in str(event.metadata)]
    assert raw_readings("account, snapshot_date, source") == [("acme", TODAY, "api"), ("default", TODAY, "api")]
    bought, used, reply = raw_readings("total_credits, total_usage, payload")[0]
    data = json.loads(reply, parse_float=Decimal, parse_int=Decimal)["data"]
    assert data == {"total_credits": bought, "total_usage": used}


def test_a_run_twice_a_day_appends_two_honest_readings(simulate, run_job, now):
    simulate(spender())
    run_job("daily_credits")
    now.advance(timedelta(hours=9))
    assert run_job("daily_credits").success
    assert len(raw_readings()) == 2
    assert published("select sum(readings) from marts.daily_spend") == [(2,)]


def test_a_past_day_or_a_range_with_one_is_refused_and_nothing_is_written(simulate, run_job):
    api = simulate(spender())
    for first, last, asked in (
        ("2026-06-16", "2026-06-16", "2026-06-16"),
        ("2026-06-15", "2026-06-17", "2026-06-15 to 2026-06-17"),
    ):
        only = {"partition_key": None, "tags": range_tags(first, last), "asset_selection": READINGS}
        result = run_job("daily_credits", **only)
        message = failures(result)["credits_snapshots"]
        assert f"asked for {asked}, but it is 2026-06-17" in message
        assert "backfill model_usage" in message
        assert not [event for event in result.all_events if event.is_step_up_for_retry]
    assert raw_readings() == []
    assert api.requests == []


def test_a_run_that_crosses_midnight_is_refused_and_the_next_one_heals_it(simulate, run_job, now):
    api = simulate(spender())
    now.set(datetime(2026, 6, 17, 23, 59, 59, tzinfo=UTC))

    def slow_server() -> datetime:
        now.advance(timedelta(seconds=2))
        return clock.now()

    api.now = slow_server
    result = run_job("daily_credits", partition_key="2026-06-17", asset_selection=READINGS)
    assert "it is 2026-06-18" in failures(result)["credits_snapshots"]
    assert raw_readings() == []
    api.now = clock.now
    assert run_job("daily_credits", asset_selection=READINGS).success
    assert raw_readings("snapshot_date") == [(date(2026, 6, 18),)]


def test_one_account_that_fails_costs_the_others_nothing_and_the_run_ends_red(simulate, run_job):
    api = simulate(spender(), spender("acme"))
    api.misbehave(Fault.status(401), times=None, account="acme")
    result = run_job("daily_credits")
    assert not result.success
    assert raw_readings("account") == [("default",)]
    assert published("select account from marts.credits_runway") == [("default",)]
    assert "acme" in failures(result)["every_account_was_read"]
    assert "report" not in failures(result)
    # A sum over the accounts that answered would look like spend in the plot.
    assert "balance_usd" not in result.asset_materializations_for_node("credits_snapshots")[0].metadata


def test_when_every_account_fails_the_reading_itself_fails(simulate, run_job):
    api = simulate(spender(), spender("acme"))
    api.misbehave(Fault.status(500), times=None)
    message = failures(run_job("daily_credits", asset_selection=READINGS))["credits_snapshots"]
    assert "acme" in message
    assert "default" in message
    assert raw_readings() == []


def test_zeros_for_an_account_with_history_are_refused(simulate, run_job):
    api = simulate(spender(), spender("acme"))
    assert run_job("daily_credits", asset_selection=READINGS).success
    api.misbehave(Fault.zeros(), times=None, account="acme", path="/credits")
    result = run_job("daily_credits", asset_selection=READINGS)
    assert "acme: the API reported 0 credits and 0 usage" in failures(result)["every_account_was_read"]
    assert raw_readings("account") == [("acme",), ("default",), ("default",)]


@pytest.mark.slow
def test_words_of_a_server_are_no_markdown_in_the_ui_and_plain_in_the_metadata(simulate, run_job):
    api = simulate(spender(), spender("acme"))
    words = "![a](http://127.0.0.1:9/track.png) [renew your key](http://127.0.0.1:9/phish)"
    api.misbehave(Fault.status(401, message=words), times=None, account="acme")
    checks = run_job("daily_credits", asset_selection=READINGS).get_asset_check_evaluations()
    (check,) = [c for c in checks if c.check_name == "every_account_was_read"]
    assert "](" not in (check.description or "")
    assert words in str(check.metadata["reason"].value)


def test_the_bill_failing_does_not_cost_the_readings(simulate, run_job):
    api = simulate(spender())
    api.misbehave(Fault.status(500), times=None, path="/analytics/query")
    result = run_job("daily_credits")
    assert set(failures(result)) == {"every_account_was_fetched", "every_breakdown_was_fetched"}
    assert published("select account, balance_usd is not null from marts.credits_runway") == [("default", True)]


def test_a_key_without_analytics_keeps_working_from_its_readings_with_a_warning(simulate, run_job):
    api = simulate(spender())
    api.misbehave(Fault.status(403, message="Analytics is off"), times=None, path="/analytics/query")
    result = run_job("daily_credits", asset_selection=[*READINGS, *BILL, dg.AssetKey("usage_breakdown")])
    assert result.success
    failed = {check.check_name: check for check in result.get_asset_check_evaluations() if not check.passed}
    assert failed.keys() == {"every_account_was_fetched", "every_breakdown_was_fetched"}
    for check in failed.values():
        assert check.severity == dg.AssetCheckSeverity.WARN
        assert "Analytics is off" in (check.description or "")


def test_the_daily_run_reads_the_bill_of_today_and_the_three_days_before(simulate, run_job, instance):
    simulate(spender())
    run_job("daily_credits", asset_selection=BILL)
    days = [day.isoformat() for (day,) in raw("select usage_date from raw.model_usage_days order by all")]
    assert days == ["2026-06-14", "2026-06-15", "2026-06-16", "2026-06-17"]
    assert instance.get_materialized_partitions(dg.AssetKey("model_usage")) == set(days)


def test_a_bill_that_moved_is_shown_in_the_metadata(simulate, run_job):
    day = TODAY - timedelta(days=1)
    for usd in ("1", "1.25"):
        days = {day: {"vendor/a": Decimal(usd)}}
        simulate(SimulatedAccount.from_ledger("default", "sk-or-v1-simulated-default", days=days, credits=[]))
        events = run_job("daily_credits", asset_selection=BILL).asset_materializations_for_node("model_usage")
    (event,) = [event for event in events if "days" in event.metadata]
    assert event.metadata["days_changed"].value == 1
    assert event.metadata["changed_days_usd"].value == {f"default {day}": "+0.250000000"}


def test_a_wrong_setting_is_one_clear_line_and_costs_no_request(simulate, run_job, monkeypatch):
    api = simulate(spender())
    monkeypatch.setenv("CREDITS_START_DATE", "yesterday")
    message = failures(run_job("daily_credits", asset_selection=READINGS))["credits_snapshots"]
    assert message.startswith("CREDITS_START_DATE")
    assert api.requests == []


def test_a_busy_warehouse_costs_the_alerts_a_pass_and_not_the_run(simulate, run_job, monkeypatch):
    simulate(spender())
    impatient = partial(open_warehouse, lock_timeout_s=0.1)
    monkeypatch.setattr("credits_pipeline.definitions.open_warehouse", impatient)
    with Warehouse(config.current().warehouse_path).reading("looking for long"):
        result = run_job("rebuild", asset_selection=[dg.AssetKey("alerts_sent")])
    assert result.success
    assert "preview" not in result.asset_materializations_for_node("alerts_sent")[0].metadata, "it did not look"


def test_nothing_is_published_before_every_table_was_built(simulate, run_job):
    simulate(spender())
    result = run_job("rebuild", asset_selection=[dg.AssetKey("published")])
    assert "credits_runway" in failures(result)["published"]
    assert not config.current().published_path.exists()
