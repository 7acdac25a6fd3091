"""Builds the SQL models of a dbt project with DuckDB alone: needs no dbt and knows no Dagster.

Every model is a table. What of dbt is understood: dbt_files.py (files) and sql_template.py (Jinja) say.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from credits_pipeline import clock, dbt_files, sql_template
from credits_pipeline.dbt_files import Column, Model, Source, Test
from credits_pipeline.sql_template import SqlProjectError
from credits_pipeline.text import literal, quoted

if TYPE_CHECKING:
    import duckdb

__all__ = [
    "BuildResult",
    "Column",
    "Model",
    "ModelResult",
    "Source",
    "SqlProject",
    "SqlProjectError",
    "Test",
    "TestResult",
]

SAMPLE_ROWS = 5  # failing rows that a test shows: enough to see the pattern
SAMPLE_CHARACTERS = 300  # of one such row: a whole reply in JSON would drown the rest

_SQL_LINE = re.compile(r"^LINE (\d+):", re.MULTILINE)


@dataclass(frozen=True)
class ModelResult:
    """A table that was built."""

    model: str
    row_count: int
    seconds: float


@dataclass(frozen=True)
class TestResult:
    """What a test found: `failing_rows` counts them all, `sample` shows the first few as text."""

    test: Test
    failing_rows: int
    sample: tuple[str, ...]

    @property
    def passed(self) -> bool:
        return self.failing_rows == 0

    @property
    def severity(self) -> str:
        return self.test.severity

    @property
    def message(self) -> str:
        """One line: which test of which model, which rows."""
        count = f"{self.failing_rows} failing row{'s' if self.failing_rows > 1 else ''}"
        more = "; …" if self.failing_rows > len(self.sample) else ""
        found = "passed" if self.passed else f"{count}: {'; '.join(self.sample)}{more}"
        return f"{self.test.name} on {self.test.model}: {found}"


@dataclass(frozen=True)
class BuildResult:
    """What a build made and what its tests found. The caller rolls back if it is `blocked`."""

    models: tuple[ModelResult, ...]
    tests: tuple[TestResult, ...]
    dropped: tuple[str, ...]  # tables that no model makes any longer, such as 'marts.old'

    @property
    def blocking(self) -> tuple[TestResult, ...]:
        """The failed tests that forbid a commit."""
        return tuple(result for result in self.tests if not result.passed and result.severity == "error")

    @property
    def blocked(self) -> bool:
        return bool(self.blocking)


@dataclass(frozen=True)
class SqlProject:
    """Models in dependency order, sources by 'name.table', and the schemas that hold nothing else."""

    root: Path
    models: Mapping[str, Model]
    sources: Mapping[str, Source]
    schemas: tuple[str, ...]
    variables: Mapping[str, Any]

    @classmethod
    def load(cls, root: Path) -> "SqlProject":
        """Read and check the project in `root`: reads files, renders nothing. Raises SqlProjectError."""
        files = dbt_files.read(root)
        return cls(root, files.models, files.sources, files.schemas, files.variables)

    def build(
        self,
        con: "duckdb.DuckDBPyConnection",
        select: Collection[str] | None = None,
        variables: Mapping[str, Any] | None = None,
    ) -> BuildResult:
        """Build, comment and test the selected models (default: all) inside the caller's transaction.

        A build of all models also empties the project's schemas of what neither is a model nor a source.
        A failing test raises nothing: see BuildResult.blocked. What cannot be built raises SqlProjectError.
        """
        chosen = self._chosen(select)
        existing = _existing(con)
        self._check_upstream(chosen, set(existing))
        for schema in dict.fromkeys(model.schema for model in chosen):
            con.execute(f"create schema if not exists {quoted(schema)}")
        dropped = self._drop_leftovers(con, existing) if select is None else ()
        built = tuple(self._build_model(con, model, variables) for model in chosen)
        tests = tuple(result for model in chosen for result in self.test(con, model.tests, variables))
        return BuildResult(built, tests, dropped)

    def test(
        self,
        con: "duckdb.DuckDBPyConnection",
        tests: Collection[Test],
        variables: Mapping[str, Any] | None = None,
    ) -> tuple[TestResult, ...]:
        """Run tests on tables that are there already."""
        compiled = {test.name: self.compile(test, variables) for test in tests}
        counts: dict[str, int] = {}
        for model in dict.fromkeys(test.model for test in tests):
            # These cannot fail to run, so one query counts for all of them; the others name their own file.
            plain = (test for test in tests if test.model == model and not test.where)
            simple = [test for test in plain if test.kind in ("unique", "not_null")]
            if simple:
                found = ", ".join(_count(test) for test in simple)
                query = f"select count(*), {found} from {self.models[model].relation}"
                [(_, *row)] = _run(con, query, simple[0], "")
                counts |= zip((test.name for test in simple), row, strict=True)
        for test in (test for test in tests if test.name not in counts):
            sql = compiled[test.name]
            [(counts[test.name],)] = _run(con, f"select count(*) from ({sql}\n)", test, sql)
        samples = {name: _sample(con, compiled[name]) for name, count in counts.items() if count}
        return tuple(TestResult(test, counts[test.name], samples.get(test.name, ())) for test in tests)

    def compile(self, item: Model | Test, variables: Mapping[str, Any] | None = None) -> str:
        """The SQL that DuckDB is given for a model or a test."""
        if isinstance(item, Test) and item.kind != "singular":
            return item.sql
        return sql_template.render(
            _raw(item),
            item.path,
            ref=lambda name: self.models[name].relation,
            source=lambda name, table: _table(self.sources[f"{name}.{table}"]),
            variables={**self.variables, **(variables or {})},
        )

    def _chosen(self, select: Collection[str] | None) -> list[Model]:
        for name in sorted(set(select or ()) - set(self.models)):
            raise SqlProjectError(Path(self.root.name), None, f"no model is named {name!r}")
        return [model for name, model in self.models.items() if select is None or name in select]

    def _check_upstream(self, chosen: list[Model], existing: set[tuple[str, str]]) -> None:
        selected = {model.name for model in chosen}
        readers: list[Model | Test] = [*chosen, *(test for model in chosen for test in model.tests)]
        for reader in readers:
            needed = [(self.models[name].schema, name) for name in reader.depends_on if name not in selected]
            needed += [(self.sources[key].schema, self.sources[key].table) for key in reader.sources]
            for schema, table in needed:
                if (schema, table) not in existing:
                    problem = f"reads {schema}.{table}, which this database does not have: build that first"
                    raise SqlProjectError(reader.path, None, problem)

    def _drop_leftovers(
        self, con: "duckdb.DuckDBPyConnection", existing: Mapping[tuple[str, str], str]
    ) -> tuple[str, ...]:
        """A model that left the project must not live on as a table that nobody refreshes."""
        sources = {(source.schema, source.table) for source in self.sources.values()}
        tables = {(model.schema, model.name) for model in self.models.values()}
        dropped = []
        for name, kind in existing.items():
            is_ours = name[0] in self.schemas and name not in sources
            if is_ours and (name not in tables or kind == "view"):
                con.execute(f"drop {kind} {quoted(*name)}")
                dropped.append(".".join(name))
        return tuple(dropped)

    def _build_model(
        self, con: "duckdb.DuckDBPyConnection", model: Model, variables: Mapping[str, Any] | None
    ) -> ModelResult:
        started = clock.monotonic()
        sql = self.compile(model, variables)
        # Brackets refuse a second statement; no line break before the model keeps DuckDB's line numbers.
        [(row_count,)] = _run(con, f"create or replace table {model.relation} as ({sql}\n)", model, sql)
        _check_columns(con, model)
        con.execute(";".join(_comments(model)))
        return ModelResult(model.name, row_count, clock.monotonic() - started)


def _raw(item: Model | Test) -> str:
    return item.raw_sql if isinstance(item, Model) else item.sql


def _table(source: Source) -> str:
    return quoted(source.schema, source.table)


def _count(test: Test) -> str:
    """The failing rows of a `unique` or `not_null`, counted in a query of its model."""
    column = quoted(test.column or "")
    return (
        f"count(*) - count({column})" if test.kind == "not_null" else f"(select count(*) from ({test.sql}))"
    )


def _existing(con: "duckdb.DuckDBPyConnection") -> dict[tuple[str, str], str]:
    """'table' or 'view' by (schema, name)."""
    rows = con.execute(
        "select schema_name, table_name, 'table' from duckdb_tables()"
        " where database_name = current_database() and not temporary and not internal"
        " union all select schema_name, view_name, 'view' from duckdb_views()"
        " where database_name = current_database() and not temporary and not internal order by all"
    ).fetchall()
    return {(schema, name): kind for schema, name, kind in rows}


def _run(con: "duckdb.DuckDBPyConnection", query: str, item: Model | Test, sql: str) -> list[Any]:
    import duckdb

    try:
        return con.execute(query).fetchall()
    except duckdb.Error as error:
        found = _SQL_LINE.search(str(error))
        # A template that renders to as many lines as it has keeps its numbering.
        has_same_lines = len(sql.splitlines()) == len(_raw(item).splitlines())
        line = int(found[1]) if found and has_same_lines else None
        raise SqlProjectError(item.path, line, f"DuckDB refuses this SQL: {error}") from error


def _check_columns(con: "duckdb.DuckDBPyConnection", model: Model) -> None:
    """Every column is described and everything described exists, in the type that it is said to have."""
    produced = {row[0]: row[1] for row in con.execute(f"describe {model.relation}").fetchall()}
    described = {column.name: column for column in model.columns}
    if unknown := [f"{name} {kind}" for name, kind in produced.items() if name not in described]:
        problem = f"produces {', '.join(unknown)}, which {model.yml_path} does not describe"
        raise SqlProjectError(model.path, None, problem)
    for name, column in described.items():
        if name not in produced:
            problem = f"{model.path} does not produce the column {name}"
            raise SqlProjectError(model.yml_path, column.line, problem)
        if _plain_type(column.data_type) != _plain_type(produced[name]):
            problem = f"{name} is said to be {column.data_type}, but {model.path} makes it {produced[name]}"
            raise SqlProjectError(model.yml_path, column.line, problem)


def _plain_type(data_type: str) -> str:
    return "".join(data_type.split()).upper()


def _comments(model: Model) -> Iterator[str]:
    yield f"comment on table {model.relation} is {literal(model.description)}"
    for column in model.columns:
        yield f"comment on column {model.relation}.{quoted(column.name)} is {literal(column.description)}"


def _sample(con: "duckdb.DuckDBPyConnection", sql: str) -> tuple[str, ...]:
    rows = con.execute(f"select * from ({sql}\n) limit {SAMPLE_ROWS}")
    names = [column[0] for column in rows.description or []]
    shown = [", ".join(f"{n}={v}" for n, v in zip(names, row, strict=True)) for row in rows.fetchall()]
    return tuple(text[:SAMPLE_CHARACTERS] for text in shown)
