"""Builds the models of a dbt project with DuckDB alone: needs no dbt and knows no Dagster.

Every model is a table. Of dbt it knows ref, source, var, config, doc, macros, generic and singular tests. Contracts,
exposures and unit tests are left to dbt; whatever else a .yml says is refused.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from graphlib import TopologicalSorter
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
from jinja2.sandbox import SandboxedEnvironment

from credits_pipeline import clock
from credits_pipeline.dbt_files import Config, SqlProjectError, Table, named, parsed, read_texts, read_yml
from credits_pipeline.templates import KeptCompiled
from credits_pipeline.text import cell, literal, quoted

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection as Connection

SAMPLE_ROWS = 5  # failing rows that a test shows: enough to see the pattern
SAMPLE_CHARACTERS = 300  # of one such row: a whole reply in JSON would drown the rest


@dataclass(frozen=True)
class Test:
    """A query that must find no row, named as dbt names it."""

    name: str
    model: str
    severity: str  # 'error' or 'warn'
    compiled: str
    description: str
    path: Path


class Model(Table):
    """A `.sql` file and its description. Paths begin with the name of the project's folder."""

    path: Path
    yml_path: Path
    sql: str  # the template
    compiled: str  # what DuckDB is given
    depends_on: tuple[str, ...]  # names of models
    sources: tuple[str, ...]  # such as 'raw.model_usage'
    tests: tuple[Test, ...] = ()


@dataclass(frozen=True)
class ModelResult:
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
    def message(self) -> str:
        """One line: which test of which model, which rows."""
        count = f"{self.failing_rows} failing row{'s' if self.failing_rows > 1 else ''}"
        more = "; …" if self.failing_rows > len(self.sample) else ""
        found = "passed" if self.passed else f"{count}: {'; '.join(self.sample)}{more}"
        return f"{self.test.name} on {self.test.model}: {found}"


@dataclass(frozen=True)
class BuildResult:
    """What a build made and what its tests found. The caller rolls back if any are `blocking`."""

    models: tuple[ModelResult, ...]
    tests: tuple[TestResult, ...]

    @property
    def blocking(self) -> tuple[TestResult, ...]:
        """The failed tests that forbid a commit."""
        return tuple(r for r in self.tests if not r.passed and r.test.severity == "error")

    @property
    def because(self) -> str:
        """One line: what blocks, and which rows."""
        return "; ".join(test.message for test in self.blocking)


@dataclass(frozen=True)
class SqlProject:
    """Models in dependency order, sources by 'name.table', and the schemas that hold nothing else."""

    root: Path
    models: Mapping[str, Model]
    sources: Mapping[str, Table]
    schemas: tuple[str, ...]
    meta: Mapping[str, Any]  # what holds for every model, such as its owner

    @classmethod
    def load(cls, root: Path, variables: Mapping[str, Any] | None = None) -> "SqlProject":
        """Read and check the project in `root`, opening no database. Raises SqlProjectError.

        `variables` come before the `vars` of dbt_project.yml.
        """
        root = root.resolve()
        settings = parsed((root / "dbt_project.yml").read_text("utf-8"))
        options = settings["models"][settings["name"]]
        schemas = {folder: part["+schema"] for folder, part in options.items() if folder[0] != "+"}
        text = "".join(read_texts(root, "models/**/*.md").values())
        docs = dict(re.findall(r"{% docs (\w+) %}(.*?){% enddocs %}", text, re.DOTALL))
        ymls = {path: read_yml(path, text, docs) for path, text in read_texts(root, "models/**/*.yml").items()}
        sources = {
            f"{group.name}.{table.name}": table.model_copy(update={"schema_name": group.schema_name})
            for yml in ymls.values()
            for group in yml.sources
            for table in group.tables
        }
        entries = {entry.name: (path, entry) for path, yml in ymls.items() for entry in yml.models}
        files = {path.stem: path for path in read_texts(root, "models/**/*.sql")}
        for name in files.keys() ^ entries.keys():
            place = files.get(name) or entries[name][0]
            raise SqlProjectError(place, f"{name}.sql and its description in a .yml go together: one is missing")
        relations = {name: quoted(schemas[path.parts[2]], name) for name, path in files.items()}
        templates = _Templates(root, relations, sources, {**settings.get("vars", {}), **(variables or {})})
        models = {}
        for name, path in files.items():
            made, (yml_path, entry) = templates.render(path), entries[name]
            config = entry.config.model_copy(update=made["config"])
            placed = {"schema_name": schemas[path.parts[2]], "yml_path": yml_path, "config": config}
            models[name] = Model(**dict(entry) | made | placed)
        order = [*TopologicalSorter({name: model.depends_on for name, model in models.items()}).static_order()]
        tests = [*_generic_tests(templates, models), *_singular_tests(templates, order)]
        ours = {name: tuple(test for test in tests if test.model == name) for name in order}
        tested = {name: models[name].model_copy(update={"tests": ours[name]}) for name in order}
        return cls(root, tested, sources, tuple(schemas.values()), options.get("+meta", {}))

    def build(self, con: "Connection", select: Collection[str] | None = None) -> BuildResult:
        """Build, describe and test the selected models (default: all) inside the caller's transaction.

        A build of all models also empties the project's schemas of what neither is a model nor a source.
        A failing test raises nothing: see BuildResult.blocking. What cannot be built raises SqlProjectError.
        """
        chosen = [model for name, model in self.models.items() if select is None or name in select]
        for schema in dict.fromkeys(model.schema_name for model in chosen):
            con.execute(f"create schema if not exists {quoted(schema)}")
        if select is None:
            self._drop_leftovers(con)
        built = tuple(_build_model(con, model) for model in chosen)
        _describe(con, [*self.sources.values(), *chosen])
        return BuildResult(built, self.test(con, [test for model in chosen for test in model.tests]))

    def test(self, con: "Connection", tests: Collection[Test]) -> tuple[TestResult, ...]:
        """Run tests on tables that are there already: those of one file in one query."""
        counts: dict[Test, int] = {}
        for path in dict.fromkeys(test.path for test in tests):
            of_file = [test for test in tests if test.path == path]
            counted = ", ".join(f"(select count(*) from ({test.compiled}\n))" for test in of_file)
            [row] = _run(con, f"select {counted}", path)
            counts |= zip(of_file, row, strict=True)
        return tuple(TestResult(test, counts[test], _sample(con, test) if counts[test] else ()) for test in tests)

    def _drop_leftovers(self, con: "Connection") -> None:
        """A model that left the project must not live on as a table that nobody refreshes."""
        kept = {(table.schema_name, table.name) for table in (*self.models.values(), *self.sources.values())}
        for schema, table in _tables(con) - kept:
            if schema in self.schemas:
                con.execute(f"drop table {quoted(schema, table)}")

    def never_built(self, con: "Connection") -> set[str]:
        """The models that have no table."""
        found = _tables(con)
        return {name for name, model in self.models.items() if (model.schema_name, name) not in found}


class _Templates:
    """Renders a project's templates as dbt does: what they read is known by what they ask for."""

    def __init__(
        self, root: Path, models: Mapping[str, str], sources: Mapping[str, Table], variables: Mapping[str, Any]
    ) -> None:
        self.root = root
        self._jinja = SandboxedEnvironment(
            loader=jinja2.FunctionLoader(self._text), bytecode_cache=KeptCompiled(), undefined=jinja2.StrictUndefined
        )
        self._context: dict[str, Any] = {
            "ref": lambda name: self._read("model", name, models),
            "source": lambda group, table: self._read("source", f"{group}.{table}", sources).relation,
            "var": lambda name: _look_up("var", name, variables),
            "config": lambda **said: self._asked["config"].update(Config(**said).model_dump(exclude_unset=True)) or "",
        }
        for path in read_texts(root, "macros/*.sql"):
            with named(path):
                module = vars(self._jinja.get_template(str(path)).make_module(self._context))
            self._context |= {name: value for name, value in module.items() if name[0] != "_"}

    def render(self, path: Path) -> dict[str, Any]:
        """What `Model` says of the file at `path`. Raises SqlProjectError."""
        self._asked: dict[str, dict[str, Any]] = {"model": {}, "source": {}, "config": {}}
        with named(path):
            compiled = self._jinja.get_template(str(path)).render(self._context)
        made = {"path": path, "sql": self._text(str(path)), "compiled": compiled}
        read = {"depends_on": tuple(self._asked["model"]), "sources": tuple(self._asked["source"])}
        return made | read | {"config": self._asked["config"]}

    def call(self, path: Path, macro: str, arguments: Mapping[str, Any]) -> str:
        """What a macro makes of arguments that stand in the file at `path`. Raises SqlProjectError."""
        with named(path):
            return str(_look_up("macro", macro, self._context)(**arguments))

    def _text(self, path: str) -> str:
        """A file as Jinja knows it; to dbt, too, a generic test is a macro."""
        text = (self.root.parent / path).read_text("utf-8")
        return re.sub(r"{% test (\w+)", r"{% macro test_\1", text).replace("{% endtest", "{% endmacro")

    def _read(self, what: str, name: str, among: Mapping[str, Any]) -> Any:
        return self._asked[what].setdefault(name, _look_up(what, name, among))


def _tables(con: "Connection") -> set[tuple[str, str]]:
    query = "select schema_name, table_name from duckdb_tables() where database_name = current_database()"
    return set(con.execute(query).fetchall())


def _look_up(what: str, name: str, among: Mapping[str, Any]) -> Any:
    if name not in among:
        raise LookupError(f"there is no {what} named {name!r}")
    return among[name]


def _generic_tests(templates: _Templates, models: Mapping[str, Model]) -> Iterator[Test]:
    for model in models.values():
        parts = [(dict[str, str](), f"The {{}} holds: {', '.join(model.primary_key)}.", model.data_tests)]
        parts += [({"column_name": c.name}, f"Column {c.name}: {{}}.", c.data_tests) for c in model.columns]
        for column, about, item in ((column, about, item) for column, about, items in parts for item in items):
            [(kind, test)] = item.items()
            arguments = {**test.arguments, **column}
            made = templates.call(model.yml_path, f"test_{kind}", arguments | {"model": model.relation})
            name = test.name or _test_name(kind, model.name, arguments)
            told = about.format(kind.replace("_", " "))
            yield Test(name, model.name, test.config.severity, made, told, model.yml_path)


def _singular_tests(templates: _Templates, order: list[str]) -> Iterator[Test]:
    for path in read_texts(templates.root, "tests/*.sql"):
        made = templates.render(path)
        about = " ".join(line[3:] for line in takewhile(lambda line: line[:2] == "--", made["sql"].splitlines()))
        # The last model it reads is the one that makes it fail: the others were there before.
        model = max(made["depends_on"], key=order.index)
        yield Test(path.stem, model, made["config"].get("severity", "error"), made["compiled"], about, path)


def _test_name(kind: str, model: str, arguments: Mapping[str, Any]) -> str:
    """As dbt names it: kind, model, then all arguments in the order of their names, the column among them."""
    lists = [value if isinstance(value, list) else [value] for _, value in sorted(arguments.items())]
    return f"{kind}_{model}_" + "__".join(re.sub(r"\W+", "_", str(part)) for parts in lists for part in parts)


def _build_model(con: "Connection", model: Model) -> ModelResult:
    started = clock.monotonic()
    # Brackets refuse a second statement; no line break before the model keeps DuckDB's line numbers.
    [(rows,)] = _run(con, f"create or replace table {model.relation} as ({model.compiled}\n)", model.path)
    made = {name: kind for name, kind, *_ in con.execute(f"describe {model.relation}").fetchall()}
    said = {column.name: re.sub(r"\s", "", column.data_type).upper() for column in model.columns}
    for name in (name for name in {**made, **said} if made.get(name) != said.get(name)):
        kinds = f"{said.get(name, 'missing')} here and {made.get(name, 'missing')} in what {model.path} makes"
        raise SqlProjectError(model.yml_path, f"the column {name} is {kinds}")
    return ModelResult(model.name, rows, clock.monotonic() - started)


def _describe(con: "Connection", tables: Collection[Table]) -> None:
    """Comment on the tables and columns that are there and do not say this yet."""
    words = {(table.schema_name, table.name, ""): table.comment for table in tables}
    words |= {(t.schema_name, t.name, column.name): column.description for t in tables for column in t.columns}
    rows = con.execute(
        "select schema_name, table_name, column_name, comment from duckdb_columns()"
        " where database_name = current_database() union all"
        " select schema_name, table_name, '', comment from duckdb_tables() where database_name = current_database()"
    ).fetchall()
    for *key, comment in rows:
        if (text := words.get(tuple(key), comment)) != comment:
            what = f"column {quoted(*key)}" if key[2] else f"table {quoted(*key[:2])}"
            con.execute(f"comment on {what} is {literal(text)}")


def _run(con: "Connection", query: str, path: Path) -> list[Any]:
    import duckdb

    try:
        return con.execute(query).fetchall()
    except duckdb.Error as error:
        raise SqlProjectError(path, f"DuckDB refuses this SQL: {error}") from error


def _sample(con: "Connection", test: Test) -> tuple[str, ...]:
    rows = con.execute(f"select * from ({test.compiled}\n) limit {SAMPLE_ROWS}")
    names = [column[0] for column in rows.description or []]
    shown = [", ".join(f"{n}={cell(v) or v}" for n, v in zip(names, row, strict=True)) for row in rows.fetchall()]
    return tuple(text[:SAMPLE_CHARACTERS] for text in shown)
