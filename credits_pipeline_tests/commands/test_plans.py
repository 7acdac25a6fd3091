"""Budgets and automatic top-ups: how they are read, and that the SQL sees them. Wrong ones: test_config.py."""

from datetime import date
from decimal import Decimal

import dagster as dg

from credits_pipeline import clock, config
from credits_pipeline.plans import AccountPlan
from credits_pipeline_tests.conftest import NOW


def test_the_plain_variable_is_for_default_a_named_one_for_its_account_and_one_without_a_key_is_kept_and_said():
    env = {
        "OPENROUTER_API_KEY": "k1", "OPENROUTER_API_KEY_ACME": "k2", "CREDITS_BUDGET": "500/month",
        "CREDITS_BUDGET_ACME": "99.50 / month", "CREDITS_BUDGET_ACNE": "500/month", "CREDITS_AUTO_TOPUP": "",
        "CREDITS_AUTO_TOPUP_ACME": "10:50", "CREDITS_TOPUP_UNTIL": "2026-12-31",
    }  # fmt: skip
    with clock.frozen(NOW):
        found = config.load(env).require()
    until = date(2026, 12, 31)
    assert found.plans == (
        AccountPlan("default", budget_usd=Decimal(500), topup_until=until),
        AccountPlan("acme", Decimal("99.50"), Decimal(10), Decimal(50), until),
        AccountPlan("acne", budget_usd=Decimal(500), topup_until=until),
    )
    assert found.warnings == ("CREDITS_BUDGET_ACNE is for the account acne, which has no key",)


def test_every_build_of_the_sql_sees_the_settings_of_its_own_time(warehouse, tmp_path, run_job, monkeypatch):
    monkeypatch.setenv("CREDITS_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("OPENROUTER_API_KEY", "k")
    for budget, stored in (("500/month", Decimal(500)), ("", None)):
        monkeypatch.setenv("CREDITS_BUDGET", budget)
        assert run_job("rebuild", asset_selection=[dg.AssetKey("stg_model_usage_days")]).success
        with warehouse.reading() as con:
            assert con.execute("select account, budget_usd from raw.account_plans").fetchall() == [("default", stored)]
