"""A small world for tests of the SQL: an in-memory DuckDB with the real raw tables and the real models."""

import functools
import math
from collections.abc import Collection, Iterable, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from itertools import accumulate
from pathlib import Path
from typing import Any

import duckdb

from credits_pipeline.sql_project import BuildResult, SqlProject
from credits_pipeline.warehouse import MIGRATIONS

PROJECT = Path(__file__).parent.parent / "dbt_like_sql"
DAY = timedelta(days=1)
NANO = Decimal("0.000000001")
Row = dict[str, Any]


def usd(value: str | int | Decimal) -> Decimal:
    """Money as the tables hold it: nine decimals."""
    return Decimal(value).quantize(NANO)


def at(text: str) -> datetime:
    """'2026-01-05 00:05' as a naive UTC instant, as DuckDB hands it out."""
    return datetime.fromisoformat(text)


@functools.cache
def project() -> SqlProject:
    return SqlProject.load(PROJECT)


def create_marts(con: "duckdb.DuckDBPyConnection", *names: str) -> dict[str, dict[str, str]]:
    """Empty marts as their contracts say, for tests of what reads them; the type of each column, by mart."""
    models = project().models
    types = {name: {column.name: column.data_type for column in models[name].columns} for name in names}
    con.execute("create schema if not exists marts")
    for name, columns in types.items():
        con.execute(f"create table marts.{name} ({', '.join(' '.join(column) for column in columns.items())})")
    return types


class World:
    """Raw tables to fill, models to build, marts to look at."""

    def __init__(self) -> None:
        self.con = duckdb.connect()
        self.con.execute("set timezone = 'UTC'; set threads = 1")
        for migration in sorted(MIGRATIONS.glob("*.sql")):
            self.con.execute(migration.read_text(encoding="utf-8"))
        self.project = project()

    def empty(self) -> None:
        for table in (
            "credits_snapshots", "model_usage", "model_usage_days", "usage_breakdown", "usage_breakdown_days",
            "api_keys", "account_plans", "teams",
        ):  # fmt: skip
            self.con.execute(f"delete from raw.{table}")

    def read(
        self, when: str | datetime, credits: Any, usage: Any, account: str = "a", source: str = "api", run: str = "r"
    ) -> None:
        """A reading of the two counters."""
        instant = at(when) if isinstance(when, str) else when
        values = [account, instant.date(), instant, str(credits), str(usage), run, source]
        self.con.execute("insert into raw.credits_snapshots values (?, ?, ?, ?, ?, null, ?, ?, null)", values)

    def read_nightly(
        self, start: date, counters: Iterable[tuple[Any, Any] | None], account: str = "a", at: timedelta = timedelta(0)
    ) -> None:
        """Readings of credits and usage at each midnight from `start` on (or `at` after it), but for those of None."""
        read = [(midnight(start + n * DAY) + at, *map(str, pair)) for n, pair in enumerate(counters) if pair]
        self.con.execute(
            """
            insert into raw.credits_snapshots
            select $1, unnest($2::date[]), unnest($2), unnest($3), unnest($4), null, 'r', 'api', null
            """,
            [account, *map(list, zip(*read, strict=True))],
        )

    def spend_nightly(self, start: date, spend: Iterable[Any], credits: Any = 1000, **told: Any) -> date:
        """Readings from the beginning of the first day to the end of the last; the day after it."""
        usages = list(accumulate((usd(str(amount)) for amount in spend), initial=usd(0)))
        self.read_nightly(start, [(credits, usage) for usage in usages], **told)
        return start + (len(usages) - 1) * DAY

    def bill(
        self,
        day: str | date,
        total: Any,
        fetched: Any = None,
        account: str = "a",
        models: Mapping[str, Any] | None = None,
    ) -> None:
        """A fetched day, by default an hour after its end; its models, by default one."""
        day = date.fromisoformat(day) if isinstance(day, str) else day
        told = [account, day, str(total), fetched or datetime.combine(day + DAY, time(1))]
        self.con.execute("insert into raw.model_usage_days values (?, ?, ?::decimal(18,9), ?::timestamp, 'r')", told)
        parts = models if models is not None else ({"vendor/model": total} if Decimal(str(total)) else {})
        for model, part in parts.items():
            self.con.execute(
                "insert into raw.model_usage values (?, ?, ?, ?::decimal(18,9), 0, 1, 10, 20, 5, 2)",
                [account, day, model, str(part)],
            )

    def break_down(
        self, day: Any, members: Mapping[tuple[str, str], Any], dimension: str = "api_key", fetched: str = "2026-02-10",
        account: str = "a",
    ) -> None:  # fmt: skip
        """Who spent on a fetched day: USD by member and model, with a request and 15 tokens each."""
        total = sum(Decimal(usd) for usd in members.values())
        of = [account, day, dimension]
        self.con.execute("insert into raw.usage_breakdown_days values (?, ?, ?, ?, ?, 'r')", [*of, str(total), fetched])
        for (member, model), usd in members.items():
            self.con.execute(
                "insert into raw.usage_breakdown values (?, ?, ?, ?, ?, ?::decimal(18,9), 0, 1, 10, 5, 0, 0)",
                [*of, member, model, str(usd)],
            )

    def build(self, models: Collection[str]) -> None:
        """Build without the models' own tests: most of a build's time is theirs."""
        for name in self.project.models:
            if name in models:
                model = self.project.models[name]
                self.con.execute(f"create schema if not exists {model.schema_name}")
                self.con.execute(f"create or replace table {model.schema_name}.{name} as {model.compiled}")

    def needed(self, *marts: str) -> set[str]:
        """These models and whatever they are built from."""
        needed, left = set[str](), [*marts]
        while left:
            name = left.pop()
            if name in self.project.models and name not in needed:
                needed.add(name)
                left += self.project.models[name].depends_on
        return needed

    def build_for(self, *marts: str) -> None:
        self.build(self.needed(*marts))

    def build_and_test(self, models: Collection[str]) -> BuildResult:
        """Build as the pipeline does; a blocking test that fails is the caller's failure too."""
        result = self.project.build(self.con, models)
        assert not result.blocking, [test.message for test in result.blocking]
        return result

    def table(self, name: str, account: str | None = "a") -> list[Row]:
        """The rows of a mart in their order, of one account or (None) of all."""
        relation = f"{self.project.models[name].schema_name}.{name}"
        where = "" if account is None else "where account = $account"
        cursor = self.con.execute(f"select * from {relation} {where}", {} if account is None else {"account": account})
        names = [column[0] for column in cursor.description or ()]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def midnight(day: date) -> datetime:
    return datetime.combine(day, time())


def is_same(one: Any, other: Any, tolerance: float = 0) -> bool:
    """Equal within `tolerance`; a DOUBLE, or one in a list, to a billionth: a sum in another order may differ so."""
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=1e-9, abs_tol=tolerance) or (math.isnan(one) and math.isnan(other))
    if isinstance(one, Decimal) and isinstance(other, Decimal):
        return abs(one - other) <= tolerance
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(is_same(*pair, tolerance) for pair in zip(one, other, strict=True))
    return bool(one == other)
