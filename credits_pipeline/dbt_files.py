"""Reads the files of a dbt project: models, descriptions, tests, sources. Opens no database, renders nothing.

Understood are `.yml` files with descriptions, data types and the tests `unique`, `not_null`,
`accepted_values` and `relationships`, and singular tests. All else is refused with file and line.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from graphlib import CycleError, TopologicalSorter
from itertools import takewhile
from pathlib import Path
from typing import Any, NoReturn

import yaml

from credits_pipeline import generic_tests
from credits_pipeline.sql_template import SqlProjectError, Template, check_option
from credits_pipeline.text import quoted

REFUSED_PATHS = ("packages.yml", "dependencies.yml", "seeds", "snapshots", "tests/generic")
RAW_SCHEMAS = ("raw", "ops")  # written by Python; a model's schema is emptied of what no model makes
HINTS = {
    "tests": "its present name is data_tests",
    "data_tests": "it stands under a column; a test of several columns is a .sql file in tests/",
    **dict.fromkeys(("values", "quote", "to", "field"), "arguments of a test stand under `arguments:`"),
    **dict.fromkeys(("severity", "where"), "it stands under `config:`"),
}

_NAME = re.compile(r"[a-z_][a-z0-9_]*")  # lower case: DuckDB takes Daily_Spend and daily_spend for one table
_REF = re.compile(r"""ref\(\s*(['"])(\w+)\1\s*\)""")
_JINJA_IN_YML = re.compile(r"^[^#\n]*\{[{%#]", re.MULTILINE)
_JINJA_OUTPUT = re.compile(r"\{\{.*?\}\}", re.DOTALL)


@dataclass(frozen=True)
class Column:
    """A described column; `data_type` is DuckDB's name for it, such as DECIMAL(18,9)."""

    name: str
    description: str
    data_type: str
    line: int = field(repr=False, compare=False)


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
    kind: str  # 'singular' or one of generic_tests.KINDS
    severity: str  # 'error' or 'warn'
    sql: str
    description: str
    path: Path
    line: int | None
    depends_on: tuple[str, ...]
    sources: tuple[str, ...]
    column: str | None = None
    where: str | None = None


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


@dataclass(frozen=True)
class _Yaml:
    """A piece of a `.yml` file that knows where it stands, so that every complaint names file and line."""

    file: Path
    node: yaml.Node

    @property
    def line(self) -> int:
        return int(self.node.start_mark.line) + 1

    def fail(self, problem: str) -> NoReturn:
        raise SqlProjectError(self.file, self.line, problem)

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

    def text(self) -> str:
        """A text, on one line."""
        text = " ".join(self.node.value.split()) if isinstance(self.node, yaml.ScalarNode) else ""
        return text or self.fail("expected a text")

    def name(self) -> str:
        return (
            self.text()
            if _NAME.fullmatch(self.text())
            else self.fail("a name is of lower-case letters, digits and underscores")
        )

    def value(self) -> Any:
        try:
            return yaml.constructor.SafeConstructor().construct_document(self.node)
        except yaml.MarkedYAMLError as error:
            self.fail(f"is no plain value: {error.problem}")

    def options(self, *known: str) -> dict[str, Any]:
        parts = self.fields(*known).items()
        return {key: check_option(self.file, part.line, key, part.value()) for key, part in parts}


class _Reader:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.schemas: dict[str, str] = {}  # by folder of models/
        self.variables: dict[str, Any] = {}
        self.sources: dict[str, Source] = {}
        self.entries: dict[str, _Yaml] = {}  # descriptions by model
        self.paths: dict[str, Path] = {}  # .sql files by model

    def read(self) -> ProjectFiles:
        for path in (self.root / name for name in REFUSED_PATHS):
            if path.exists():
                self._fail(path, "packages, seeds, snapshots and new kinds of tests are not supported")
        self._read_settings()
        for path in self._files("models", ".yml", ".yaml"):
            self._read_yml(path)
        self._find_models()
        models = self._ordered({name: self._model(path) for name, path in self.paths.items()})
        tests = self._tests(models)
        models = {n: replace(m, tests=tuple(t for t in tests if t.model == n)) for n, m in models.items()}
        return ProjectFiles(models, self.sources, tuple(self.schemas.values()), self.variables)

    def _shown(self, path: Path) -> Path:
        return path.relative_to(self.root.parent)

    def _fail(self, path: Path, problem: str) -> NoReturn:
        raise SqlProjectError(self._shown(path), None, problem)

    def _files(self, folder: str, *suffixes: str) -> list[Path]:
        found = (path for path in (self.root / folder).rglob("*") if path.suffix in suffixes)
        files = sorted(path for path in found if not path.name.startswith("."))  # an editor's lock, say
        for path in files:
            if path.suffix == ".sql" and not _NAME.fullmatch(path.stem):
                self._fail(path, "a name is of lower-case letters, digits and underscores")
        return files

    def _text(self, path: Path) -> str:
        try:
            return path.read_text(encoding="utf-8")
        except FileNotFoundError:
            self._fail(path, "is missing")
        except UnicodeDecodeError:
            self._fail(path, "is not UTF-8")

    def _yaml(self, path: Path) -> _Yaml:
        shown, text = self._shown(path), self._text(path)
        try:
            node = yaml.compose(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        except yaml.MarkedYAMLError as error:
            line = error.problem_mark.line + 1 if error.problem_mark else None
            raise SqlProjectError(shown, line, f"is no valid YAML: {error.problem}") from error
        if found := _JINJA_IN_YML.search(text):
            line = text.count("\n", 0, found.end()) + 1
            raise SqlProjectError(shown, line, "Jinja in .yml is not supported")
        return _Yaml(shown, node) if node else self._fail(path, "is empty")

    def _read_settings(self) -> None:
        fixed = {"model-paths": ["models"], "test-paths": ["tests"], "macro-paths": ["macros"]}
        free = ("name", "version", "config-version", "profile", "flags", "target-path", "clean-targets")
        project = self._yaml(self.root / "dbt_project.yml")
        settings = project.fields(*free, *fixed, "models", "vars")
        for key, value in fixed.items():
            if key in settings and settings[key].value() != value:
                settings[key].fail(f"{key} can only be {value}")
        name = project.required(settings, "name").text()
        for key, part in settings["vars"].fields().items() if "vars" in settings else ():
            if key == name:
                part.fail("vars of a package are not supported")
            self.variables[key] = part.value()
        folders = project.required(settings, "models")
        for key, part in folders.required(folders.fields(name), name).fields().items():
            if key == "+materialized":
                check_option(part.file, part.line, "materialized", part.value())
            elif not key.startswith("+"):
                self.schemas[key] = part.required(part.fields("+schema"), "+schema").name()
                if self.schemas[key] in RAW_SCHEMAS:
                    part.fail(f"{self.schemas[key]} holds what cannot be built again: take another schema")
            elif key != "+persist_docs":  # comments are written in any case
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
            title, about = (table.required(parts, part).text() for part in ("name", "description"))
            if f"{name}.{title}" in self.sources:
                table.fail(f"{name}.{title} is declared twice")
            self.sources[f"{name}.{title}"] = Source(schema, title, about, _columns(table, parts))

    def _find_models(self) -> None:
        for path in self._files("models", ".sql", ".py", ".csv"):
            if path.suffix != ".sql":
                self._fail(path, "a model is a .sql file: Python models and seeds are not supported")
            if path.stem in self.paths:
                self._fail(path, f"there is another model of this name: {self._shown(self.paths[path.stem])}")
            if path.stem not in self.entries:
                self._fail(path, f"is not described: write {path.stem}.yml beside it")
            self.paths[path.stem] = path
        for name, entry in self.entries.items():
            if name not in self.paths:
                entry.fail(f"{name} is described, but models/ holds no {name}.sql")

    def _template(self, path: Path) -> Template:
        template = Template(self._shown(path), self._text(path))
        for name, line in template.refs.items():
            if name not in self.paths:
                raise SqlProjectError(template.file, line, f"ref({name!r}): no model has this name")
        for key, line in template.sources.items():
            if key not in self.sources:
                raise SqlProjectError(template.file, line, f"source {key} is declared in no .yml of models/")
        return template

    def _schema(self, path: Path) -> str:
        folder = path.relative_to(self.root / "models").parts[0]
        if folder not in self.schemas:
            self._fail(path, f"models/{folder} has no +schema in dbt_project.yml")
        return self.schemas[folder]

    def _relation(self, name: str) -> str:
        return quoted(self._schema(self.paths[name]), name)

    def _model(self, path: Path) -> Model:
        template, entry = self._template(path), self.entries[path.stem]
        fields = entry.fields()
        known = ("materialized", "tags", "meta")
        inside = template.options(*known)
        beside = fields["config"].options(*known) if "config" in fields else {}
        return Model(
            name=path.stem,
            schema=self._schema(path),
            path=template.file,
            yml_path=entry.file,
            description=entry.required(fields, "description").text(),
            columns=_columns(entry, fields, "data_tests"),
            depends_on=tuple(template.refs),
            sources=tuple(template.sources),
            tests=(),
            meta={**beside.get("meta", {}), **inside.get("meta", {})},
            tags=(*beside.get("tags", ()), *inside.get("tags", ())),
            raw_sql=template.text,
        )

    def _ordered(self, models: dict[str, Model]) -> dict[str, Model]:
        upstream = {name: model.depends_on for name, model in models.items()}
        try:
            return {name: models[name] for name in TopologicalSorter(upstream).static_order()}
        except CycleError as error:
            circle = list(reversed(error.args[1]))
            self._fail(self.paths[circle[0]], f"models read each other in a circle: {' <- '.join(circle)}")

    def _tests(self, models: dict[str, Model]) -> list[Test]:
        tests = [test for model in models.values() for test in self._generic_tests(model)]
        tests += [self._singular_test(path, list(models)) for path in self._files("tests", ".sql")]
        names = set()
        for test in tests:
            if test.name in names:
                raise SqlProjectError(
                    test.path, test.line, f"there are two tests named {test.name}: rename one"
                )
            names.add(test.name)
        return tests

    def _singular_test(self, path: Path, order: list[str]) -> Test:
        template = self._template(path)
        options = template.options("severity", "meta", "tags")
        if not template.refs:
            self._fail(path, "a test reads at least one model by ref()")
        # The last model it reads is the one that makes it fail: the others were there before.
        model = str(options.get("meta", {}).get("model", max(template.refs, key=order.index)))
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
            line=None,
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
        parts: dict[str, _Yaml | None] = {item.text(): None} if is_bare else {**item.fields()}
        kind, body = next(iter(parts.items())) if len(parts) == 1 else item.fail("expected one test")
        if kind not in generic_tests.KINDS:
            item.fail(
                f"the test {kind} is not supported: use {', '.join(generic_tests.KINDS)} or write tests/….sql"
            )
        known = ("name", "description", "config", *(["arguments"] if generic_tests.KINDS[kind] else []))
        fields = body.fields(*known) if body else {}
        options = fields["config"].options("severity", "where") if "config" in fields else {}
        arguments = self._arguments(kind, item, fields)
        parent = self._relation(arguments["to"]) if "to" in arguments else ""
        name = generic_tests.name(kind, model.name, column, arguments)
        return Test(
            name=fields["name"].name() if "name" in fields else name,
            model=model.name,
            kind=kind,
            severity=options.get("severity", "error"),
            sql=generic_tests.sql(kind, _tested(model, options.get("where")), column, arguments, parent),
            description=fields["description"].text() if "description" in fields else "",
            path=item.file,
            line=item.line,
            depends_on=(model.name, *([arguments["to"]] if "to" in arguments else [])),
            sources=(),
            column=column,
            where=options.get("where"),
        )

    def _arguments(self, kind: str, item: _Yaml, fields: dict[str, _Yaml]) -> dict[str, Any]:
        takes = generic_tests.KINDS[kind]
        parts = fields["arguments"].fields(*takes) if "arguments" in fields else {}
        for name in takes:
            if name not in parts and name != "quote":
                item.fail(f"{kind} needs `{name}` under `arguments:`")
        values = {name: part.value() for name, part in parts.items()}
        if "values" in parts:
            parts["values"].items()
        if "to" in parts:
            found = _REF.fullmatch(str(values["to"]))
            if not found or found[2] not in self.paths:
                parts["to"].fail("`to` is the ref('…') of a model")
            values["to"] = found[2]
        return values


def _tested(model: Model, where: str | None) -> str:
    return f"(select * from {model.relation} where {where})" if where else model.relation


def _columns(entry: _Yaml, parts: dict[str, _Yaml], *more: str) -> tuple[Column, ...]:
    columns: dict[str, Column] = {}
    wanted = ("name", "description", "data_type")
    for item in entry.required(parts, "columns").items():
        fields = item.fields(*wanted, *more)
        name, about, kind = (item.required(fields, part).text() for part in wanted)
        if name in columns:
            item.fail(f"{name} is described twice")
        columns[name] = Column(name, about, kind, item.line)
    return tuple(columns.values())


def _header(sql: str) -> str:
    """The comment that a file begins with, before or after its config()."""
    lines = [line.strip() for line in _JINJA_OUTPUT.sub("", sql).strip().splitlines()]
    return " ".join(line.lstrip("- ") for line in takewhile(lambda line: line.startswith("--"), lines))
