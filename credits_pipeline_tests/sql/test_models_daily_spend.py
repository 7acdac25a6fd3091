"""The bill beside the counter, and by model. What a day costs: test_oracle.py, on random histories."""

from datetime import date

from credits_pipeline_tests.models import usd


def test_a_residual_beyond_tolerance_warns_with_account_day_and_both_figures(world):
    world.read("2026-01-01 00:00", 100, 0)
    world.read("2026-01-02 00:00", 100, 5)
    world.read("2026-01-03 00:00", 100, 10)
    world.bill("2026-01-01", "4.9")  # 0.1 off, 0.049 allowed
    world.bill("2026-01-02", "5.01")  # 0.01 off, 0.0501 allowed
    result = world.build_and_test(world.project.models)
    [warning] = [test for test in result.tests if not test.passed]
    assert warning.test.severity == "warn"
    assert warning.failing_rows == 1
    assert "spend_agrees_with_the_bill" in warning.message
    for part in ("account=a", "2026-01-01", "observed_usd=5.0", "billed_usd=4.9"):
        assert part in warning.message
    assert [tuple(month.values()) for month in world.table("spend_reconciliation_monthly")] == [
        ("a", date(2026, 1, 1), 2, usd(10), usd("9.91"), usd("0.09"), 1)
    ]


def test_a_models_share_is_of_its_days_bill_and_null_where_nothing_was_billed(world):
    world.bill("2026-01-01", 4, models={"x/one": 3, "x/two": 1})
    world.bill("2026-01-02", 0, models={"x/free": 0})
    world.build_for("daily_spend_by_model")
    rows = world.table("daily_spend_by_model")
    assert [(row["model"], row["spend_usd"], row["share_of_day"]) for row in rows] == [
        ("x/one", usd(3), 0.75),
        ("x/two", usd(1), 0.25),
        ("x/free", usd(0), None),
    ]
    assert [rows[0][name] for name in ("requests", "prompt_tokens", "completion_tokens")] == [1, 10, 20]
