"""The Jinja in `.sql` files: checked when it is read, rendered when it is built.

Supported of dbt are `ref`, `source`, `var`, `config`, `{% set %}`, `{% for %}`, `{% if %}`, Jinja's own
filters and comments. All else is refused with file and line, never guessed at.
"""

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.sandbox import SandboxedEnvironment

FUNCTIONS = {"ref": 1, "source": 2, "var": 1, "config": 0}  # and how many texts each takes first
SUPPORTED = "supported are ref, source, var, config, set, for, if and comments"
REFUSED = (
    *(nodes.Macro, nodes.CallBlock, nodes.Block),
    *(nodes.Import, nodes.FromImport, nodes.Include, nodes.Extends),
)
OPTIONS: dict[str, tuple[Callable[[Any], bool], str]] = {  # of config(): what is right, and how to say it
    "materialized": (lambda value: value == "table", "'table': every model is a table"),
    "severity": (lambda value: value in ("error", "warn"), "'error' or 'warn'"),
    "where": (lambda value: isinstance(value, str), "a SQL condition"),
    "meta": (lambda value: isinstance(value, dict), "a mapping"),
    "tags": (
        lambda value: isinstance(value, list) and all(isinstance(v, str) for v in value),
        "a list of texts",
    ),
}


class SqlProjectError(Exception):
    """The SQL project is wrong or cannot be built; the message begins with file and line."""

    def __init__(self, file: Path, line: int | None, problem: str) -> None:
        super().__init__(f"{file}{f':{line}' if line else ''}: {problem}")


def check_option(file: Path, line: int | None, key: str, value: Any) -> Any:
    """The value of an option, if it may have it."""
    is_right, wanted = OPTIONS[key]
    if not is_right(value):
        raise SqlProjectError(file, line, f"{key} {value!r} is not supported; it can be {wanted}")
    return value


class Template:
    """A checked `.sql` file: what it reads, on which line, and what it says in config()."""

    def __init__(self, file: Path, text: str) -> None:
        self.file, self.text = file, text
        self.refs: dict[str, int] = {}
        self.sources: dict[str, int] = {}  # such as 'raw.model_usage'
        self._config: dict[str, tuple[Any, int]] = {}
        try:
            tree = _environment().parse(text)
        except jinja2.TemplateSyntaxError as error:
            self._fail(error, f"{error.message}; {SUPPORTED}")
        parts = list(tree.find_all((nodes.Call, nodes.Name, nodes.Filter, *REFUSED)))
        called = set()
        for part in parts:
            if (
                isinstance(part, nodes.Call)
                and isinstance(part.node, nodes.Name)
                and part.node.name in FUNCTIONS
            ):
                self._read_call(part, part.node.name)
                called.add(id(part.node))
        self._refuse_unknown([part for part in parts if id(part) not in called])

    def options(self, *known: str) -> dict[str, Any]:
        """The values given to config(), of which only the `known` may be there."""
        for key, (value, line) in self._config.items():
            if key not in known:
                problem = f"config({key}=…) is not supported; supported are {', '.join(known)}"
                raise SqlProjectError(self.file, line, problem)
            check_option(self.file, line, key, value)
        return {key: value for key, (value, _) in self._config.items()}

    def _fail(self, node: Any, problem: str) -> NoReturn:
        raise SqlProjectError(self.file, node.lineno, problem)

    def _read_call(self, call: nodes.Call, name: str) -> None:
        count = FUNCTIONS[name]
        has_default = name == "var" and len(call.args) == count + 1
        is_plain = not (call.dyn_args or call.dyn_kwargs or (call.kwargs and name != "config"))
        if not is_plain or len(call.args) - has_default != count:
            forms = "ref('model'), source('name', 'table'), var('name', default), config(key=value)"
            self._fail(call, f"{name} is not supported in this form; supported are {forms}")
        try:
            texts = [str(arg.as_const()) for arg in call.args[:count]]
            options = {pair.key: pair.value.as_const() for pair in call.kwargs}
        except nodes.Impossible:
            self._fail(
                call, f"{name} takes literal values only: what a file reads must be known without running it"
            )
        if name == "ref":
            self.refs.setdefault(texts[0], call.lineno)
        if name == "source":
            self.sources.setdefault(".".join(texts), call.lineno)
        self._config |= {key: (value, call.lineno) for key, value in options.items()}

    def _refuse_unknown(self, parts: list[nodes.Node]) -> None:
        stored = {part.name for part in parts if isinstance(part, nodes.Name) and part.ctx != "load"}
        known = stored - set(FUNCTIONS) | {"loop", "range"}
        for part in parts:
            if isinstance(part, nodes.Name) and part.name not in known:
                self._fail(part, f"{part.name} is not supported here; {SUPPORTED}")
            if isinstance(part, nodes.Filter) and part.name not in _environment().filters:
                self._fail(part, f"the filter {part.name} is not one of Jinja's own")
            if isinstance(part, REFUSED):
                self._fail(part, f"{type(part).__name__.lower()} is not supported; {SUPPORTED}")


def render(
    text: str,
    file: Path,
    *,
    ref: Callable[[str], str],
    source: Callable[[str, str], str],
    variables: Mapping[str, Any],
) -> str:
    """The SQL of a template that was checked before. Raises SqlProjectError."""

    def var(name: str, *default: Any) -> Any:
        if name not in variables and not default:
            raise LookupError(f"var {name!r} has no value: set it in dbt_project.yml or give a default")
        return variables.get(name, *default)

    try:
        template = _compiled(text, str(file))
        return template.render(ref=ref, source=source, var=var, config=lambda **_: "")
    except Exception as error:  # whatever an expression in a template may raise
        raise SqlProjectError(file, _line(error, str(file)), str(error)) from error


@cache
def _environment() -> SandboxedEnvironment:
    return SandboxedEnvironment(undefined=jinja2.StrictUndefined)


@cache
def _compiled(text: str, file: str) -> jinja2.Template:
    environment = _environment()
    code = environment.compile(text, name=file, filename=file)
    return environment.template_class.from_code(environment, code, {"range": range})


def _line(error: Exception, file: str) -> int | None:
    """Jinja gives its generated code the template's own file name and line numbers."""
    line, trace = getattr(error, "lineno", None), error.__traceback__
    while trace:
        line = trace.tb_lineno if trace.tb_frame.f_code.co_filename == file else line
        trace = trace.tb_next
    return line
