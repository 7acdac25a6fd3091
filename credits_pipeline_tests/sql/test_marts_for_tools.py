"""What a BI tool and the person in front of it find in the published copy, table by table."""

import re
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest

from credits_pipeline_tests.published_history import History

MONEY = "DECIMAL(18,9)"
# Every tool shows these and adds them up; HUGEINT, lists, structs and their like they show as text or not at all.
TYPES = {"VARCHAR", "BIGINT", "DOUBLE", "BOOLEAN", "DATE", "TIMESTAMP", MONEY}
NAMES_TELL_TYPES = {
    r".*_usd": MONEY,
    r"(spend|balance)_p\d\d": MONEY,
    r"total_(credits|usage)": MONEY,
    r".*_date|month|run_out_p\d\d": "DATE",
    r".*_at|as_of|.*_at_(earliest|latest)": "TIMESTAMP",
    r"is_.*": "BOOLEAN",
    r"(requests|readings|days|replays|.*_tokens|.*_days|days_left_.*|day_ahead)": "BIGINT",
    r"probability.*|share_.*|coverage_.*|calibration_.*": "DOUBLE",
}


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


def test_names_need_no_quotes_and_tell_types_that_every_tool_knows(con):
    asked = "select keyword_name from duckdb_keywords() where keyword_category = 'reserved'"
    reserved = {word for (word,) in con.execute(asked).fetchall()}
    for table, name, kind, _ in columns(con):
        where = f"{table}.{name} {kind}"
        assert re.fullmatch(r"[a-z][a-z0-9_]*", table), where
        assert name.lower() not in reserved, where
        if table == "focus_cost_and_usage":  # has its own names, types and capitals, as its standard says
            assert kind in {*TYPES, "DECIMAL(38,9)"}, where
            continue
        assert re.fullmatch(r"[a-z][a-z0-9_]*", name), where
        assert kind in TYPES, where
        for pattern, told in NAMES_TELL_TYPES.items():
            assert kind == told or not re.fullmatch(pattern, name), where


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
