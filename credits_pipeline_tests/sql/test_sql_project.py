"""The SQL runner over small projects and a real DuckDB: what it builds, what it refuses and where."""

from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import duckdb
import pytest

from credits_pipeline import sql_project
from credits_pipeline.sql_project import SqlProject, SqlProjectError

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
  weights: { slow: 0.5 }
"""

SOURCES = """\
version: 2
sources:
  - name: raw
    description: As received.
    tables:
      - name: orders
        description: One row per order.
        columns:
          - { name: id, description: Order., data_type: INTEGER }
"""

ORDERS = "select * from (values (1, 'paid'), (2, 'open'), (2, null)) as orders(id, state)"


def described(name: str, *columns: str) -> str:
    """A .yml for a model whose columns are 'name TYPE' or 'name TYPE tests as YAML'."""
    lines = [
        "version: 2",
        "models:",
        f"  - name: {name}",
        f"    description: What {name} is.",
        "    columns:",
    ]
    for column in columns:
        title, data_type, *tests = column.split(" ", 2)
        lines += [
            f"      - name: {title}",
            f"        description: What {title} is.",
            f"        data_type: {data_type}",
        ]
        lines += [f"        data_tests: {tests[0]}"] if tests else []
    return "\n".join(lines) + "\n"


class Files:
    """A dbt project in a temporary folder, written file by file."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.write("dbt_project.yml", SETTINGS)
        self.write("models/sources.yml", SOURCES)

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
    con.execute("rollback" if result.blocked else "commit")
    return result


def tables(con: duckdb.DuckDBPyConnection) -> set[str]:
    rows = con.execute("select table_schema || '.' || table_name from information_schema.tables").fetchall()
    return {row[0] for row in rows}


# --- what it builds ---------------------------------------------------------------------------------------


def test_models_are_built_in_the_order_in_which_they_read_each_other(files, con):
    files.model("a_last", "select n + 1 as n from {{ ref('b_middle') }}", "n INTEGER")
    files.model("b_middle", 'select n + 1 as n from {{ ref("c_first") }}', "n INTEGER")
    files.model(
        "c_first",
        "select count(*)::integer as n from {{ source('raw', 'orders') }}",
        "n INTEGER",
        folder="staging",
    )
    project = files.load()
    assert list(project.models) == ["c_first", "b_middle", "a_last"]
    assert project.models["c_first"].sources == ("raw.orders",)
    assert project.models["a_last"].depends_on == ("b_middle",)
    assert [m.row_count for m in build(con, project).models] == [1, 1, 1]
    assert con.execute("select n from marts.a_last").fetchall() == [(5,)]
    assert tables(con) == {"raw.orders", "staging.c_first", "marts.b_middle", "marts.a_last"}


def test_set_for_if_var_and_comments_work_as_dbt_users_know_them(files, con):
    files.model(
        "wide",
        """\
        {{ config(materialized='table', tags=['x'], meta={'owner': 'team'}) }}
        {# a comment with {{ ref('nobody') }} in it #}
        {% set states = ['paid', 'open'] -%}
        select
            {%- for state in states %}
            count(*) filter (state = '{{ state }}') as {{ state }}{{ ',' if not loop.last }}
            {%- endfor %}
            {% if var('with_hours', true) %}, {{ var('tolerance_hours') }} as hours{% endif %}
        {% for name, weight in var('weights').items() %}, {{ weight }} as {{ name }}{% endfor %}
        from {{ source('raw', 'orders') }} -- a last comment without a line end""",
        "paid BIGINT",
        "open BIGINT",
        "hours INTEGER",
        "slow DECIMAL(2,1)",
    )
    project = files.load()
    build(con, project)
    assert con.execute("from marts.wide").fetchall() == [(1, 1, 2, Decimal("0.5"))]
    build(con, project, variables={"tolerance_hours": 5})
    assert con.execute("select hours from marts.wide").fetchall() == [(5,)]
    assert project.models["wide"].tags == ("x",)
    assert project.models["wide"].meta == {"owner": "team"}


def test_every_table_and_column_has_its_comment_after_each_build(files, con):
    files.write("models/marts/m.sql", 'select 1 as "order", 2 as b')
    files.write(
        "models/marts/m.yml",
        """\
models:
  - name: m
    description: >
      It's the "first";
      over two lines.
    config: { meta: { owner: team }, tags: [daily] }
    columns:
      - { name: order, description: "A 'quoted' $$word$$; -- and more", data_type: integer }
      - { name: b, description: Plain., data_type: INTEGER }
""",
    )
    project = files.load()
    for _ in range(2):
        build(con, project)
        [(comment,)] = con.execute("select comment from duckdb_tables() where table_name = 'm'").fetchall()
        assert comment == 'It\'s the "first"; over two lines.'
        comments = con.execute(
            "select comment from duckdb_columns() where table_name = 'm' order by column_index"
        )
        assert comments.fetchall() == [("A 'quoted' $$word$$; -- and more",), ("Plain.",)]
    assert project.models["m"].meta == {"owner": "team"}
    assert project.models["m"].tags == ("daily",)


def test_rows_keep_the_order_that_the_model_gives_them(files, con):
    files.model("m", "select i::integer as i from range(1000) t(i) order by hash(i)", "i INTEGER")
    build(con, files.load())
    expected = con.execute("select i::integer from range(1000) t(i) order by hash(i)").fetchall()
    assert con.execute("from marts.m").fetchall() == expected


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
    files.write("models/more.yml", SOURCES.replace("name: raw", "name: marts").replace("orders", "published"))
    for table in ("marts.old", "staging.old", "marts.published", "ops.alerts_sent", "main.mine"):
        con.execute(
            f"create schema if not exists {table.split('.')[0]}; create table {table} as select 1 as id"
        )
    con.execute("create view marts.m as select 1; create view marts.old_view as select 1")
    result = build(con, files.load())
    assert result.dropped == ("marts.m", "marts.old", "marts.old_view", "staging.old")
    assert tables(con) == {"marts.m", "marts.published", "raw.orders", "ops.alerts_sent", "main.mine"}


def test_a_failed_build_leaves_the_tables_of_before(files, con):
    files.model("a", "select 1 as n", "n INTEGER [unique]")
    build(con, files.load())
    files.model("a", "select 2 as n union all select 2", "n INTEGER [unique]")
    result = build(con, files.load())
    assert result.blocked
    assert con.execute("from marts.a").fetchall() == [(1,)]


# --- what it tests ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("column", "name", "failing", "sample"),
    [
        ("id INTEGER [unique]", "unique_m_id", 1, "id=2, n_records=2"),
        ("id INTEGER [not_null]", "not_null_m_id", 0, ""),
        ("state VARCHAR [not_null]", "not_null_m_state", 1, "id=2, state=None"),
        ("state VARCHAR [unique]", "unique_m_state", 0, ""),
        (
            "state VARCHAR [accepted_values: {arguments: {values: [paid, it's]}}]",
            "accepted_values_m_state__paid__it_s",
            1,
            "state=open, n_records=1",
        ),
        (
            "id INTEGER [accepted_values: {arguments: {values: [1, 2], quote: false}}]",
            "accepted_values_m_id__False__1__2",
            0,
            "",
        ),
        (
            "id INTEGER [relationships: {arguments: {to: ref('parent'), field: key}}]",
            "relationships_m_id__key__ref_parent_",
            2,
            "id=2, state=",
        ),
        ("id INTEGER [unique: {config: {where: state is not null}}]", "unique_m_id", 0, ""),
        ("id INTEGER [unique: {name: one_each, description: Said.}]", "one_each", 1, "id=2, n_records=2"),
    ],
)
def test_a_generic_test_counts_and_shows_the_failing_rows(files, con, column, name, failing, sample):
    other = "state VARCHAR" if column.startswith("id") else "id INTEGER"
    files.model("m", "select id, state from {{ source('raw', 'orders') }}", column, other)
    files.model("parent", "select 1 as key", "key INTEGER")
    [result] = build(con, files.load()).tests
    assert (result.test.name, result.failing_rows) == (name, failing)
    assert result.passed == (failing == 0)
    assert sample in "".join(result.sample)
    rows = f"{failing} failing row{'s' if failing > 1 else ''}: " if failing else "passed"
    assert result.message.startswith(f"{name} on m: {rows}")


def test_a_warning_does_not_block(files, con):
    files.model("m", "select 1 as n union all select 1", "n INTEGER [unique: {config: {severity: warn}}]")
    result = build(con, files.load())
    assert not result.blocked
    assert [(t.severity, t.passed) for t in result.tests] == [("warn", False)]
    assert "marts.m" in tables(con)


def test_a_singular_test_belongs_to_the_last_model_it_reads(files, con):
    files.model("a", "select 1 as n", "n INTEGER")
    files.model("b", "select n from {{ ref('a') }}", "n INTEGER")
    files.write(
        "tests/sums_agree.sql",
        "-- The sums of both agree,\n-- to the last digit.\n{{ config(severity='warn') }}\n"
        "select * from {{ ref('b') }} where n > (select max(n) - {{ var('slack') }} from {{ ref('a') }})",
    )
    files.write(
        "tests/of_a.sql", "{{ config(meta={'model': 'a'}) }}\nselect * from {{ ref('b') }} where n < 0"
    )
    project = files.load()
    [test] = project.models["b"].tests
    assert (test.name, test.severity, test.description) == (
        "sums_agree",
        "warn",
        "The sums of both agree, to the last digit.",
    )
    assert [t.name for t in project.models["a"].tests] == ["of_a"]
    result = build(con, project, variables={"slack": 1})
    assert [(t.test.name, t.failing_rows) for t in result.tests] == [("of_a", 0), ("sums_agree", 1)]
    assert [t.failing_rows for t in project.test(con, [test], {"slack": 0})] == [0]


def test_a_sample_is_short_however_long_the_rows_are(files, con):
    files.model(
        "m",
        "select repeat('x', 5000) as t, i::integer as i from range(50) r(i)",
        "t VARCHAR [unique]",
        "i INTEGER",
    )
    files.write("tests/none.sql", "select * from {{ ref('m') }}")
    unique, none = build(con, files.load()).tests
    assert none.failing_rows == 50
    assert len(none.sample) == sql_project.SAMPLE_ROWS
    assert len(none.message) < 2_000
    assert "n_records" not in unique.message or len(unique.message) < 500


# --- what it refuses while building -----------------------------------------------------------------------


def refusal(con: duckdb.DuckDBPyConnection, files: Files, **options: object) -> str:
    with pytest.raises(SqlProjectError) as caught:
        build(con, files.load(), **options)
    return str(caught.value)


def test_a_sql_error_names_file_and_line_and_what_duckdb_says(files, con):
    files.model("m", "select\n    id,\n    nothing\nfrom {{ source('raw', 'orders') }}", "id INTEGER")
    message = refusal(con, files)
    assert message.startswith("shop/models/marts/m.sql:3: DuckDB refuses this SQL: Binder Error")
    assert '"nothing" not found' in message


def test_an_error_in_the_data_names_the_file(files, con):
    files.model("m", "select state::integer as n from {{ source('raw', 'orders') }}", "n INTEGER")
    assert refusal(con, files).startswith(
        "shop/models/marts/m.sql:1: DuckDB refuses this SQL: Conversion Error"
    )


def test_a_wrong_test_names_its_own_file(files, con):
    files.model("m", "select 1 as n", "n INTEGER [unique: {config: {where: nothing > 1}}]")
    assert refusal(con, files).startswith("shop/models/marts/m.yml")
    files.model("m", "select 1 as n", "n INTEGER")
    files.write("tests/wrong.sql", "select *\nfrom {{ ref('m') }}\nwhere nothing")
    assert refusal(con, files).startswith("shop/tests/wrong.sql:3")


def test_a_second_statement_in_a_model_is_refused(files, con):
    con.execute("create table ops.keep as select 1")
    files.model("m", "select 1 as n; drop table ops.keep", "n INTEGER")
    assert "Parser Error" in refusal(con, files)
    assert {"raw.orders", "ops.keep"} <= tables(con)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            ["n INTEGER"],
            "shop/models/marts/m.sql: produces t VARCHAR, which shop/models/marts/m.yml does not describe",
        ),
        (
            ["x DATE"],
            "shop/models/marts/m.sql: produces n INTEGER, t VARCHAR,"
            " which shop/models/marts/m.yml does not describe",
        ),
        (
            ["n INTEGER", "t VARCHAR", "x DATE"],
            "shop/models/marts/m.yml:12: shop/models/marts/m.sql does not produce the column x",
        ),
        (
            ["n BIGINT", "t VARCHAR"],
            "shop/models/marts/m.yml:6: n is said to be BIGINT, but shop/models/marts/m.sql makes it INTEGER",
        ),
    ],
)
def test_a_model_makes_exactly_the_columns_that_are_described(files, con, columns, message):
    files.model("m", "select 1 as n, 'x' as t", *columns)
    assert refusal(con, files) == message


def test_a_type_may_be_spelled_with_spaces_and_in_lower_case(files, con):
    files.write("models/marts/m.sql", "select 1.5::decimal(18, 9) as usd, [1] as list")
    files.write(
        "models/marts/m.yml",
        described("m", "usd decimal(18,9)", "list integer[]").replace("(18,9)", "(18, 9)"),
    )
    build(con, files.load())


def test_a_variable_without_value_names_the_line_that_asks_for_it(files, con):
    files.model("m", "select\n\n{{ var('days') }} as n", "n INTEGER")
    expected = (
        "shop/models/marts/m.sql:3: var 'days' has no value: set it in dbt_project.yml or give a default"
    )
    assert refusal(con, files) == expected


def test_an_expression_that_fails_names_its_line(files, con):
    files.model("m", "{% set days = [1] %}\nselect {{ days[3] }} as n", "n INTEGER")
    assert refusal(con, files).startswith("shop/models/marts/m.sql:2: ")


def test_a_selection_whose_upstream_was_never_built_says_which(files, con):
    files.model("a", "select 1 as n", "n INTEGER", folder="staging")
    files.model("b", "select n from {{ ref('a') }}", "n INTEGER")
    expected = "shop/models/marts/b.sql: reads staging.a, which this database does not have: build that first"
    assert refusal(con, files, select=["b"]) == expected


def test_a_missing_source_table_is_named_before_anything_is_built(files, con):
    files.model("b", "select id from {{ source('raw', 'orders') }}", "id INTEGER")
    con.execute("drop table raw.orders")
    assert "reads raw.orders, which this database does not have" in refusal(con, files)


def test_an_unknown_model_in_a_selection_is_refused(files, con):
    files.model("a", "select 1 as n", "n INTEGER")
    assert refusal(con, files, select=["a", "z"]) == "shop: no model is named 'z'"


# --- what it refuses while reading ------------------------------------------------------------------------

TEMPLATES = [
    ("select 1\n{% if is_incremental() %}where 1{% endif %}", 2, "is_incremental is not supported"),
    ("select 1\n\nfrom {{ this }}", 3, "this is not supported"),
    ("{% do run_query('x') %}", 1, "unknown tag 'do'"),
    ("{% set x = run_query('select 1') %}", 1, "run_query is not supported"),
    ("select {{ adapter.get_relation('a') }}", 1, "adapter is not supported"),
    ("select '{{ env_var(\"HOME\") }}'", 1, "env_var is not supported"),
    ("select '{{ target.name }}'", 1, "target is not supported"),
    ("\nselect {{ dbt_utils.star(ref('m')) }}", 2, "dbt_utils is not supported"),
    ("select 1\n{% macro f() %}1{% endmacro %}", 2, "macro is not supported"),
    ("{% import 'a.sql' as a %}", 1, "import is not supported"),
    ("{% from 'a.sql' import a %}", 1, "fromimport is not supported"),
    ("{% include 'a.sql' %}", 1, "include is not supported"),
    ("{% extends 'a.sql' %}", 1, "extends is not supported"),
    ("{% block a %}{% endblock %}", 1, "block is not supported"),
    ("{% call f() %}{% endcall %}", 1, "is not supported"),
    ("\n{% snapshot s %}{% endsnapshot %}", 2, "unknown tag 'snapshot'"),
    ("{% test t(model) %}{% endtest %}", 1, "unknown tag 'test'"),
    ("select {{ 'a' | as_native }}", 1, "the filter as_native"),
    ("select 1\nfrom {{ ref('nobody') }}", 2, "ref('nobody'): no model has this name"),
    ("from {{ source('raw', 'nothing') }}", 1, "source raw.nothing is declared in no .yml"),
    ("{% set name = 'm' %}\nfrom {{ ref(name) }}", 2, "ref takes literal values only"),
    ("from {{ ref('package', 'm') }}", 1, "ref is not supported in this form"),
    ("from {{ ref('m', version=2) }}", 1, "ref is not supported in this form"),
    ("from {{ ref(*['m']) }}", 1, "ref is not supported in this form"),
    ("from {{ source('raw') }}", 1, "source is not supported in this form"),
    ("{% set r = ref %}from {{ r('m') }}", 1, "ref is not supported here"),
    ("{% set ref = 1 %}", 1, "ref is not supported here"),
    ("select {{ var() }}", 1, "var is not supported in this form"),
    ("select {{ var(range) }}", 1, "var takes literal values only"),
    ("{{ config({'materialized': 'table'}) }}", 1, "config is not supported in this form"),
    ("{{ config(tags=var('x')) }}", 1, "config takes literal values only"),
    ("select 1\n{{ config(materialized='incremental') }}", 2, "materialized 'incremental' is not supported"),
    ("{{ config(materialized='view') }}", 1, "it can be 'table': every model is a table"),
    ("{{ config(materialized='ephemeral') }}", 1, "materialized 'ephemeral' is not supported"),
    ("{{ config(pre_hook='drop table x') }}", 1, "config(pre_hook=…) is not supported"),
    ("{{ config(schema='other') }}", 1, "config(schema=…) is not supported"),
    ("{{ config(tags='x') }}", 1, "a list of texts"),
    ("select {{ 1", 1, "supported are ref, source, var"),
    ("select 1\n{% if true %}", 2, "supported are ref, source, var"),
    ("from {{ ref('m') }}", None, "models read each other in a circle: m <- m"),
]


@pytest.mark.parametrize(("sql", "line", "message"), TEMPLATES, ids=[message for _, _, message in TEMPLATES])
def test_a_template_beyond_what_is_supported_is_refused_with_its_line(files, sql, line, message):
    files.model("m", sql, "n INTEGER")
    with pytest.raises(SqlProjectError) as caught:
        files.load()
    assert str(caught.value).startswith(f"shop/models/marts/m.sql{f':{line}' if line else ''}: ")
    assert message in str(caught.value)


HEAD = "version: 2\nmodels:\n  - name: m\n    description: D.\n"
COLUMN = HEAD + "    columns:\n      - name: n\n        description: N.\n        data_type: INTEGER\n"
DESCRIPTIONS = [
    (
        COLUMN + "        data_tests: [dbt_utils.not_empty]",
        9,
        "the test dbt_utils.not_empty is not supported",
    ),
    (
        COLUMN + "        data_tests:\n          - unique\n          - mine: {}",
        11,
        "the test mine is not supported",
    ),
    (COLUMN + "        tests: [unique]", 9, "its present name is data_tests"),
    (COLUMN + "        quote: true", 9, "quote is not supported here"),
    (COLUMN + "        data_tests: [accepted_values: {values: [1]}]", 9, "under `arguments:`"),
    (
        COLUMN + "        data_tests: [accepted_values]",
        9,
        "accepted_values needs `values` under `arguments:`",
    ),
    (COLUMN + "        data_tests: [accepted_values: {arguments: {values: 1}}]", 9, "a list"),
    (COLUMN + "        data_tests: [unique: {arguments: {x: 1}}]", 9, "arguments is not supported here"),
    (COLUMN + "        data_tests: [unique: {severity: warn}]", 9, "it stands under `config:`"),
    (COLUMN + "        data_tests: [unique: {config: {severity: fatal}}]", 9, "'error' or 'warn'"),
    (COLUMN + "        data_tests: [unique: {config: {limit: 1}}]", 9, "limit is not supported here"),
    (COLUMN + "        data_tests: [unique: {config: {where: 1}}]", 9, "a SQL condition"),
    (COLUMN + "        data_tests: [unique, unique]", 9, "two tests named unique_m_n"),
    (
        COLUMN + "        data_tests: [relationships: {arguments: {to: m, field: n}}]",
        9,
        "`to` is the ref('…')",
    ),
    (
        COLUMN + "        data_tests: [relationships: {arguments: {to: ref('z'), field: n}}]",
        9,
        "`to` is the ref('…')",
    ),
    (COLUMN + "        data_tests: unique", 9, "expected a list"),
    (COLUMN + "        data_tests: [{unique: {}, not_null: {}}]", 9, "expected one test"),
    (COLUMN + "        data_tests: [unique: {name: a-b}]", 9, "lower-case letters, digits and underscores"),
    (COLUMN + "    data_tests: [unique]", 9, "data_tests is not supported here: it stands under a column"),
    (COLUMN + "    config: {materialized: view}", 9, "materialized 'view' is not supported"),
    (COLUMN + "    config: {meta: !mine {a: 1}}", 9, "is no plain value"),
    (COLUMN + "    config: {contract: {enforced: true}}", 9, "contract is not supported here"),
    (COLUMN + "    versions: [1]", 9, "versions is not supported here"),
    (COLUMN + "    description: again", 9, "description is given twice"),
    (COLUMN + "  - name: m\n    description: D.", 9, "m is described twice"),
    (COLUMN + "  - name: z\n    description: D.", 9, "z is described, but models/ holds no z.sql"),
    (COLUMN + "seeds: []", 9, "seeds is not supported here"),
    (COLUMN + "      - name: n\n        description: D.\n        data_type: DATE", 9, "n is described twice"),
    (COLUMN + "      - name: p\n        data_type: DATE", 9, "description is missing here"),
    (COLUMN + "      - name: p\n        description: D.", 9, "data_type is missing here"),
    (COLUMN + "      - name: p\n        description:\n        data_type: DATE", 10, "expected a text"),
    (HEAD.replace("D.", "{{ doc('m') }}"), 4, "Jinja in .yml is not supported"),
    (HEAD, 3, "columns is missing here"),
    (HEAD + "    columns: {n: 1}", 5, "expected a list"),
    ("models:\n  - description: D.", 2, "name is missing here"),
    ("models: [m]", 1, "expected a mapping"),
    ("models:\n  - name: m: n", 2, "is no valid YAML"),
    ("- 1", 1, "expected a mapping"),
    ("# nothing", None, "is empty"),
]


@pytest.mark.parametrize(("yml", "line", "message"), DESCRIPTIONS, ids=[m for _, _, m in DESCRIPTIONS])
def test_a_description_beyond_what_is_supported_is_refused_with_its_line(files, yml, line, message):
    files.model("m", "select 1 as n")
    files.write("models/marts/m.yml", yml)
    with pytest.raises(SqlProjectError) as caught:
        files.load()
    where = f"shop/models/marts/m.yml{f':{line}' if line else ''}: "
    assert message in str(caught.value)
    assert str(caught.value).startswith(where)


PROJECTS = [
    (
        {"dbt_project.yml": SETTINGS + "on-run-start: [x]"},
        "dbt_project.yml:13",
        "on-run-start is not supported here",
    ),
    ({"dbt_project.yml": SETTINGS + "model-paths: [sql]"}, "dbt_project.yml:13", "model-paths can only be"),
    (
        {"dbt_project.yml": SETTINGS.replace("+materialized: table", "+materialized: view")},
        "dbt_project.yml:6",
        "'view' is not supported",
    ),
    (
        {"dbt_project.yml": SETTINGS.replace("+materialized: table", "+pre-hook: x")},
        "dbt_project.yml:6",
        "+pre-hook is not supported",
    ),
    (
        {"dbt_project.yml": SETTINGS.replace("+schema: marts", "+schema: raw")},
        "dbt_project.yml:9",
        "raw holds what cannot be built again",
    ),
    (
        {"dbt_project.yml": SETTINGS.replace("+schema: marts", "+schema: ops")},
        "dbt_project.yml:9",
        "ops holds what cannot be built again",
    ),
    (
        {"dbt_project.yml": SETTINGS.replace("tolerance_hours: 2", "shop: {a: 1}")},
        "dbt_project.yml:11",
        "vars of a package are not supported",
    ),
    (
        {"dbt_project.yml": SETTINGS.replace("marts:", "mart:")},
        "models/marts/m.sql",
        "models/marts has no +schema",
    ),
    ({"packages.yml": "packages: []"}, "packages.yml", "not supported"),
    ({"seeds/a.csv": "a"}, "seeds", "not supported"),
    ({"snapshots/a.sql": "a"}, "snapshots", "not supported"),
    ({"tests/generic/t.sql": "select 1"}, "tests/generic", "not supported"),
    ({"models/marts/p.py": "def model(): pass"}, "models/marts/p.py", "Python models"),
    (
        {"models/marts/a-b.sql": "select 1"},
        "models/marts/a-b.sql",
        "lower-case letters, digits and underscores",
    ),
    ({"models/marts/M.sql": "select 1"}, "models/marts/M.sql", "lower-case letters, digits and underscores"),
    ({"models/marts/z.sql": "select 1"}, "models/marts/z.sql", "is not described: write z.yml beside it"),
    ({"models/staging/m.sql": "select 1"}, "models/staging/m.sql", "another model of this name"),
    ({"models/m.sql": "select 1"}, "models/marts/m.sql", "another model of this name"),
    ({"tests/t.sql": "select 1"}, "tests/t.sql", "reads at least one model"),
    ({"tests/t-t.sql": "from {{ ref('m') }}"}, "tests/t-t.sql", "lower-case letters, digits and underscores"),
    (
        {"tests/a/t.sql": "from {{ ref('m') }}", "tests/t.sql": "from {{ ref('m') }}"},
        "tests/t.sql",
        "two tests named t",
    ),
    ({"tests/t.sql": "\nfrom {{ ref('z') }}"}, "tests/t.sql:2", "no model has this name"),
    ({"tests/t.sql": "{{ config(where='x') }}from {{ ref('m') }}"}, "tests/t.sql:1", "config(where=…)"),
    ({"tests/t.sql": "{{ config(meta={'model': 'z'}) }}{{ ref('m') }}"}, "tests/t.sql", "names the model z"),
    ({"models/s.yml": SOURCES}, "models/sources.yml:6", "raw.orders is declared twice"),
    (
        {"models/s.yml": SOURCES.replace("raw", "r") + "    loader: x"},
        "models/s.yml:10",
        "loader is not supported",
    ),
]


@pytest.mark.parametrize(("texts", "where", "message"), PROJECTS, ids=[m for _, _, m in PROJECTS])
def test_a_project_beyond_what_is_supported_is_refused_with_its_file(files, texts, where, message):
    files.model("m", "select 1 as n", "n INTEGER")
    for path, text in texts.items():
        files.write(path, text)
    with pytest.raises(SqlProjectError) as caught:
        files.load()
    assert message in str(caught.value)
    assert str(caught.value).startswith(f"shop/{where}")


def test_a_file_in_another_encoding_is_named(files):
    files.model("m", "select 1 as n", "n INTEGER")
    (files.root / "models/marts/m.sql").write_bytes("select 'é'".encode("latin-1"))
    with pytest.raises(SqlProjectError, match=r"^shop/models/marts/m.sql: is not UTF-8$"):
        files.load()


def test_what_an_editor_leaves_beside_a_file_is_no_model(files):
    files.model("m", "select 1 as n", "n INTEGER")
    files.write("models/marts/.#m.sql", "x")
    files.write("models/marts/m.sql~", "x")
    assert list(files.load().models) == ["m"]


def test_a_circle_of_models_is_shown_as_one(files):
    for name, upstream in (("a", "c"), ("b", "a"), ("c", "b")):
        files.model(name, f"select n from {{{{ ref('{upstream}') }}}}", "n INTEGER")
    with pytest.raises(
        SqlProjectError, match=r"in a circle: (a <- c <- b <- a|b <- a <- c <- b|c <- b <- a <- c)"
    ):
        files.load()


def test_a_folder_without_a_project_says_what_is_missing(tmp_path):
    with pytest.raises(SqlProjectError, match=r"nothing/dbt_project.yml: is missing"):
        SqlProject.load(tmp_path / "nothing")
