"""Real dbt, on a copy of the warehouse, builds what the pipeline builds: every table, row, type and comment."""

import json
import math
import os
import random
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from itertools import zip_longest
from pathlib import Path
from typing import Any

import duckdb

from credits_pipeline.config import BREAKDOWNS, PROJECT_ROOT
from credits_pipeline.plans import AccountPlan
from credits_pipeline.sql_project import Model, SqlProject
from credits_pipeline.teams import Team
from credits_pipeline.warehouse import Reading, Warehouse
from credits_pipeline.warehouse.tables import replace_rows

ROOT = PROJECT_ROOT / "dbt_like_sql"
FIRST_DAY = date(2026, 1, 5)
DAYS = 75  # beyond two 30-day horizons, so that forecasts of them have come true
EXAMPLES = (  # dbt's unit tests
    "usage_at_a_midnight_is_shared_out_by_time",
    "a_top_up_near_midnight_counts_as_the_nearer_reading_says",
    "a_missed_night_is_filled_from_the_bill_where_there_is_one",
    "a_counter_that_fell_gives_negative_spend_and_is_never_clamped",
)
RELATIVE_TOLERANCE = 1e-9  # of a DOUBLE: the order of a parallel sum may differ in its last digits


@dataclass(frozen=True)
class Billed:
    """What was billed to an account on one day for one model."""

    usage_date: date
    model: str
    credits_usd: Decimal
    member: str = "bot"
    byok_usd: Decimal = Decimal("0.25")
    requests: int = 3
    prompt_tokens: int = 1_000
    completion_tokens: int = 200
    reasoning_tokens: int = 50
    cached_tokens: int = 10


def history(account: str, first: int, last: int, mean: float) -> tuple[list[Reading], list[Billed]]:
    """Uneven spend from day `first` to `last`, with idle and missed days, a top-up, a refund, a correction."""
    chance = random.Random(account)
    credits, usage = Decimal(50), Decimal("1.5")
    readings, billed = [], []
    for n in range(first, last + 1):
        day = FIRST_DAY + timedelta(days=n)
        credits += {20: Decimal(100), 33: Decimal("-7.5")}.get(n, Decimal(0))
        usage += {41: Decimal("-0.3")}.get(n, Decimal(0))
        hours = [0] if chance.random() < 0.8 else [9, 9, 17]
        if chance.random() < 0.85:
            for minute, hour in enumerate(hours):
                at = datetime.combine(day, time(hour, 5 + minute, 7), UTC)
                readings.append(Reading(account, day, at, credits, usage, "c0ffee", f"run-{n}", "api", "{}"))
        for model in ("alpha/one", "beta/two"):
            spend = Decimal(round(chance.gammavariate(0.8, mean) * 10**8)) / 10**8
            if n == last - 2:
                spend += 500  # an unusual day
            if chance.random() < 0.7 and n < last:
                usage += spend
                billed.append(Billed(day, model, spend))
    return readings, billed


def write_raw_rows(path: Path) -> None:
    """A steady account, a bursty one, one that vanished and one of two days."""
    warehouse = Warehouse(path)
    for account, first, last, mean in (
        ("bursty", 0, DAYS, 2.0),
        ("default", 0, DAYS, 0.5),
        ("new", DAYS - 1, DAYS, 0.5),
        ("vanished", 10, 40, 0.1),
    ):
        readings, billed = history(account, first, last, mean)
        warehouse.append_readings(readings)
        begin, end = (FIRST_DAY + timedelta(days=n) for n in (first - 5, last))
        fetched_at = datetime.combine(end, time(0, 6), UTC)
        warehouse.replace_usage(account, begin, end, billed, fetched_at=fetched_at, run_id="run")
        halves = [replace(row, credits_usd=row.credits_usd / 2) for row in billed]
        for dimension in BREAKDOWNS:
            days = {"fetched_at": fetched_at, "run_id": "run", "dimension": dimension}
            warehouse.replace_usage(account, begin, end, halves, **days)
    with warehouse.writing("keys and settings") as con:
        con.execute(  # a key that spends what its account does
            """
            insert into raw.api_keys by name
            select account, observed_at, 'k1' as key_hash, 'bot' as name, '' as label, 900 as limit_usd,
                900 - total_usage as limit_remaining_usd, 'monthly' as limit_reset, false as has_byok_in_limit,
                total_usage as usage_usd, false as is_disabled, run_id
            from raw.credits_snapshots
            qualify row_number() over (partition by account, snapshot_date order by observed_at desc) = 1
            """
        )
        replace_rows(con, "raw.teams", [Team(1, "d*", "user", "b*t", "Bots", "CC 7")])
        replace_rows(con, "raw.account_plans", [AccountPlan("default", Decimal(60), Decimal(5), Decimal(20))])


def dbt_build(copy: Path, folder: Path) -> dict[str, str]:
    """Run `dbt build` on the file `copy`; the status of each model and test by name."""
    options = {
        "--project-dir": ROOT,
        "--profiles-dir": ROOT,
        "--target-path": folder / "target",
        "--log-path": folder / "logs",
        "--warn-error-options": '{"error": ["Deprecations"]}',
    }
    done = subprocess.run(
        [sys.executable, "-m", "dbt.cli.main", "--no-use-colors", "--no-version-check", "build"]
        + [str(part) for option in options.items() for part in option],
        env={**os.environ, "CREDITS_DBT_WAREHOUSE": str(copy), "DBT_SEND_ANONYMOUS_USAGE_STATS": "false"},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    results = folder / "target" / "run_results.json"
    assert results.exists(), done.stdout + done.stderr
    found = json.loads(results.read_text(encoding="utf-8"))["results"]
    # An id is model.project.name or test.project.name, with a hash behind it for a generic test; that of a unit test
    # is unit_test.project.model.name.
    ids = [(result["unique_id"].split("."), result["status"]) for result in found]
    statuses = {parts[3 if parts[0] == "unit_test" else 2]: status for parts, status in ids}
    if set(statuses.values()) - {"success", "pass", "warn", "no-op"}:
        print(done.stdout)  # pytest shows it when the comparison fails
    return {name: status for name, status in statuses.items() if status != "no-op"}  # of exposures


def tables(con: duckdb.DuckDBPyConnection, database: str, schemas: tuple[str, ...]) -> set[tuple[Any, ...]]:
    """Every table and column with its place, type and comment."""
    rows = con.execute(
        """
        select schema_name, table_name, 0, '', '', comment from duckdb_tables()
        where database_name = $database and schema_name in $schemas
        union all
        select schema_name, table_name, column_index, column_name, data_type, comment from duckdb_columns()
        where database_name = $database and schema_name in $schemas
        """,
        {"database": database, "schemas": schemas},
    ).fetchall()
    # dbt keeps line ends in its comments, and knows of the primary keys only as tests.
    return {(*row, " ".join((comment or "").partition(" Primary key: ")[0].split())) for *row, comment in rows}


def same(mine: Any, theirs: Any) -> bool:
    """Equal; a DOUBLE, or a list of them, to RELATIVE_TOLERANCE."""
    if isinstance(mine, float) and isinstance(theirs, float):
        both_nan = math.isnan(mine) and math.isnan(theirs)
        return both_nan or math.isclose(mine, theirs, rel_tol=RELATIVE_TOLERANCE)
    if isinstance(mine, list | tuple) and isinstance(theirs, list | tuple):
        return len(mine) == len(theirs) and all(map(same, mine, theirs))
    return bool(mine == theirs)


def difference(con: duckdb.DuckDBPyConnection, model: Model) -> str | None:
    """The first row in which the two files disagree. Marts promise an order of rows, other tables do not."""
    order = "" if model.schema_name == "marts" else "order by all"
    ours, theirs = (con.execute(f"from {name}.{model.relation} {order}").fetchall() for name in ("ours", "dbt"))
    pairs = zip_longest(ours, theirs)
    found = next(((n, a, b) for n, (a, b) in enumerate(pairs) if not same(a, b)), None)
    return None if found is None else f"{model.name}, row {found[0]}: ours {found[1]}, dbt's {found[2]}"


def test_dbt_builds_the_same_tables_rows_types_and_comments_and_passes_the_same_tests(tmp_path: Path) -> None:
    """One test, not several: dbt takes 10 s and more, and parallel workers would each start it."""
    project = SqlProject.load(ROOT)
    ours, copy = tmp_path / "ours.duckdb", tmp_path / "copy.duckdb"
    write_raw_rows(ours)
    with Warehouse(ours).writing("the test") as con:
        built = project.build(con)
    assert not built.blocked, [test.message for test in built.blocking]
    assert [model.model for model in built.models if not model.row_count] == []

    shutil.copy(ours, copy)
    with duckdb.connect(str(copy)) as con:  # nothing of ours may pass for dbt's
        for schema in project.schemas:
            con.execute(f"drop schema {schema} cascade")
    statuses = dbt_build(copy, tmp_path)

    expected = dict.fromkeys(project.models, "success")
    expected |= dict.fromkeys(EXAMPLES, "pass")
    expected |= {test.test.name: "pass" if test.passed else "warn" for test in built.tests}
    assert statuses == expected
    with duckdb.connect() as con:
        con.execute(f"attach '{ours}' as ours (read_only); attach '{copy}' as dbt (read_only)")
        assert tables(con, "ours", project.schemas) == tables(con, "dbt", project.schemas)
        found = (difference(con, model) for model in project.models.values())
        assert [text for text in found if text] == []
