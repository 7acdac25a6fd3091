"""Builds the models of a dbt project with DuckDB alone: needs no dbt and knows no Dagster.

Every model is a table. Of dbt it knows ref, source, var, config, doc, macros, generic and singular tests. Contracts,
exposures and unit tests are left to dbt; whatever else a .yml says is refused.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from graphlib import CycleError, TopologicalSorter
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import yaml
from jinja2.sandbox import SandboxedEnvironment

from credits_pipeline import clock
from credits_pipeline.dbt_files import Config, GenericTest, SqlProjectError, Table, read_texts, read_yml
from credits_pipeline.text import cell, literal, quoted

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection as Connection

RAW_SCHEMAS = {"raw", "ops"}  # written by Python; a model's schema is emptied of what no model makes
SAMPLE_ROWS = 5  # failing rows that a test shows: enough to see the pattern
SAMPLE_CHARACTERS = 300  # of one such row: a whole reply in JSON would drown the rest

Variables = Mapping[str, Any]


@dataclass(frozen=True)
class Test:
    """A query that must find no row, named as dbt names it. The `sql` of a singular test is a template."""

    name: str
    model: str
    kind: str  # 'singular', or which generic test
    severity: str  # 'error' or 'warn'
    sql: str
    description: str
    path: Path


class Model(Table):
    """A `.sql` file and its description. Paths begin with the name of the project's folder."""

    path: Path
    yml_path: Path
    sql: str  # a template
    depends_on: tuple[str, ...] = ()  # names of models
    sources: tuple[str, ...] = ()  # such as 'raw.model_usage'
    tests: tuple[Test, ...] = ()


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
        return tuple(r for r in self.tests if not r.passed and r.test.severity == "error")

    @property
    def blocked(self) -> bool:
        return bool(self.blocking)


@dataclass(frozen=True)
class SqlProject:
    """Models in dependency order, sources by 'name.table', and the schemas that hold nothing else."""

    root: Path
    models: Mapping[str, Model]
    sources: Mapping[str, Table]
    schemas: tuple[str, ...]
    variables: Variables
    meta: Mapping[str, Any]  # what holds for every model, such as its owner
    macros: Mapping[Path, str]

    @classmethod
    def load(cls, root: Path) -> "SqlProject":
        """Read and check the project in `root`, opening no database. Raises SqlProjectError."""
        root = root.resolve()
        settings = yaml.safe_load((root / "dbt_project.yml").read_text("utf-8"))
        options = settings["models"][settings["name"]]
        schemas = {folder: part["+schema"] for folder, part in options.items() if folder[0] != "+"}
        if taken := RAW_SCHEMAS & {*schemas.values()}:
            problem = f"{', '.join(taken)} holds what cannot be built again: take another schema"
            raise SqlProjectError(Path(root.name, "dbt_project.yml"), None, problem)
        text = "".join(read_texts(root, "models/**/*.md").values())
        docs = dict(re.findall(r"{% docs (\w+) %}(.*?){% enddocs %}", text, re.DOTALL))
        ymls = {path: read_yml(path, text, docs) for path, text in read_texts(root, "models/**/*.yml").items()}
        groups = [group for yml in ymls.values() for group in yml.sources]
        sources = {f"{group.name}.{table.name}": table for group in groups for table in group.placed_tables}
        entries = {entry.name: (path, entry) for path, yml in ymls.items() for entry in yml.models}
        models = {}
        for path, sql in read_texts(root, "models/**/*.sql").items():
            if path.stem not in entries:
                raise SqlProjectError(path, None, f"is not described: write {path.stem}.yml beside it")
            if path.parts[2] not in schemas:
                raise SqlProjectError(path, None, f"models/{path.parts[2]} has no +schema in dbt_project.yml")
            yml_path, entry = entries.pop(path.stem)
            fields = {**dict(entry), "schema_name": schemas[path.parts[2]]}
            models[path.stem] = Model(**fields, path=path, yml_path=yml_path, sql=sql)
        for name, (path, _) in entries.items():
            raise SqlProjectError(path, None, f"{name} is described, but models/ holds no {name}.sql")
        macros = read_texts(root, "macros/*.sql")
        variables, meta = settings.get("vars", {}), options.get("+meta", {})
        return cls(root, models, sources, tuple(schemas.values()), variables, meta, macros)._connected()

    def _connected(self) -> "SqlProject":
        """The models in order, each with what it reads, found by rendering it, and with its tests."""
        models = {}
        for name, model in self.models.items():
            _, refs, sources, config = self._render(model.path, model.sql)
            found = {"depends_on": refs, "sources": sources, "config": model.config.model_copy(update=config)}
            models[name] = model.model_copy(update=found)
        try:
            order = [*TopologicalSorter({name: m.depends_on for name, m in models.items()}).static_order()]
        except CycleError as error:
            problem = f"models read each other in a circle: {' <- '.join(reversed(error.args[1]))}"
            raise SqlProjectError(models[error.args[1][0]].path, None, problem) from None
        tests = [*self._generic_tests(), *self._singular_tests(order)]
        ours = {name: tuple(test for test in tests if test.model == name) for name in order}
        return replace(self, models={n: models[n].model_copy(update={"tests": ours[n]}) for n in order})

    def _generic_tests(self) -> Iterator[Test]:
        for model in self.models.values():
            parts = [(dict[str, str](), f"The {{}} holds: {', '.join(model.primary_key)}.", model.data_tests)]
            parts += [({"column_name": c.name}, f"Column {c.name}: {{}}.", c.data_tests) for c in model.columns]
            for column, about, item in ((column, about, item) for column, about, items in parts for item in items):
                [(kind, test)] = {item: GenericTest()}.items() if isinstance(item, str) else item.items()
                given = {"model": model.relation, **test.arguments, **column}
                sql, *_ = self._render(model.yml_path, f"{{{{ test_{kind}(**{given}) }}}}")
                name = test.name or _test_name(kind, model.name, {**test.arguments, **column})
                told = about.format(kind.replace("_", " "))
                yield Test(name, model.name, kind, test.config.severity, sql, told, model.yml_path)

    def _singular_tests(self, order: list[str]) -> Iterator[Test]:
        for path, sql in read_texts(self.root, "tests/*.sql").items():
            _, refs, _, config = self._render(path, sql)
            if not refs:
                raise SqlProjectError(path, None, "a test reads at least one model by ref()")
            about = " ".join(line[3:] for line in takewhile(lambda line: line[:2] == "--", sql.splitlines()))
            # The last model it reads is the one that makes it fail: the others were there before.
            model = max(refs, key=order.index)
            yield Test(path.stem, model, "singular", config.get("severity", "error"), sql, about, path)

    def compile(self, item: Model | Test, variables: Variables | None = None) -> str:
        """The SQL that DuckDB is given for a model or a test."""
        is_template = isinstance(item, Model) or item.kind == "singular"
        return self._render(item.path, item.sql, variables)[0] if is_template else item.sql

    def _render(
        self, path: Path, template: str, variables: Variables | None = None
    ) -> tuple[str, tuple[str, ...], tuple[str, ...], dict[str, Any]]:
        """A template's SQL, the models and sources that it asked for, and what it says in config()."""
        known = {**self.variables, **(variables or {})}
        refs, sources, config = dict[str, str](), dict[str, str](), dict[str, Any]()

        def look_up(name: str, among: Mapping[str, Any], what: str, *default: Any) -> Any:
            if name not in among and not default:
                raise LookupError(f"there is no {what} named {name!r}")
            return among.get(name, *default)

        def source(group: str, table: str) -> str:
            name = f"{group}.{table}"
            return sources.setdefault(name, look_up(name, self.sources, "source").relation)

        context: dict[str, Any] = {
            "ref": lambda name: refs.setdefault(name, look_up(name, self.models, "model").relation),
            "source": source,
            "var": lambda name, *default: look_up(name, known, "var", *default),
            "config": lambda **given: config.update(Config(**given).model_dump(exclude_unset=True)) or "",
        }
        try:
            for file, macro in self.macros.items():
                module = vars(_template(file, macro).make_module(context))
                context |= {name: value for name, value in module.items() if name[0] != "_"}
            return _template(path, template).render(context), tuple(refs), tuple(sources), config
        except Exception as error:  # whatever an expression in a template may raise
            # Jinja gives its generated code the names and line numbers of the templates: the innermost counts.
            line, trace = getattr(error, "lineno", None), error.__traceback__
            while trace:
                if trace.tb_frame.f_code.co_filename.endswith(".sql"):
                    path, line = Path(trace.tb_frame.f_code.co_filename), trace.tb_lineno
                trace = trace.tb_next
            raise SqlProjectError(path, line, str(error)) from error

    def build(
        self, con: "Connection", select: Collection[str] | None = None, variables: Variables | None = None
    ) -> BuildResult:
        """Build, describe and test the selected models (default: all) inside the caller's transaction.

        A build of all models also empties the project's schemas of what neither is a model nor a source.
        A failing test raises nothing: see BuildResult.blocked. What cannot be built raises SqlProjectError.
        """
        for name in sorted(set(select or ()) - set(self.models)):
            raise SqlProjectError(Path(self.root.name), None, f"there is no model named {name!r}")
        chosen = [model for name, model in self.models.items() if select is None or name in select]
        for schema in dict.fromkeys(model.schema_name for model in chosen):
            con.execute(f"create schema if not exists {quoted(schema)}")
        dropped = self._drop_leftovers(con) if select is None else ()
        built = tuple(self._build_model(con, model, variables) for model in chosen)
        _describe(con, [*self.sources.values(), *chosen])
        tests = self.test(con, [test for model in chosen for test in model.tests], variables)
        return BuildResult(built, tests, dropped)

    def test(
        self, con: "Connection", tests: Collection[Test], variables: Variables | None = None
    ) -> tuple[TestResult, ...]:
        """Run tests on tables that are there already: those of one file in one query."""
        sql = {test.name: self.compile(test, variables) for test in tests}
        counts: dict[str, int] = {}
        for path in dict.fromkeys(test.path for test in tests):
            of_file = [test for test in tests if test.path == path]
            counted = ", ".join(f"(select count(*) from ({sql[test.name]}\n))" for test in of_file)
            [row] = _run(con, f"select {counted}", path, of_file[0].sql, sql[of_file[0].name])
            counts |= zip((test.name for test in of_file), row, strict=True)
        samples = {name: _sample(con, sql[name]) for name, count in counts.items() if count}
        return tuple(TestResult(test, counts[test.name], samples.get(test.name, ())) for test in tests)

    def _drop_leftovers(self, con: "Connection") -> tuple[str, ...]:
        """A model that left the project must not live on as a table that nobody refreshes."""
        kept = {("table", t.schema_name, t.name) for t in (*self.models.values(), *self.sources.values())}
        rows = con.execute(
            "select if(table_type = 'VIEW', 'view', 'table'), table_schema, table_name"
            " from information_schema.tables where table_catalog = current_database() order by all"
        ).fetchall()
        left = [row for row in rows if row[1] in self.schemas and row not in kept]
        for kind, *name in left:
            con.execute(f"drop {kind} {quoted(*name)}")
        return tuple(f"{schema}.{name}" for _, schema, name in left)

    def _build_model(self, con: "Connection", model: Model, variables: Variables | None) -> ModelResult:
        started, sql = clock.monotonic(), self.compile(model, variables)
        # Brackets refuse a second statement; no line break before the model keeps DuckDB's line numbers.
        query = f"create or replace table {model.relation} as ({sql}\n)"
        [(rows,)] = _run(con, query, model.path, model.sql, sql)
        made = {name: kind for name, kind, *_ in con.execute(f"describe {model.relation}").fetchall()}
        said = {column.name: re.sub(r"\s", "", column.data_type).upper() for column in model.columns}
        for name in (name for name in {**made, **said} if made.get(name) != said.get(name)):
            kinds = f"{said.get(name, 'missing')} here and {made.get(name, 'missing')} in what {model.path} makes"
            raise SqlProjectError(model.yml_path, None, f"the column {name} is {kinds}")
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


def _run(con: "Connection", query: str, path: Path, template: str, sql: str) -> list[Any]:
    import duckdb

    try:
        return con.execute(query).fetchall()
    except duckdb.Error as error:
        found = re.search(r"^LINE (\d+):", str(error), re.MULTILINE)
        # A template that renders to as many lines as it has keeps its numbering.
        has_same_lines = path.suffix == ".sql" and sql.rstrip().count("\n") == template.rstrip().count("\n")
        line = int(found[1]) if found and has_same_lines else None
        raise SqlProjectError(path, line, f"DuckDB refuses this SQL: {error}") from error


def _sample(con: "Connection", sql: str) -> tuple[str, ...]:
    rows = con.execute(f"select * from ({sql}\n) limit {SAMPLE_ROWS}")
    names = [column[0] for column in rows.description or []]
    shown = [", ".join(f"{n}={cell(v) or v}" for n, v in zip(names, row, strict=True)) for row in rows.fetchall()]
    return tuple(text[:SAMPLE_CHARACTERS] for text in shown)


@cache
def _template(path: Path, text: str) -> jinja2.Template:
    jinja = SandboxedEnvironment(undefined=jinja2.StrictUndefined)
    # To dbt, too, a generic test is a macro.
    text = re.sub(r"{% test (\w+)", r"{% macro test_\1", text).replace("{% endtest", "{% endmacro")
    return jinja.template_class.from_code(jinja, jinja.compile(text, str(path), str(path)), jinja.globals)


def _test_name(kind: str, model: str, arguments: Mapping[str, Any]) -> str:
    """As dbt names it: kind, model, then all arguments in the order of their names, the column among them."""
    lists = [value if isinstance(value, list) else [value] for _, value in sorted(arguments.items())]
    return f"{kind}_{model}_" + "__".join(re.sub(r"\W+", "_", str(part)) for parts in lists for part in parts)
