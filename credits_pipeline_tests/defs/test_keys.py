"""Whose keys these are: an account renamed, a key replaced, a key taken away, the wrong key first."""

from collections.abc import Mapping
from datetime import timedelta

import dagster as dg
import pytest

from credits_pipeline import config
from credits_pipeline.__main__ import main
from credits_pipeline.defs import schedules
from credits_pipeline.warehouse import Warehouse
from credits_pipeline_tests.conftest import TODAY
from credits_pipeline_tests.defs.test_daily_run import failures, raw, spender
from credits_pipeline_tests.defs.test_history import HISTORY, RAW, unsettled
from credits_pipeline_tests.faulty import Fault

DAY = timedelta(days=1)


def accounts_in(table: str) -> set[str]:
    return {name for (name,) in raw(f"select distinct account from raw.{table}")}


def test_a_key_whose_readings_have_another_name_is_refused_others_go_on(simulate, run_job, monkeypatch, now):
    simulate(spender(), spender("acme"))
    assert run_job("daily_credits", asset_selection=RAW).success
    now.advance(DAY)
    monkeypatch.delenv("OPENROUTER_API_KEY_ACME")
    api = simulate(spender(), spender("acme_eu", key="acme"))
    said = failures(run_job("daily_credits"))
    for check in ("every_account_was_read", "every_account_was_fetched"):
        assert "acme_eu: " in said[check]
        assert "`make rename FROM=acme TO=acme_eu`" in said[check]
    assert accounts_in("credits_snapshots") == accounts_in("model_usage_days") == {"acme", "default"}
    assert len(raw("from raw.credits_snapshots where account = 'default'")) == 2
    assert {request.account for request in api.requests} == {"default"}
    Warehouse(config.current().warehouse_path).rename_account("acme", "acme_eu")
    assert run_job("daily_credits", asset_selection=RAW).success
    assert accounts_in("credits_snapshots") == {"acme_eu", "default"}


def test_a_new_key_whose_counters_go_on_is_the_same_account(simulate, run_job, now):
    simulate(spender())
    assert run_job("daily_credits", asset_selection=RAW).success
    now.advance(DAY)
    simulate(spender(key="rotated"))
    assert run_job("daily_credits", asset_selection=RAW).success
    assert len(raw("select distinct key_fingerprint from raw.credits_snapshots")) == 2


@pytest.mark.parametrize("usd_a_day", ["0.5", "2500"], ids=["counters fall", "counters jump"])
def test_another_accounts_key_under_the_same_name_is_not_believed_until_the_user_says_so(
    simulate, run_job, monkeypatch, now, usd_a_day
):
    simulate(spender(), spender("acme"))
    assert run_job("daily_credits", asset_selection=RAW).success
    now.advance(DAY)
    stranger = spender("acme", usd_a_day, key="stranger")
    simulate(spender(), stranger)
    bills = raw("from raw.model_usage where account = 'acme' order by all")

    fingerprint = next(a.fingerprint for a in config.current().accounts if a.name == "acme")
    said = failures(run_job("daily_credits"))
    for check in ("every_account_was_read", "every_account_was_fetched"):
        assert "acme: its key is another one than before" in said[check]
        assert f"CREDITS_ACCEPT_KEY={fingerprint}" in said[check]
    assert raw("from raw.model_usage where account = 'acme' order by all") == bills
    assert len(raw("from raw.credits_snapshots where account = 'acme'")) == 1
    monkeypatch.setenv("CREDITS_ACCEPT_KEY", fingerprint)
    assert run_job("daily_credits", asset_selection=RAW).success
    monkeypatch.delenv("CREDITS_ACCEPT_KEY")
    assert run_job("daily_credits", asset_selection=RAW).success, "said once is enough"


def test_after_a_wrong_key_the_right_one_fetches_the_whole_year(simulate, run_job, instance, monkeypatch):
    api = simulate(spender(), spender("acme"))
    api.misbehave(Fault.status(403, message="Only management keys"), times=None, account="acme")
    run_job("daily_credits", asset_selection=RAW)
    assert unsettled(instance) is not None
    run_job("backfill_history", tags=schedules.range_tags("2025-06-17", "2026-06-16"), asset_selection=HISTORY)
    assert unsettled(instance) == ("2026-06-15", "2026-06-16")
    api.behave()
    monkeypatch.setenv("OPENROUTER_API_KEY_ACME", "sk-or-v1-simulated-right")
    assert unsettled(instance) == ("2025-06-17", "2026-06-16")


def test_an_account_without_a_key_any_more_keeps_its_past_and_is_in_no_total_of_the_present(
    simulate, run_job, instance, monkeypatch, now
):
    def shown(asset: str) -> dict[str | None, Mapping[str, dg.MetadataValue]]:
        newest = instance.fetch_materializations(dg.AssetKey(asset), limit=4).records
        return {r.partition_key: r.asset_materialization.metadata for r in reversed(newest)}

    simulate(spender(), spender("gone"))
    run_job("daily_credits")
    both = shown("credits_runway")[None]["balance_usd"].value
    now.advance(DAY)
    monkeypatch.delenv("OPENROUTER_API_KEY_GONE")
    assert run_job("daily_credits").success
    days = shown("model_usage")
    assert days[(TODAY - DAY).isoformat()]["billed_usd"].value == 5.0, "what both were billed"
    runway = shown("credits_runway")[None]
    assert runway["balance_usd"].value == pytest.approx(both / 2 - 2.5, abs=0.01)
    *_, last = str(runway["answer"].value).splitlines()
    assert last == "**gone**: no key any more, last read on 17 Jun 2026"


@pytest.mark.slow
def test_a_key_that_was_refused_an_hour_ago_fetches_the_whole_year_with_its_next_run(simulate):
    api = simulate(spender())
    api.misbehave(Fault.status(403, message="Not from this address"), times=None)
    assert main(["run"]) == 1
    api.behave()
    assert main(["run"]) == 0
    assert raw("select count(*) from raw.model_usage_days") == [(366,)]
