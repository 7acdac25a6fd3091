"""Real dbt, on a copy of the warehouse, builds what the pipeline builds: every table, row, type and comment."""

import json
import os
import shutil
import subprocess
import sys
from decimal import Decimal
from itertools import zip_longest
from pathlib import Path
from typing import Any

import duckdb

from credits_pipeline.config import BREAKDOWNS, PROJECT_ROOT
from credits_pipeline.plans import AccountPlan
from credits_pipeline.sql_project import Model
from credits_pipeline.teams import Team
from credits_pipeline.warehouse.tables import replace_rows
from credits_pipeline_tests.models import is_same
from credits_pipeline_tests.published_history import DAY, FIRST_DAY, History

ROOT = PROJECT_ROOT / "dbt_like_sql"
EXAMPLES = (  # dbt's unit tests
    "usage_at_a_midnight_is_shared_out_by_time",
    "a_top_up_near_midnight_counts_as_the_nearer_reading_says",
    "a_missed_night_is_filled_from_the_bill_where_there_is_one",
    "a_counter_that_fell_gives_negative_spend_and_is_never_clamped",
)


def write_raw_rows(folder: Path) -> History:
    """A steady account and a bursty one, with nights that nobody read; one that vanished and one of two days."""
    history = History(folder)
    history.read(35)
    history.day += 9 * DAY  # five of them were not billed either
    history.read(40)  # beyond a 30-day horizon, so that forecasts of it have come true
    last = history.last_run
    with history.warehouse.writing("more accounts, keys and settings") as con:
        replace_rows(con, "raw.teams", [Team(1, "d*", "user", "b*", "Bots", "CC 7")])
        replace_rows(con, "raw.account_plans", [AccountPlan("default", Decimal(60), Decimal(5), Decimal(20))])
        for account, days in (("vanished", f"< '{FIRST_DAY + 30 * DAY}'"), ("new", f">= '{last - DAY}'")):
            for table, day in (("credits_snapshots", "snapshot_date"), ("model_usage", "usage_date"),
                               ("model_usage_days", "usage_date")):  # fmt: skip
                con.execute(f"insert into raw.{table} select * replace ('{account}' as account) from raw.{table}"
                            f" where account = 'default' and {day} {days}")  # fmt: skip
        for dimension in BREAKDOWNS[1:]:
            for table in ("usage_breakdown", "usage_breakdown_days"):
                con.execute(f"insert into raw.{table} select * replace ('{dimension}' as dimension) from raw.{table}"
                            " where dimension = 'api_key'")  # fmt: skip
        con.execute(  # a correction, and a key that spends what its account does
            f"""
            insert into raw.credits_snapshots by name select * replace (observed_at + interval 9 hours as observed_at,
                total_usage - 0.3 as total_usage) from raw.credits_snapshots where snapshot_date = '{last - 20 * DAY}';
            insert into raw.api_keys by name
            select account, observed_at, 'k1' as key_hash, 'bot' as name, '' as label, 90000 as limit_usd,
                90000 - total_usage as limit_remaining_usd, 'monthly' as limit_reset, false as has_byok_in_limit,
                total_usage as usage_usd, false as is_disabled, run_id
            from raw.credits_snapshots
            qualify row_number() over (partition by account, snapshot_date order by observed_at desc) = 1
            """
        )
    return history


def dbt_build(copy: Path, folder: Path) -> dict[str, str]:
    """Run `dbt build` on the file `copy`; the status of each model and test by name."""
    options = {
        "--project-dir": ROOT, "--profiles-dir": ROOT, "--target-path": folder / "target",
        "--log-path": folder / "logs", "--warn-error-options": '{"error": ["Deprecations"]}',
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "dbt.cli.main", "--no-use-colors", "--no-version-check", "build"]
        + [str(part) for option in options.items() for part in option],
        env={**os.environ, "CREDITS_DBT_WAREHOUSE": str(copy), "DBT_SEND_ANONYMOUS_USAGE_STATS": "false"},
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
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


def difference(con: duckdb.DuckDBPyConnection, model: Model) -> str | None:
    """The first row in which the two files disagree. Marts promise an order of rows, other tables do not."""
    order = "" if model.schema_name == "marts" else "order by all"
    ours, theirs = (con.execute(f"from {name}.{model.relation} {order}").fetchall() for name in ("ours", "dbt"))
    pairs = zip_longest(ours, theirs)
    found = next(((n, a, b) for n, (a, b) in enumerate(pairs) if not is_same(a, b)), None)
    return None if found is None else f"{model.name}, row {found[0]}: ours {found[1]}, dbt's {found[2]}"


def test_dbt_builds_the_same_tables_rows_types_and_comments_and_passes_the_same_tests(tmp_path):
    """One test, not several: dbt takes 10 s and more, and parallel workers would each start it."""
    history = write_raw_rows(tmp_path)
    project, ours, copy = history.project, history.warehouse.path, tmp_path / "copy.duckdb"
    with history.warehouse.writing("the test") as con:
        built = project.build(con)
    assert not built.blocking, [test.message for test in built.blocking]
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
