"""The SQL runner over small projects and a real DuckDB: what it builds, what it refuses and where."""

import gzip
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest

from credits_pipeline import sql_project
from credits_pipeline.config import PROJECT_ROOT
from credits_pipeline.dbt_files import SqlProjectError
from credits_pipeline.sql_project import SqlProject
from credits_pipeline.warehouse import Warehouse

SETTINGS = """\
name: shop
version: "1.0.0"
profile: shop
models:
  shop:
    +materialized: table
    +persist_docs: { relation: true, columns: true }
    staging: { +schema: staging }
    marts: { +schema: marts }
vars:
  tolerance_hours: 2
  slack: 0
"""

SOURCES = """\
version: 2
sources:
  - name: raw
    schema: raw
    description: As received.
    tables:
      - name: orders
        description: One row per order.
        columns:
          - { name: id, description: Order., data_type: INTEGER }
"""

FIXTURES = Path(__file__).parent.parent / "fixtures"
GENERIC_TESTS = PROJECT_ROOT / "dbt_like_sql" / "macros" / "generic_tests.sql"
ORDERS = "select * from (values (1, 'paid'), (2, 'open'), (2, null)) as orders(id, state)"


def described(name: str, *columns: str) -> str:
    """A .yml for a model whose columns are 'name TYPE' or 'name TYPE tests as YAML'."""
    lines = ["version: 2", "models:", f"  - name: {name}", f"    description: What {name} is.", "    columns:"]
    for column in columns:
        title, data_type, *tests = column.split(" ", 2)
        lines += [f"      - name: {title}", f"        description: What {title} is.", f"        data_type: {data_type}"]
        lines += [f"        data_tests: {tests[0]}"] if tests else []
    return "\n".join(lines) + "\n"


class Files:
    """A dbt project in a temporary folder, written file by file."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.write("dbt_project.yml", SETTINGS)
        self.write("models/sources.yml", SOURCES)
        self.write("macros/generic_tests.sql", GENERIC_TESTS.read_text(encoding="utf-8"))

    def write(self, path: str, text: str) -> None:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")

    def model(self, name: str, sql: str, *columns: str, folder: str = "marts") -> None:
        self.write(f"models/{folder}/{name}.sql", sql)
        self.write(f"models/{folder}/{name}.yml", described(name, *columns))

    def load(self) -> SqlProject:
        return SqlProject.load(self.root)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path / "shop")


@pytest.fixture
def con(tmp_path: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect(str(tmp_path / "shop.duckdb")) as con:
        con.execute(f"create schema raw; create schema ops; create table raw.orders as {ORDERS}")
        yield con


def build(con: duckdb.DuckDBPyConnection, project: SqlProject, **options: object) -> sql_project.BuildResult:
    """As the pipeline does it: one transaction, committed unless a test forbids it."""
    con.execute("begin")
    try:
        result = project.build(con, **options)
    except BaseException:
        con.execute("rollback")
        raise
    con.execute("rollback" if result.blocking else "commit")
    return result


def tables(con: duckdb.DuckDBPyConnection) -> set[str]:
    rows = con.execute("select table_schema || '.' || table_name from information_schema.tables").fetchall()
    return {row[0] for row in rows}


def test_models_are_built_in_the_order_in_which_they_read_each_other(files, con):
    files.model("a_last", "select n + 1 as n from {{ ref('b_middle') }}", "n INTEGER")
    files.model("b_middle", 'select n + 1 as n from {{ ref("c_first") }}', "n INTEGER")
    counted = "select count(*)::integer as n from {{ source('raw', 'orders') }}"
    files.model("c_first", counted, "n INTEGER", folder="staging")
    project = files.load()
    assert list(project.models) == ["c_first", "b_middle", "a_last"]
    assert project.models["c_first"].sources == ("raw.orders",)
    assert project.models["a_last"].depends_on == ("b_middle",)
    assert [m.row_count for m in build(con, project).models] == [1, 1, 1]
    assert con.execute("select n from marts.a_last").fetchall() == [(5,)]
    assert tables(con) == {"raw.orders", "staging.c_first", "marts.b_middle", "marts.a_last"}


def test_a_build_describes_the_raw_tables_as_sources_yml_does_in_a_warehouse_of_any_age(tmp_path):
    path = tmp_path / "warehouse.duckdb"
    path.write_bytes(gzip.decompress((FIXTURES / "warehouse_of_version_1.duckdb.gz").read_bytes()))
    project = SqlProject.load(PROJECT_ROOT / "dbt_like_sql")
    with Warehouse(path).writing("the test") as con:
        con.execute("comment on column raw.model_usage_days.fetched_at is 'something else'")
        project.build(con, ["stg_credits_snapshots"])
        rows = con.execute(
            "select table_name, column_name, lower(data_type), comment from duckdb_columns() where schema_name = 'raw'"
            " union all select table_name, '', '', comment from duckdb_tables() where schema_name = 'raw'"
        ).fetchall()
    tables = project.sources.values()
    described = {(table.name, "", "", table.comment) for table in tables}
    described |= {(t.name, c.name, c.data_type.lower(), c.description) for t in tables for c in t.columns}
    assert set(rows) == described


def test_a_selection_builds_and_tests_those_models_only(files, con):
    files.model("a", "select 1 as n", "n INTEGER [unique]")
    files.model("b", "select n from {{ ref('a') }}", "n INTEGER [not_null]")
    project = files.load()
    build(con, project)
    con.execute("create or replace table marts.a as select 7 as n")
    con.execute("create table marts.stray as select 1")
    result = build(con, project, select=["b"])
    assert [m.model for m in result.models] == ["b"]
    assert [t.test.name for t in result.tests] == ["not_null_b_n"]
    assert con.execute("from marts.b").fetchall() == [(7,)]
    assert "marts.stray" in tables(con)


def test_a_full_build_drops_what_no_model_makes_but_never_raw_or_ops_or_a_source(files, con):
    files.model("m", "select 1 as n", "n INTEGER")
    files.write("models/more.yml", SOURCES.replace("raw", "marts").replace("orders", "published"))
    for table in ("marts.old", "staging.old", "marts.published", "ops.alerts_sent", "main.mine"):
        con.execute(f"create schema if not exists {table.split('.')[0]}; create table {table} as select 1 as id")
    build(con, files.load())
    assert tables(con) == {"marts.m", "marts.published", "raw.orders", "ops.alerts_sent", "main.mine"}


ACCEPTED = "state VARCHAR [accepted_values: {arguments: {values: [paid]}}]"


@pytest.mark.parametrize(
    ("column", "name", "sample"),
    [
        ("id INTEGER [unique]", "unique_m_id", "id=2, n_records=2"),
        ("state VARCHAR [not_null]", "not_null_m_state", "id=2, state=None"),
        (ACCEPTED, "accepted_values_m_state__paid", "state=open, n_records=1"),
        ("id INTEGER [unique: {name: one_each}]", "one_each", "id=2, n_records=2"),
    ],
)
def test_a_generic_test_counts_and_shows_the_failing_rows(files, con, column, name, sample):
    other = "state VARCHAR" if column.startswith("id") else "id INTEGER"
    files.model("m", "select id, state from {{ source('raw', 'orders') }}", column, other)
    [result] = build(con, files.load()).tests
    assert (result.test.name, result.failing_rows, result.passed) == (name, 1, False)
    assert sample in "".join(result.sample)
    assert result.message.startswith(f"{name} on m: 1 failing row: ")


def test_a_singular_test_belongs_to_the_last_model_it_reads(files, con):
    files.model("a", "select 1 as n", "n INTEGER")
    files.model("b", "select n from {{ ref('a') }}", "n INTEGER")
    files.write(
        "tests/sums_agree.sql",
        "-- The sums of both agree,\n-- to the last digit.\n{{ config(severity='warn') }}\n"
        "select * from {{ ref('b') }} where n > (select max(n) - {{ var('slack') }} from {{ ref('a') }})",
    )
    [test] = files.load().models["b"].tests
    told = (test.name, test.severity, test.description)
    assert told == ("sums_agree", "warn", "The sums of both agree, to the last digit.")
    result = build(con, SqlProject.load(files.root, {"slack": 1}))
    assert [(t.test.name, t.failing_rows) for t in result.tests] == [("sums_agree", 1)]


def test_a_sample_is_short_however_long_the_rows_are(files, con):
    files.model("m", "select repeat('x', 5000) as t from range(50)", "t VARCHAR")
    files.write("tests/none.sql", "select * from {{ ref('m') }}")
    [none] = build(con, files.load()).tests
    assert none.failing_rows == 50
    assert len(none.sample) == sql_project.SAMPLE_ROWS
    assert len(none.message) < 2_000


def refusal(con: duckdb.DuckDBPyConnection, files: Files, **options: object) -> str:
    with pytest.raises(SqlProjectError) as caught:
        build(con, files.load(), **options)
    return str(caught.value)


def test_a_sql_error_names_its_file_and_what_duckdb_says(files, con):
    files.model("m", "select nothing from {{ source('raw', 'orders') }}", "id INTEGER")
    message = refusal(con, files)
    assert message.startswith("shop/models/marts/m.sql: DuckDB refuses this SQL: Binder Error")
    assert '"nothing" not found' in message
    files.model("m", "select 1 as n", "n INTEGER")
    files.write("tests/wrong.sql", "from {{ ref('m') }} where nothing")
    assert refusal(con, files).startswith("shop/tests/wrong.sql: DuckDB refuses this SQL")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (["n INTEGER"], "the column t is missing here and VARCHAR in what"),
        (["n INTEGER", "t VARCHAR", "x DATE"], "the column x is DATE here and missing in what"),
        (["n BIGINT", "t VARCHAR"], "the column n is BIGINT here and INTEGER in what"),
    ],
)
def test_a_model_makes_exactly_the_columns_that_are_described(files, con, columns, message):
    files.model("m", "select 1 as n, 'x' as t", *columns)
    assert refusal(con, files) == f"shop/models/marts/m.yml: {message} shop/models/marts/m.sql makes"


M_SQL, M_YML = "models/marts/m.sql", "models/marts/m.yml"
M = described("m", "n INTEGER")
REFUSED = [
    (M_SQL, "select 1 {% if is_incremental() %}where 1{% endif %}", f"{M_SQL}: 'is_incremental' is undefined"),
    (M_SQL, "select 1\nfrom {{ ref('z') }}", f"{M_SQL}: there is no model named 'z'"),
    (M_YML, M + "        data_tests: [mine]", f"{M_YML}: there is no macro named 'test_mine'"),
    (M_YML, M + "        tests: [unique]", f"{M_YML}: 1 validation error for YmlFile"),
    ("models/marts/z.sql", "select 1", "models/marts/z.sql: z.sql and its description in a .yml go together"),
]


@pytest.mark.parametrize(("path", "text", "message"), REFUSED, ids=[message for _, _, message in REFUSED])
def test_what_is_not_supported_is_refused_with_its_file(files, path, text, message):
    files.model("m", "select 1 as n", "n INTEGER")
    files.write(path, text)
    with pytest.raises(SqlProjectError) as caught:
        files.load()
    assert str(caught.value).startswith(f"shop/{message}")
