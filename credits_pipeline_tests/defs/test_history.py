"""The past: what was billed, by range, by schedule and by hand; gaps that heal; the SQL that follows."""

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import dagster as dg
import pytest

from credits_pipeline import clock, config
from credits_pipeline.defs import schedules
from credits_pipeline.simulator import AGENTS, SimulatedAccount
from credits_pipeline.warehouse import Warehouse
from credits_pipeline_tests.conftest import TODAY
from credits_pipeline_tests.defs.test_daily_run import failures, published, raw, spender
from credits_pipeline_tests.faulty import Fault

# The SQL is rebuilt from what is there, so a story of many days needs it once, at its end.
RAW = [dg.AssetKey("credits_snapshots"), dg.AssetKey("model_usage")]
BILL = RAW[1:]
HISTORY = [*BILL, dg.AssetKey("usage_breakdown")]
YEAR_AGO, YESTERDAY = TODAY - timedelta(days=365), TODAY - timedelta(days=1)


def unsettled(instance: dg.DagsterInstance) -> tuple[str, str] | None:
    return schedules.unsettled_range(Warehouse(config.current().warehouse_path), instance)


def a_year() -> dict[str, str]:
    return schedules.range_tags(YEAR_AGO.isoformat(), YESTERDAY.isoformat())


def marts() -> dict[str, list[tuple[Any, ...]]]:
    """Every row of every mart, without the publisher's own."""
    tables = published(
        "select table_name from information_schema.tables where table_schema = 'marts' and table_name <> 'published'"
    )
    return {name: published(f"select * from marts.{name} order by all") for (name,) in tables}


def test_a_year_of_one_account_is_one_request_and_one_run(simulate, run_job):
    account = SimulatedAccount("default", "sk-or-v1-simulated-default", anchor=TODAY)
    api = simulate(account)
    assert run_job("backfill_history", tags=a_year(), asset_selection=BILL).success
    assert [request.path for request in api.requests] == ["/analytics/query"]
    billed = dict(raw("select usage_date, credits_usd from raw.model_usage_days"))
    days = [YEAR_AGO + timedelta(days=n) for n in range(365)]
    assert billed == {day: account.spend(day) for day in days}


def test_every_day_of_a_range_shows_its_own_bill(simulate, run_job, instance):
    account = SimulatedAccount("default", "sk-or-v1-simulated-default", anchor=TODAY, profile=AGENTS)
    simulate(account)
    run_job("daily_credits", asset_selection=BILL)
    run_job("backfill_history", tags=schedules.range_tags("2026-06-01", "2026-06-03"), asset_selection=BILL)
    shown = {
        record.partition_key: record.asset_materialization.metadata["billed_usd"].value
        for record in instance.fetch_materializations(BILL[0], limit=10).records
    }
    assert instance.get_materialized_partitions(BILL[0]) == shown.keys()
    assert len(shown) == 7
    checked = dg.AssetCheckKey(BILL[0], "every_account_was_fetched")
    found = instance.event_log_storage.get_asset_check_execution_history(checked, limit=20)
    assert [record.status.name for record in found] == ["SUCCEEDED"] * 2  # of each run, not of each day
    for day, usd in shown.items():
        if day != TODAY.isoformat():
            assert usd == pytest.approx(float(account.spend(date.fromisoformat(day))))


def test_a_backfill_that_no_account_answers_is_red_and_records_no_day(simulate, run_job, instance):
    api = simulate(spender(), spender("acme"))
    api.misbehave(Fault.status(401), times=None)
    tags = schedules.range_tags("2026-06-01", "2026-06-10")
    assert "acme" in failures(run_job("backfill_history", tags=tags, asset_selection=BILL))["model_usage"]
    assert instance.get_materialized_partitions(BILL[0]) == set()


@pytest.mark.slow
def test_a_backfill_run_twice_changes_no_row_of_any_mart(simulate, run_job):
    simulate(SimulatedAccount("default", "sk-or-v1-simulated-default", anchor=TODAY), spender("acme"))
    run_job("daily_credits", asset_selection=RAW)
    a_quarter = schedules.range_tags("2026-03-17", YESTERDAY.isoformat())
    run_job("backfill_history", tags=a_quarter)
    once = marts()
    run_job("backfill_history", tags=a_quarter)
    assert marts() == once
    assert sum(map(len, once.values())) > 1000


def test_days_that_the_api_has_forgotten_are_refused(simulate, run_job):
    api = simulate(spender())
    tags = schedules.range_tags("2025-01-01", "2025-01-31")
    result = run_job("backfill_history", tags=tags, asset_selection=BILL)
    assert "2025-01-01 to 2025-01-31" in failures(result)["model_usage"]
    assert api.requests == []


@pytest.mark.slow
def test_a_day_read_at_noon_before_a_week_of_sleep_does_not_stay_half_a_day(simulate, run_job, now, instance):
    account = spender(usd_a_day="24")
    simulate(account)
    now.set(datetime(2026, 6, 17, 12, tzinfo=UTC))
    run_job("daily_credits", asset_selection=RAW)
    assert raw("select credits_usd from raw.model_usage_days where usage_date = '2026-06-17'") == [(Decimal(12),)]
    now.set(datetime(2026, 6, 25, 0, 5, tzinfo=UTC))
    run_job("daily_credits", asset_selection=RAW)
    now.set(datetime(2026, 6, 25, 1, 30, tzinfo=UTC))
    days = unsettled(instance)
    assert days
    assert days[0] < "2026-06-17"
    assert run_job("backfill_history", tags=schedules.range_tags(*days)).success
    assert raw("select credits_usd from raw.model_usage_days where usage_date = '2026-06-17'") == [(Decimal(24),)]
    assert published("select method from marts.daily_spend where spend_date = '2026-06-20'") == [("billed",)]


def test_the_schedule_asks_for_the_whole_year_of_an_account_added_later(simulate, run_job, instance):
    simulate(spender())
    run_job("backfill_history", tags=a_year(), asset_selection=HISTORY)
    assert unsettled(instance) == ("2026-06-15", "2026-06-16")
    simulate(spender(), spender("acme"))
    assert unsettled(instance) == (YEAR_AGO.isoformat(), YESTERDAY.isoformat())


def test_both_schedules_take_the_day_from_the_clock(simulate, run_job, now, instance, tmp_path):
    from credits_pipeline.definitions import defs

    simulate(spender())
    daily = defs.resolve_schedule_def("daily_credits")
    history = defs.resolve_schedule_def("history_backfill")
    now.set(datetime(2026, 6, 20, 13, tzinfo=UTC))
    repository = defs.get_repository_def()
    late = datetime(2026, 6, 19, 0, 5, tzinfo=UTC)
    late_tick = dg.build_schedule_context(instance, scheduled_execution_time=late, repository_def=repository)
    (request,) = daily.evaluate_tick(late_tick).run_requests or []
    assert request.tags == request.tags | schedules.range_tags("2026-06-20", "2026-06-20")
    assert run_job("daily_credits", partition_key=None, tags=dict(request.tags), asset_selection=RAW).success
    with (
        dg.DagsterInstance.local_temp(str(tmp_path)) as kept,  # schedules see no ephemeral one
        dg.build_schedule_context(kept, resources=defs.resources, repository_def=repository) as context,
    ):
        (request,) = history.evaluate_tick(context).run_requests or []
    assert request.tags == request.tags | schedules.range_tags("2025-06-20", "2026-06-19")


@pytest.fixture
def tick(instance: dg.DagsterInstance) -> Callable[[], set[str]]:
    """What the daemon would rebuild now, judged from all that happened since it looked last; first, before all."""
    from credits_pipeline.definitions import defs

    state = dg.evaluate_automation_conditions(defs, instance)

    def evaluate() -> set[str]:
        nonlocal state
        state = dg.evaluate_automation_conditions(defs, instance, cursor=state.cursor)
        return {r.key.to_user_string() for r in state.results if not r.true_subset.is_empty}

    return evaluate


def by_hand(instance: dg.DagsterInstance, first: str, last: str) -> dg.ExecuteInProcessResult:
    """Materialize `model_usage` for some days as a backfill from the UI does."""
    from credits_pipeline.definitions import defs

    job, tags = defs.resolve_implicit_global_asset_job_def(), schedules.range_tags(first, last)
    return job.execute_in_process(instance=instance, asset_selection=BILL, tags=tags, raise_on_error=False)


DELIVERY = {"published", "report", "alerts_sent"}


@pytest.mark.slow
def test_a_backfill_from_the_ui_is_followed_by_one_rebuild_and_the_jobs_by_none(simulate, run_job, instance, tick):
    simulate(spender())
    run_job("daily_credits")
    assert tick() == set()
    run_job("backfill_history", tags=schedules.range_tags("2026-06-01", "2026-06-05"))
    assert tick() == set()
    assert by_hand(instance, "2026-05-20", "2026-05-25").success
    assert by_hand(instance, "2026-05-01", "2026-05-02").success
    assert tick() > {"daily_spend", "credits_runway", *DELIVERY}
    assert tick() == set()
    assert run_job("rebuild").success
    assert tick() == set()
    assert ("2026-05-20",) in published("select spend_date::varchar from marts.daily_spend")


@pytest.mark.parametrize("raw", ["credits_snapshots", "model_usage", "api_keys"])
def test_the_first_thing_done_by_hand_is_followed_by_a_rebuild_that_finds_all_tables(simulate, run_job, tick, raw):
    simulate(spender())
    asked = {"partition_key": None} if raw == "api_keys" else {}
    assert run_job("daily_credits", asset_selection=[dg.AssetKey(raw)], **asked).success
    rebuilt = [dg.AssetKey(name) for name in tick()]
    assert run_job("rebuild", asset_selection=rebuilt).success


def test_nothing_is_rebuilt_while_a_backfill_from_the_ui_goes_on(simulate, instance, tick):
    api = simulate(spender())
    assert by_hand(instance, "2026-05-20", "2026-05-25").success
    meanwhile: list[set[str]] = []

    def slow_server() -> datetime:
        meanwhile.append(tick())
        return clock.now()

    api.now = slow_server
    assert by_hand(instance, "2026-05-01", "2026-05-02").success
    assert meanwhile
    assert not any(meanwhile)
    assert tick() > DELIVERY


def test_a_bill_that_not_every_account_told_gives_the_days_no_figure(simulate, run_job, instance):
    def figures(limit: int = 4) -> list[dict[str, Any]]:
        return [
            dict(record.asset_materialization.metadata)
            for record in instance.fetch_materializations(BILL[0], limit=limit).records
        ]

    api = simulate(spender(), spender("second"))
    run_job("daily_credits", asset_selection=RAW)
    assert all("billed_usd" in day for day in figures())
    api.misbehave(Fault.status(401), times=1, path="/analytics/query")
    run_job("daily_credits", asset_selection=RAW)
    days = [day for day in figures() if "days" not in day]
    assert len(days) == 3, "the other account's days were read again, and are recorded"
    assert not any("billed_usd" in day for day in figures())
    before = len(figures(limit=100))
    api.misbehave(Fault.status(401), times=None, path="/analytics/query")
    run_job("daily_credits", asset_selection=RAW)
    assert len(figures(limit=100)) == before + 1, "of days that nobody read only the run's own is recorded"


def test_a_daily_run_that_failed_is_run_again_later_and_later_while_the_day_lasts(simulate, now, tmp_path):
    from credits_pipeline.definitions import defs

    now.set(began := datetime.now(UTC))  # Dagster's own clock says when a run was
    api = simulate(spender())
    api.misbehave(Fault.status(503), times=None)
    again = defs.resolve_sensor_def("daily_credits_again")
    job = defs.resolve_job_def("daily_credits")
    with dg.DagsterInstance.local_temp(str(tmp_path)) as kept:

        def asked_after(minutes: float) -> list[dg.RunRequest]:
            now.set(datetime.now(UTC) + timedelta(minutes=minutes))
            with dg.build_sensor_context(kept, definitions=defs) as context:
                requests = again.evaluate_tick(context).run_requests or []
            now.set(began)
            return list(requests)

        assert asked_after(60) == []
        for minutes in (10, 30, 90, 270):
            fails(job, kept, began)
            assert asked_after(minutes - 1) == []
            # Past midnight nothing of yesterday is asked for: its balance cannot be read any more.
            later = datetime.now(UTC) + timedelta(minutes=minutes + 1)
            assert len(asked_after(minutes + 1)) == (later.date() == began.date())
        fails(job, kept, began)
        assert asked_after(600) == []


def fails(job: dg.JobDefinition, instance: dg.DagsterInstance, now: datetime) -> None:
    only = {"partition_key": f"{now:%Y-%m-%d}", "asset_selection": RAW[:1]}
    assert not job.execute_in_process(instance=instance, raise_on_error=False, **only).success
