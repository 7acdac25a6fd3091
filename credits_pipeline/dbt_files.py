"""What the files of a dbt project may say: every `.yml` in pydantic models, which refuse what they do not know."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo

from credits_pipeline.errors import CreditsError
from credits_pipeline.text import quoted


class SqlProjectError(CreditsError):
    """The SQL project is wrong or cannot be built; the message begins with the file."""

    def __init__(self, file: Path, problem: str) -> None:
        super().__init__(f"{file}: {problem}")


class _Yml(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Config(_Yml):
    """Of a model its `meta`, of a test its `severity`."""

    severity: Literal["error", "warn"] = "error"
    meta: dict[str, Any] = {}


class GenericTest(_Yml):
    name: str = ""
    arguments: dict[str, Any] = {}
    config: Config = Config()


_Tests = Annotated[dict[str, GenericTest], BeforeValidator(lambda said: {said: {}} if isinstance(said, str) else said)]


def _with_docs(text: str, info: ValidationInfo) -> str:
    """On one line, with its doc blocks in place."""
    words = re.sub(r"{{ doc\('(\w+)'\) }}", lambda found: (info.context or {}).get(found[1], found[0]), text)
    if not words or "{{" in words:
        raise ValueError(f"{words!r} is no text, or names a doc block that no .md of models/ has")
    return " ".join(words.split())


class _Described(_Yml):
    name: str
    description: Annotated[str, AfterValidator(_with_docs)]
    data_tests: list[_Tests] = []


class Column(_Described):
    """A described column; `data_type` is DuckDB's name for it, such as DECIMAL(18,9)."""

    data_type: str


class Table(_Described):
    """A described table: a source, or the entry of a model."""

    columns: list[Column]
    config: Config = Config()
    schema_name: str = ""  # filled in by the loader

    @property
    def relation(self) -> str:
        return quoted(self.schema_name, self.name)

    @property
    def primary_key(self) -> list[str]:
        """Its columns, as the test `primary_key` names them."""
        found = [test["primary_key"] for test in self.data_tests if "primary_key" in test]
        return [name for test in found for name in test.arguments["columns"]]

    @property
    def comment(self) -> str:
        """What people are told of it: its description, then its primary key."""
        return self.description + (f" Primary key: {', '.join(self.primary_key)}." if self.primary_key else "")


class SourceGroup(_Yml):
    name: str
    description: str = ""
    schema_name: str = Field(alias="schema")
    tables: list[Table]


class YmlFile(_Yml):
    version: int = 2
    models: list[Table] = []
    sources: list[SourceGroup] = []
    exposures: list[Any] = []
    unit_tests: list[Any] = []


def read_texts(root: Path, pattern: str) -> dict[Path, str]:
    """Text by path, in order, without what an editor leaves beside a file."""
    paths = [path for path in sorted(root.glob(pattern)) if path.name[0] != "."]
    return {path.relative_to(root.parent): path.read_text("utf-8") for path in paths}


def read_yml(path: Path, text: str, docs: Mapping[str, str]) -> YmlFile:
    with named(path):
        return YmlFile.model_validate(parsed(text), context=docs)


def parsed(text: str) -> Any:
    return getattr(yaml, "CSafeLoader", yaml.SafeLoader)(text).get_single_data()


@contextmanager
def named(path: Path) -> Iterator[None]:
    """Whatever goes wrong inside is a SqlProjectError that names the file."""
    try:
        yield
    except Exception as error:  # an expression in a template may raise any
        raise SqlProjectError(path, str(error)) from error
