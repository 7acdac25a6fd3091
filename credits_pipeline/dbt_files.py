"""Reads the files of a dbt project: models, singular tests, descriptions. Opens no database, renders nothing.

Understood of dbt: models and singular tests with `ref`, `source`, `var`, `config`, `{% set %}`, `{% for %}`,
`{% if %}` and comments; `.yml` files with descriptions, data types and the tests `unique`, `not_null`,
`accepted_values` and `relationships`. All else is refused with file and line, never guessed at.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from graphlib import CycleError, TopologicalSorter
from itertools import takewhile
from pathlib import Path
from typing import Any, NoReturn

import jinja2
import yaml
from jinja2 import nodes
from jinja2.sandbox import SandboxedEnvironment

GENERIC_TESTS = {  # and their arguments, all of which but `quote` are required
    "unique": (),
    "not_null": (),
    "accepted_values": ("values", "quote"),
    "relationships": ("to", "field"),
}
FUNCTIONS = ("ref", "source", "var", "config")
SUPPORTED_JINJA = "supported are ref, source, var, config, set, for, if and comments"
REFUSED_NODES = (nodes.Macro, nodes.CallBlock, nodes.Import, nodes.FromImport, nodes.Include, nodes.Extends)
REFUSED_PATHS = ("packages.yml", "dependencies.yml", "seeds", "snapshots", "tests/generic")
HINTS = {
    "tests": "its present name is data_tests",
    "values": "arguments of a test stand under `arguments:`",
    "to": "arguments of a test stand under `arguments:`",
    "severity": "it stands under `config:`",
    "where": "it stands under `config:`",
}

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_REF = re.compile(r"""ref\(\s*(['"])(\w+)\1\s*\)""")
_NOT_IN_A_NAME = re.compile(r"[^0-9a-zA-Z_]+")
_JINJA_IN_YML = re.compile(r"^[^#\n]*\{[{%#]", re.MULTILINE)


class SqlProjectError(Exception):
    """The SQL project is wrong or cannot be built; the message begins with file and line."""

    def __init__(self, file: Path, line: int | None, problem: str) -> None:
        super().__init__(f"{file}{f':{line}' if line else ''}: {problem}")


@dataclass(frozen=True)
class Column:
    """A documented column; `data_type` is spelled as DuckDB spells it, such as DECIMAL(18,9)."""

    name: str
    description: str
    data_type: str
    line: int = field(default=0, repr=False, compare=False)


@dataclass(frozen=True)
class Source:
    """A table that the SQL reads and does not make."""

    schema: str
    table: str
    description: str
    columns: tuple[Column, ...]


@dataclass(frozen=True)
class Test:
    """A query that must find no row, named as dbt names it. The `sql` of a singular test is a template."""

    name: str
    model: str
    kind: str  # 'singular' or one of GENERIC_TESTS
    severity: str  # 'error' or 'warn'
    sql: str
    description: str
    path: Path
    depends_on: tuple[str, ...]
    sources: tuple[str, ...] = ()
    where: str | None = None
    line: int | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True)
class Model:
    """A `.sql` file and its description. Paths begin with the name of the project's folder."""

    name: str
    schema: str
    path: Path
    yml_path: Path
    description: str
    columns: tuple[Column, ...]
    depends_on: tuple[str, ...]  # names of models
    sources: tuple[str, ...]  # such as 'raw.model_usage'
    tests: tuple[Test, ...]
    meta: Mapping[str, Any]
    tags: tuple[str, ...]
    raw_sql: str

    @property
    def relation(self) -> str:
        """Its table, as SQL names it."""
        return quoted(self.schema, self.name)


def quoted(*parts: str) -> str:
    """A SQL identifier, such as "marts"."daily_spend"."""
    return ".".join('"' + part.replace('"', '""') + '"' for part in parts)


def literal(text: str) -> str:
    """A SQL string."""
    return "'" + text.replace("'", "''") + "'"


@cache
def environment() -> SandboxedEnvironment:
    return SandboxedEnvironment(undefined=jinja2.StrictUndefined)


def _check_option(file: Path, line: int, key: str, value: Any) -> None:
    """A value of config(), in a `.sql` or a `.yml` file."""
    is_right = {
        "materialized": value == "table",
        "severity": value in ("error", "warn"),
        "where": isinstance(value, str),
        "meta": isinstance(value, dict),
        "tags": isinstance(value, list) and all(isinstance(tag, str) for tag in value),
    }
    wanted = {
        "materialized": "'table': every model is a table",
        "severity": "'error' or 'warn'",
        "where": "a SQL condition",
        "meta": "a mapping",
        "tags": "a list of texts",
    }
    if not is_right[key]:
        raise SqlProjectError(file, line, f"{key} {value!r} is not supported; it can be {wanted[key]}")


class _Template:
    """What a `.sql` file asks for, and on which line. Refuses what it does not know."""

    def __init__(self, file: Path, text: str) -> None:
        self.file, self.text = file, text
        self.refs: dict[str, int] = {}
        self.sources: dict[str, int] = {}
        self.config: dict[str, tuple[Any, int]] = {}
        try:
            tree = environment().parse(text)
        except jinja2.TemplateSyntaxError as error:
            self.fail(error, f"{error.message}; {SUPPORTED_JINJA}")
        called = set()
        for call in tree.find_all(nodes.Call):
            if isinstance(call.node, nodes.Name) and call.node.name in FUNCTIONS:
                self._read_call(call, call.node.name)
                called.add(id(call.node))
        self._refuse_unknown(tree, called)

    def fail(self, node: Any, problem: str) -> NoReturn:
        raise SqlProjectError(self.file, node.lineno, problem)

    def _refuse_unknown(self, tree: nodes.Template, called: set[int]) -> None:
        names = list(tree.find_all(nodes.Name))
        assigned = {name.name for name in names if name.ctx != "load"} - set(FUNCTIONS)
        for name in names:
            if id(name) not in called and name.name not in assigned | {"loop", "range"}:
                self.fail(name, f"{name.name} is not supported here; {SUPPORTED_JINJA}")
        for node in tree.find_all((*REFUSED_NODES, nodes.Block)):
            self.fail(node, f"{type(node).__name__.lower()} is not supported; {SUPPORTED_JINJA}")
        for used in tree.find_all(nodes.Filter):
            if used.name not in environment().filters:
                self.fail(used, f"the filter {used.name} is not one of Jinja's own")

    def _read_call(self, call: nodes.Call, name: str) -> None:
        try:
            args = [arg.as_const() for arg in call.args] if name != "var" else [call.args[0].as_const()]
            options = {pair.key: pair.value.as_const() for pair in call.kwargs} if name == "config" else {}
        except (nodes.Impossible, IndexError):
            self.fail(
                call, f"{name} takes literal values only: what a model reads must be known without running it"
            )
        counts = {"ref": 1, "source": 2, "var": 1, "config": 0}
        is_plain = not (call.dyn_args or call.dyn_kwargs or (call.kwargs and name != "config"))
        if not is_plain or len(args) != counts[name] or not all(isinstance(arg, str) for arg in args):
            forms = "ref('model'), source('name', 'table'), var('name', default), config(key=value)"
            self.fail(call, f"{name} is not supported in this form; supported are {forms}")
        if name == "ref":
            self.refs.setdefault(args[0], call.lineno)
        if name == "source":
            self.sources.setdefault(".".join(args), call.lineno)
        self.config |= {key: (value, call.lineno) for key, value in options.items()}

    def options(self, *known: str) -> dict[str, Any]:
        """The values given to config()."""
        for key, (value, line) in self.config.items():
            if key not in known:
                raise SqlProjectError(
                    self.file, line, f"config({key}=…) is not supported; supported: {known}"
                )
            _check_option(self.file, line, key, value)
        return {key: value for key, (value, _) in self.config.items()}


@dataclass(frozen=True)
class _Yaml:
    """A piece of a `.yml` file that knows where it stands, so that every complaint names file and line."""

    file: Path
    node: yaml.Node

    def fail(self, problem: str) -> NoReturn:
        raise SqlProjectError(self.file, self.line, problem)

    @property
    def line(self) -> int:
        return int(self.node.start_mark.line) + 1

    def fields(self, *known: str) -> "dict[str, _Yaml]":
        """The parts of a mapping; with `known`, no other key may stand in it."""
        if not isinstance(self.node, yaml.MappingNode):
            self.fail(f"expected a mapping with {', '.join(known) or 'names'}")
        parts: dict[str, _Yaml] = {}
        for key, value in self.node.value:
            name, at = str(key.value), _Yaml(self.file, key)
            if known and name not in known:
                at.fail(
                    f"{name} is not supported here: {HINTS.get(name, 'supported are ' + ', '.join(known))}"
                )
            if name in parts:
                at.fail(f"{name} is given twice")
            parts[name] = _Yaml(self.file, value)
        return parts

    def required(self, parts: "dict[str, _Yaml]", name: str) -> "_Yaml":
        return parts[name] if name in parts else self.fail(f"{name} is missing here")

    def items(self) -> "list[_Yaml]":
        if not isinstance(self.node, yaml.SequenceNode):
            self.fail("expected a list")
        return [_Yaml(self.file, node) for node in self.node.value]

    def value(self) -> Any:
        return yaml.constructor.SafeConstructor().construct_document(self.node)

    def text(self) -> str:
        """A text on one line."""
        text = " ".join(self.node.value.split()) if isinstance(self.node, yaml.ScalarNode) else ""
        return text or self.fail("expected a text")


@dataclass(frozen=True)
class ProjectFiles:
    """Models in dependency order, sources by 'name.table', and the schemas that hold nothing else."""

    models: Mapping[str, Model]
    sources: Mapping[str, Source]
    schemas: tuple[str, ...]
    variables: Mapping[str, Any]


def read(root: Path) -> ProjectFiles:
    """Read and check the project in the folder `root`. Raises SqlProjectError."""
    return _Reader(root.resolve()).read()


class _Reader:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.schemas: dict[str, str] = {}  # by folder of models/
        self.variables: dict[str, Any] = {}
        self.sources: dict[str, Source] = {}
        self.entries: dict[str, _Yaml] = {}  # descriptions of models
        self.paths: dict[str, Path] = {}  # of models

    def read(self) -> ProjectFiles:
        for path in (self.root / name for name in REFUSED_PATHS):
            if path.exists():
                self._fail(path, "packages, seeds, snapshots and new kinds of tests are not supported")
        self._read_settings()
        for path in self._files("models", ".yml", ".yaml"):
            self._read_yml(path)
        self._find_models()
        models = {model.name: model for model in map(self._model, self.paths.values())}
        tests = self._tests(ordered := self._ordered(models))
        ordered = {n: replace(m, tests=tuple(t for t in tests if t.model == n)) for n, m in ordered.items()}
        return ProjectFiles(ordered, self.sources, tuple(self.schemas.values()), self.variables)

    def _shown(self, path: Path) -> Path:
        return path.relative_to(self.root.parent)

    def _fail(self, path: Path, problem: str) -> NoReturn:
        raise SqlProjectError(self._shown(path), None, problem)

    def _files(self, folder: str, *suffixes: str) -> list[Path]:
        return sorted(p for p in (self.root / folder).rglob("*") if p.suffix in suffixes)

    def _yaml(self, path: Path) -> _Yaml:
        shown = self._shown(path)
        try:
            text = path.read_text(encoding="utf-8")
            node = yaml.compose(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        except FileNotFoundError:
            self._fail(path, "is missing")
        except yaml.MarkedYAMLError as error:
            line = error.problem_mark.line + 1 if error.problem_mark else None
            raise SqlProjectError(shown, line, f"is no valid YAML: {error.problem}") from error
        if found := _JINJA_IN_YML.search(text):
            raise SqlProjectError(
                shown, text.count("\n", 0, found.end()) + 1, "Jinja in .yml is not supported"
            )
        if node is None:
            self._fail(path, "is empty")
        return _Yaml(shown, node)

    def _template(self, path: Path) -> _Template:
        template = _Template(self._shown(path), path.read_text(encoding="utf-8"))
        for name, line in template.refs.items():
            if name not in self.paths:
                raise SqlProjectError(template.file, line, f"ref({name!r}): no model has this name")
        for key, line in template.sources.items():
            if key not in self.sources:
                raise SqlProjectError(template.file, line, f"source {key} is declared in no .yml of models/")
        return template

    def _read_settings(self) -> None:
        fixed = {"model-paths": ["models"], "test-paths": ["tests"], "macro-paths": ["macros"]}
        free = ("name", "version", "config-version", "profile", "flags", "target-path", "clean-targets")
        settings = self._yaml(self.root / "dbt_project.yml").fields(*free, *fixed, "models", "vars")
        for key, value in fixed.items():
            if key in settings and settings[key].value() != value:
                settings[key].fail(f"{key} can only be {value}")
        if "vars" in settings:
            self.variables = {name: part.value() for name, part in settings["vars"].fields().items()}
        name = settings["name"].text() if "name" in settings else ""
        for key, part in (
            settings["models"].fields(name)[name].fields().items() if "models" in settings else ()
        ):
            if key == "+materialized":
                _check_option(part.file, part.line, "materialized", part.value())
            elif not key.startswith("+"):
                self.schemas[key] = part.fields("+schema")["+schema"].text()
            elif key != "+persist_docs":  # comments are always written
                part.fail(f"{key} is not supported")

    def _read_yml(self, path: Path) -> None:
        parts = self._yaml(path).fields("version", "models", "sources")
        for entry in parts["models"].items() if "models" in parts else ():
            fields = entry.fields("name", "description", "config", "columns")
            name = entry.required(fields, "name").text()
            if name in self.entries:
                entry.fail(f"{name} is described twice, first in {self.entries[name].file}")
            self.entries[name] = entry
        for entry in parts["sources"].items() if "sources" in parts else ():
            self._read_source(entry)

    def _read_source(self, entry: _Yaml) -> None:
        fields = entry.fields("name", "schema", "description", "tables")
        name = entry.required(fields, "name").text()
        schema = fields["schema"].text() if "schema" in fields else name
        for table in entry.required(fields, "tables").items():
            parts = table.fields("name", "description", "columns")
            title, about = table.required(parts, "name").text(), table.required(parts, "description").text()
            columns = tuple(map(_column, table.required(parts, "columns").items()))
            self.sources[f"{name}.{title}"] = Source(schema, title, about, columns)

    def _find_models(self) -> None:
        for path in self._files("models", ".sql", ".py", ".csv"):
            if path.suffix != ".sql":
                self._fail(path, "a model is a .sql file: Python models and seeds are not supported")
            if not _NAME.fullmatch(path.stem):
                self._fail(path, "a model's name is of letters, digits and underscores")
            if path.stem in self.paths:
                self._fail(path, f"there is another model of this name: {self._shown(self.paths[path.stem])}")
            if path.stem not in self.entries:
                self._fail(path, f"is not described: write {path.stem}.yml beside it")
            self.paths[path.stem] = path
        for name, entry in self.entries.items():
            if name not in self.paths:
                entry.fail(f"{name} is described, but models/ holds no {name}.sql")

    def _schema(self, path: Path) -> str:
        folder = path.relative_to(self.root / "models").parts[0]
        if folder not in self.schemas:
            self._fail(path, f"models/{folder} has no +schema in dbt_project.yml")
        return self.schemas[folder]

    def _model(self, path: Path) -> Model:
        template, entry = self._template(path), self.entries[path.stem]
        fields = entry.fields()
        inside = template.options("materialized", "tags", "meta")
        config = {}
        for key, part in (
            fields["config"].fields("materialized", "tags", "meta").items() if "config" in fields else ()
        ):
            config[key] = part.value()
            _check_option(part.file, part.line, key, config[key])
        return Model(
            name=path.stem,
            schema=self._schema(path),
            path=template.file,
            yml_path=entry.file,
            description=entry.required(fields, "description").text(),
            columns=tuple(map(_column, entry.required(fields, "columns").items())),
            depends_on=tuple(template.refs),
            sources=tuple(template.sources),
            tests=(),
            meta={**config.get("meta", {}), **inside.get("meta", {})},
            tags=(*config.get("tags", ()), *inside.get("tags", ())),
            raw_sql=template.text,
        )

    def _ordered(self, models: dict[str, Model]) -> dict[str, Model]:
        try:
            order = list(TopologicalSorter({n: m.depends_on for n, m in models.items()}).static_order())
        except CycleError as error:
            cycle = list(reversed(error.args[1]))
            self._fail(self.paths[cycle[0]], f"models read each other in a circle: {' <- '.join(cycle)}")
        return {name: models[name] for name in order}

    def _tests(self, models: dict[str, Model]) -> list[Test]:
        tests = [t for m in models.values() for t in self._generic_tests(m)]
        tests += [self._singular_test(path, list(models)) for path in self._files("tests", ".sql")]
        seen: dict[str, Test] = {}
        for test in tests:
            if test.name in seen:
                raise SqlProjectError(
                    test.path, test.line, f"there are two tests named {test.name}: give one a `name:`"
                )
            seen[test.name] = test
        return tests

    def _singular_test(self, path: Path, order: list[str]) -> Test:
        template = self._template(path)
        options = template.options("severity", "meta", "tags")
        if not template.refs:
            self._fail(path, "a test reads at least one model by ref()")
        # The last model it reads is the one that can make it fail: all others were there before.
        model = (options.get("meta") or {}).get("model") or max(template.refs, key=order.index)
        if model not in self.paths:
            self._fail(path, f"meta names the model {model}, which does not exist")
        return Test(
            name=path.stem,
            model=model,
            kind="singular",
            severity=options.get("severity", "error"),
            sql=template.text,
            description=_header(template.text),
            path=template.file,
            depends_on=tuple(template.refs),
            sources=tuple(template.sources),
        )

    def _generic_tests(self, model: Model) -> Iterator[Test]:
        for column in self.entries[model.name].fields()["columns"].items():
            fields = column.fields()
            for item in fields["data_tests"].items() if "data_tests" in fields else ():
                yield self._generic_test(model, fields["name"].text(), item)

    def _generic_test(self, model: Model, column: str, item: _Yaml) -> Test:
        is_bare = isinstance(item.node, yaml.ScalarNode)
        body: dict[str, _Yaml | None] = {item.text(): None} if is_bare else {**item.fields()}
        [(kind, details)] = list(body.items())[:1] if len(body) == 1 else item.fail("expected one test")
        if kind not in GENERIC_TESTS:
            item.fail(f"the test {kind} is not supported: use {', '.join(GENERIC_TESTS)} or tests/*.sql")
        known = ("name", "description", "config", *(["arguments"] if GENERIC_TESTS[kind] else []))
        fields = details.fields(*known) if details else {}
        config = fields["config"].fields("severity", "where") if "config" in fields else {}
        options = {key: part.value() for key, part in config.items()}
        for key, part in config.items():
            _check_option(part.file, part.line, key, options[key])
        arguments = self._arguments(kind, item, fields)
        tested = _relation(model, options.get("where"))
        parent = [arguments["to"]] if kind == "relationships" else []
        name = _generic_name(kind, model.name, {**arguments, "column_name": column})
        return Test(
            name=fields["name"].text() if "name" in fields else name,
            model=model.name,
            kind=kind,
            severity=options.get("severity", "error"),
            sql=self._generic_sql(kind, quoted(column), tested, arguments),
            description=fields["description"].text() if "description" in fields else "",
            path=item.file,
            depends_on=(model.name, *parent),
            where=options.get("where"),
            line=item.line,
        )

    def _arguments(self, kind: str, item: _Yaml, fields: dict[str, _Yaml]) -> dict[str, Any]:
        takes = GENERIC_TESTS[kind]
        parts = fields["arguments"].fields(*takes) if "arguments" in fields else {}
        for name in takes:
            if name not in parts and name != "quote":
                item.fail(f"{kind} needs `{name}` under `arguments:`")
        values = {name: part.value() for name, part in parts.items()}
        if "to" in values:
            found = _REF.fullmatch(str(values["to"]))
            if not found or found[2] not in self.paths:
                parts["to"].fail("`to` is the ref('…') of a model")
            values["to"] = found[2]
        return values

    def _generic_sql(self, kind: str, column: str, tested: str, arguments: dict[str, Any]) -> str:
        if kind == "not_null":
            return f"select * from {tested} where {column} is null"
        if kind == "unique":
            return (
                f"select {column}, count(*) as n_records from {tested} where {column} is not null"
                f" group by {column} having count(*) > 1"
            )
        if kind == "accepted_values":
            is_text = arguments.get("quote", True)
            values = ", ".join(literal(str(v)) if is_text else str(v) for v in arguments["values"])
            return (
                f"select {column}, count(*) as n_records from {tested} where {column} not in ({values})"
                f" group by {column}"
            )
        parent = quoted(self._schema(self.paths[arguments["to"]]), arguments["to"])
        return (
            f"select * from {tested} as child where {column} is not null and not exists"
            f" (select 1 from {parent} as parent where parent.{quoted(arguments['field'])} = child.{column})"
        )


def _relation(model: Model, where: str | None) -> str:
    return f"(select * from {model.relation} where {where})" if where else model.relation


def _generic_name(kind: str, model: str, arguments: Mapping[str, Any]) -> str:
    """As dbt names it: kind, model, then all arguments by name."""
    values = {**arguments, "to": f"ref('{arguments['to']}')"} if "to" in arguments else arguments
    lists = [value if isinstance(value, list) else [value] for _, value in sorted(values.items())]
    parts = [_NOT_IN_A_NAME.sub("_", str(part)) for items in lists for part in items]
    return f"{kind}_{model}_{'__'.join(parts)}"


def _column(entry: _Yaml) -> Column:
    fields = entry.fields("name", "description", "data_type", "data_tests")
    name, about, kind = (entry.required(fields, part).text() for part in ("name", "description", "data_type"))
    return Column(name, about, kind, entry.line)


def _header(sql: str) -> str:
    """The comment that a file begins with; config() may stand before it."""
    lines = [line.strip() for line in re.sub(r"\{\{.*?\}\}", "", sql, flags=re.DOTALL).strip().splitlines()]
    return " ".join(line.lstrip("- ") for line in takewhile(lambda line: line.startswith("--"), lines))
