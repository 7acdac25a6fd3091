"""Budgets and automatic top-ups: how they are read, that a wrong one stops nothing, and that the SQL sees them."""

from datetime import date
from decimal import Decimal

import dagster as dg
import pytest

from credits_pipeline import clock, config
from credits_pipeline.plans import AccountPlan
from credits_pipeline_tests.conftest import NOW

KEYS = {"OPENROUTER_API_KEY": "k1", "OPENROUTER_API_KEY_ACME": "k2"}


def settings(**variables: str) -> config.Settings:
    with clock.frozen(NOW):
        found = config.load({**KEYS, **variables})
    found.require()  # readings go on
    assert found.alert_problems == ()  # and so do alerts
    return found


def test_the_plain_variable_is_for_default_and_a_named_one_for_its_account():
    found = settings(
        CREDITS_BUDGET="500/month",
        CREDITS_BUDGET_ACME="99.50 / month",
        CREDITS_AUTO_TOPUP_ACME="10:50",
        CREDITS_TOPUP_UNTIL="2026-12-31",
        CREDITS_AUTO_TOPUP="",
    )
    until = date(2026, 12, 31)
    assert found.plans == (
        AccountPlan("default", budget_usd=Decimal(500), topup_until=until),
        AccountPlan("acme", Decimal("99.50"), Decimal(10), Decimal(50), until),
    )
    assert found.warnings == ()


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        *(("CREDITS_BUDGET", value) for value in ("500", "a lot/month")),
        ("CREDITS_BUDGET_ACME", "0/month"),
        *(("CREDITS_AUTO_TOPUP", value) for value in ("50", "10:0")),
        ("CREDITS_AUTO_TOPUP_ACME", "-10:50"),
        # Two that are no days, yesterday, and one beyond the forecast.
        *(("CREDITS_TOPUP_UNTIL", day) for day in ("31.12.2026", "2026-02-30", "2026-06-16", "2028-01-01")),
    ],
)
def test_a_wrong_value_is_one_line_that_names_the_variable_and_stops_nothing(variable, value):
    found = settings(**{variable: value})
    [line] = found.warnings
    assert line.startswith(f"{variable} must be ")
    assert found.plans == (AccountPlan("default"), AccountPlan("acme"))


def test_a_setting_for_an_account_without_a_key_is_kept_and_said():
    found = settings(CREDITS_BUDGET_ACNE="500/month")
    assert found.warnings == ("CREDITS_BUDGET_ACNE is for the account acne, which has no key",)
    assert found.plans[-1] == AccountPlan("acne", Decimal(500))


def test_every_build_of_the_sql_sees_the_settings_of_its_own_time(warehouse, tmp_path, run_job, monkeypatch):
    monkeypatch.setenv("CREDITS_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("OPENROUTER_API_KEY", "k")
    for budget, stored in (("500/month", Decimal(500)), ("", None)):
        monkeypatch.setenv("CREDITS_BUDGET", budget)
        assert run_job("rebuild", asset_selection=[dg.AssetKey("stg_model_usage_days")]).success
        with warehouse.reading() as con:
            assert con.execute("select account, budget_usd from raw.account_plans").fetchall() == [("default", stored)]
