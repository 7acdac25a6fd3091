"""What a BI tool and the person in front of it find in the published copy, table by table."""

import re
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest

from credits_pipeline_tests.published_history import History

# Every tool shows these and adds them up; HUGEINT, lists, structs and their like they show as text or not at all.
PLAIN_TYPES = {"VARCHAR", "BIGINT", "DOUBLE", "BOOLEAN", "DATE", "TIMESTAMP"}
MONEY = "DECIMAL(18,9)"
# FOCUS has its own column names, types and capitals, as its standard says.
FOCUS = "focus_cost_and_usage"


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    history = History(tmp_path_factory.mktemp("published"))
    history.run(days=45)
    return history.path


@pytest.fixture
def con(published: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect(str(published), read_only=True) as con:
        con.execute("use marts")
        yield con


def columns(con: duckdb.DuckDBPyConnection) -> list[tuple[str, str, str, str | None]]:
    return con.execute(
        "select table_name, column_name, data_type, comment from duckdb_columns() where not internal"
    ).fetchall()


def test_every_column_has_a_type_that_every_tool_knows(con):
    odd = {
        f"{table}.{name} {kind}"
        for table, name, kind, _ in columns(con)
        if kind not in PLAIN_TYPES and kind != MONEY and not (table == FOCUS and kind == "DECIMAL(38,9)")
    }
    assert odd == set()


def test_names_tell_types(con):
    """`_usd` is exact money, `_date` and `month` a DATE, `_at` and `as_of` a TIMESTAMP, `is_` a BOOLEAN."""
    rules = {
        r".*_usd": MONEY,
        r"(spend|balance)_p\d\d": MONEY,
        r"total_(credits|usage)": MONEY,
        r".*_date|month|run_out_p\d\d": "DATE",
        r".*_at|as_of|.*_at_(earliest|latest)": "TIMESTAMP",
        r"is_.*": "BOOLEAN",
        r"(requests|readings|days|replays|.*_tokens|.*_days|days_left_.*|day_ahead)": "BIGINT",
        r"probability.*|share_.*|coverage_.*|calibration_.*": "DOUBLE",
    }
    wrong = [
        (table, name, kind)
        for table, name, kind, _ in columns(con)
        for pattern, expected in rules.items()
        if table != FOCUS and re.fullmatch(pattern, name) and kind != expected
    ]
    assert wrong == []


def test_every_table_and_column_says_what_it_is(con):
    tables = con.execute("select table_name, comment from duckdb_tables() where not internal").fetchall()
    told = [*tables, *((f"{table}.{name}", comment) for table, name, _, comment in columns(con))]
    assert [what for what, comment in told if not (comment or "").strip()] == []
    assert [table for table, comment in tables if "Primary key: " not in comment] == ["published"]


def test_money_and_ratios_are_finite(con):
    """Infinity and NaN are no JSON: a tool that meets one shows an error in place of the chart."""
    for table, name, kind, _ in columns(con):
        if kind == "DOUBLE":
            odd = con.execute(f'select count(*) from {table} where not isfinite("{name}")').fetchall()
            assert odd == [(0,)], f"{table}.{name}"


def test_the_long_form_holds_the_figures_of_the_wide_tables(con):
    for metric, mart, day in (
        ("spend", "daily_spend", "spend_date"), ("billed", "daily_spend", "spend_date"),
        ("observed", "daily_spend", "spend_date"), ("balance", "daily_balance", "balance_date"),
    ):  # fmt: skip
        wide = f"select account, {day}, {metric}_usd from {mart} where {metric}_usd is not null order by all"
        long = f"select account, metric_date, value_usd from daily_metrics_long where metric = '{metric}' order by all"
        assert con.execute(long).fetchall() == con.execute(wide).fetchall() != [], metric


def test_names_need_no_quotes(con):
    asked = "select keyword_name from duckdb_keywords() where keyword_category = 'reserved'"
    reserved = {word for (word,) in con.execute(asked).fetchall()}
    for table, name, _, _ in columns(con):
        assert re.fullmatch(r"[a-z][a-z0-9_]*", table)
        if table != FOCUS:
            assert re.fullmatch(r"[a-z][a-z0-9_]*", name), (table, name)
        assert name.lower() not in reserved


def test_focus_adds_up_to_what_was_spent_and_what_was_bought_in_the_month(con):
    charged = """
        select BillingAccountId, BillingPeriodStart::date, sum({cost}) from focus_cost_and_usage
        where ChargeCategory = '{category}' group by all order by all
    """
    spent = """
        select account, date_trunc('month', spend_date)::date, sum(spend_usd) from daily_spend
        group by all order by all
    """
    moved = """
        select account, date_trunc('month', event_at_latest)::date, sum(amount_usd) from credit_events
        where kind <> 'usage_correction' group by all order by all
    """
    for cost, category, other in (("EffectiveCost", "Usage", spent), ("BilledCost", "Purchase", moved)):
        months = con.execute(other).fetchall()
        assert len(months) > 2, category
        assert con.execute(charged.format(cost=cost, category=category)).fetchall() == months
    whole = con.execute("select sum(EffectiveCost + BilledCost) from focus_cost_and_usage").fetchall()
    parts = "select (select sum(spend_usd) from daily_spend) + (select sum(usd) from moved)"
    assert whole == con.execute(f"with moved(account, month, usd) as ({moved}) {parts}").fetchall()
