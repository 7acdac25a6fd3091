"""A small world for tests of the SQL: an in-memory DuckDB with the real raw tables and the real models.

And `ByHand`: what the daily figures must be, computed a second time in plain Python with exact fractions,
from the definitions and without a glance at the SQL.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import ROUND_HALF_UP, Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import duckdb

from credits_pipeline.sql_project import BuildResult, SqlProject
from credits_pipeline.warehouse import MIGRATIONS

PROJECT = Path(__file__).parent.parent / "dbt_like_sql"
CORE = (
    "stg_credits_snapshots",
    "stg_model_usage_days",
    "int_midnights",
    "credits_readings",
    "daily_spend",
    "daily_balance",
    "credit_events",
    "daily_spend_by_model",
    "spend_reconciliation",
    "spend_reconciliation_monthly",
    "daily_metrics_long",
)
DAY = timedelta(days=1)
NEAR = timedelta(hours=2)
NANO = Decimal("0.000000001")
Row = dict[str, Any]


def usd(value: str | int | Decimal) -> Decimal:
    """Money as the tables hold it: nine decimals."""
    return Decimal(value).quantize(NANO)


def at(text: str) -> datetime:
    """'2026-01-05 00:05' as a naive UTC instant, as DuckDB hands it out."""
    return datetime.fromisoformat(text)


class World:
    """Raw tables to fill, models to build, marts to look at."""

    def __init__(self) -> None:
        self.con = duckdb.connect()
        self.con.execute("set timezone = 'UTC'; set threads = 1")
        for migration in sorted(MIGRATIONS.glob("*.sql")):
            self.con.execute(migration.read_text(encoding="utf-8"))
        self.project = SqlProject.load(PROJECT)

    def empty(self) -> None:
        for table in ("credits_snapshots", "model_usage", "model_usage_days"):
            self.con.execute(f"delete from raw.{table}")

    def read(
        self,
        when: str | datetime,
        credits: Any,
        usage: Any,
        account: str = "a",
        source: str = "api",
        run: str = "r",
    ) -> None:
        """A reading of the two counters."""
        instant = at(when) if isinstance(when, str) else when
        self.con.execute(
            """
            insert into raw.credits_snapshots
            values (?, ?, ?, ?::decimal(18,9), ?::decimal(18,9), null, ?, ?, null)
            """,
            [account, instant.date(), instant, str(credits), str(usage), run, source],
        )

    def bill(
        self,
        day: str | date,
        total: Any,
        fetched: str | datetime | None = None,
        account: str = "a",
        models: Mapping[str, Any] | None = None,
    ) -> None:
        """A fetched day, by default an hour after its end; its models, by default one."""
        day = date.fromisoformat(day) if isinstance(day, str) else day
        if fetched is None:
            fetched = datetime.combine(day + DAY, time(1))
        elif isinstance(fetched, str):
            fetched = at(fetched)
        self.con.execute(
            "insert into raw.model_usage_days values (?, ?, ?::decimal(18,9), ?, 'r')",
            [account, day, str(total), fetched],
        )
        parts = models if models is not None else ({"vendor/model": total} if Decimal(str(total)) else {})
        for model, part in parts.items():
            self.con.execute(
                "insert into raw.model_usage values (?, ?, ?, ?::decimal(18,9), 0, 1, 10, 20, 5, 2)",
                [account, day, model, str(part)],
            )

    def build(self, models: Collection[str] = CORE) -> None:
        """Build without the models' own tests: most of a build's time is theirs."""
        for name in self.project.models:
            if name in models:
                model = self.project.models[name]
                self.con.execute(f"create schema if not exists {model.schema_name}")
                self.con.execute(
                    f"create or replace table {model.schema_name}.{name} as {self.project.compile(model)}"
                )

    def build_and_test(self, models: Collection[str] = CORE) -> BuildResult:
        """Build as the pipeline does; a blocking test that fails is the caller's failure too."""
        result = self.project.build(self.con, models)
        assert not result.blocked, [test.message for test in result.blocking]
        return result

    def table(self, name: str, account: str | None = "a") -> list[Row]:
        """The rows of a mart in their order, of one account or (None) of all."""
        relation = f"{self.project.models[name].schema_name}.{name}"
        where = "" if account is None else "where account = $account"
        cursor = self.con.execute(
            f"select * from {relation} {where}", {} if account is None else {"account": account}
        )
        names = [column[0] for column in cursor.description or ()]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]

    def days(self, name: str = "daily_spend", key: str = "spend_date", account: str = "a") -> dict[str, Row]:
        """The rows of a daily mart by 'MM-DD'."""
        return {f"{row[key]:%m-%d}": row for row in self.table(name, account)}


@dataclass(frozen=True)
class Reading:
    at: datetime
    credits: Decimal
    usage: Decimal


@dataclass(frozen=True)
class Bill:
    usd: Decimal
    fetched_at: datetime


def midnight(day: date) -> datetime:
    return datetime.combine(day, time())


class ByHand:
    """One account's figures from their definitions; readings in order of time, each instant once."""

    def __init__(self, readings: Iterable[Reading], bills: Mapping[date, Bill]) -> None:
        self.readings = sorted(readings, key=lambda reading: reading.at)
        self.bills = dict(bills)

    def days(self) -> list[date]:
        billed = [day for day, bill in self.bills.items() if bill.usd > 0]
        whole = [day for day in self.bills if self.billed_after_end(day)]
        known = billed + [reading.at.date() for reading in self.readings]
        end = [reading.at.date() for reading in self.readings] or whole
        if not known or not end:
            return []
        return [min(known) + n * DAY for n in range((max(end) - min(known)).days + 1)]

    def billed_after_end(self, day: date) -> bool:
        return day in self.bills and self.bills[day].fetched_at >= midnight(day + DAY)

    def usage_at(self, day: date) -> Decimal | None:
        """Usage at the midnight that begins the day."""
        instant = midnight(day)
        before = [reading for reading in self.readings if reading.at <= instant]
        after = [reading for reading in self.readings if reading.at >= instant]
        if not before or not after:
            return None
        left, right = before[-1], after[0]
        if left.at == right.at:
            return left.usage
        elapsed = Fraction((instant - left.at) // timedelta(microseconds=1))
        total = Fraction((right.at - left.at) // timedelta(microseconds=1))
        share = Fraction(right.usage - left.usage) * elapsed / total
        nano = abs(share) * 10**9
        rounded = int(nano) + (1 if nano - int(nano) >= Fraction(1, 2) else 0)
        return left.usage + (Decimal(rounded) * NANO if share >= 0 else -Decimal(rounded) * NANO)

    def is_near(self, day: date) -> bool:
        return any(abs(reading.at - midnight(day)) <= NEAR for reading in self.readings)

    def observed(self, day: date) -> Decimal | None:
        if not self.readings or day < self.readings[0].at.date():
            return None
        first, newest = self.readings[0], self.readings[-1]
        start = first.usage if day == first.at.date() else self.usage_at(day)
        end = newest.usage if day == newest.at.date() else self.usage_at(day + DAY)
        assert start is not None
        assert end is not None
        return end - start

    def spend(self, day: date) -> Row:
        billed = self.bills[day].usd if day in self.bills else None
        over = any(reading.at >= midnight(day + DAY) for reading in self.readings) or self.billed_after_end(
            day
        )
        if self.is_near(day) and (self.is_near(day + DAY) or not over):
            method = "observed"
        elif self.billed_after_end(day):
            method = "billed"
        else:
            method = "interpolated"
        observed = self.observed(day)
        first = self.readings[0].at if self.readings else None
        from_start = (
            self.billed_after_end(day)
            or (first is not None and first.date() < day)
            or (first is not None and first.date() == day and first - midnight(day) <= NEAR)
        )
        return {
            "spend_date": day,
            "spend_usd": billed if method == "billed" else observed,
            "method": method,
            "is_complete": over and from_start,
            "observed_usd": observed,
            "billed_usd": billed,
            "residual_usd": observed - billed
            if method == "observed" and observed is not None and billed is not None
            else None,
            "readings": sum(reading.at.date() == day for reading in self.readings),
        }

    def balance(self, day: date) -> Row:
        close = midnight(day + DAY)
        near = [reading for reading in self.readings if abs(reading.at - close) <= NEAR]
        before = [reading for reading in self.readings if reading.at < close]
        after = [reading for reading in self.readings if reading.at >= close]
        credits = None
        if near:
            credits = min(near, key=lambda reading: (abs(reading.at - close), reading.at)).credits
        elif before and after and before[-1].credits == after[0].credits:
            credits = before[-1].credits
        usage = self.usage_at(day + DAY)
        balance = credits - usage if credits is not None and usage is not None else None
        return {
            "balance_date": day,
            "total_credits": credits,
            "total_usage": usage,
            "balance_usd": balance,
            "is_estimated": not near or balance is None,
        }

    def events(self) -> list[Row]:
        found = []
        for earlier, later in zip(self.readings, self.readings[1:], strict=False):
            around = {"event_at_earliest": earlier.at, "event_at_latest": later.at}
            if later.credits != earlier.credits:
                kind = "top_up" if later.credits > earlier.credits else "credit_decrease"
                found.append({**around, "kind": kind, "amount_usd": later.credits - earlier.credits})
            if later.usage < earlier.usage:
                found.append(
                    {**around, "kind": "usage_correction", "amount_usd": later.usage - earlier.usage}
                )
        return found

    def reconciliation(self) -> list[Row]:
        """Every stretch between two midnights that were read, if all its days were billed after their end."""
        found: list[Row] = []
        start: date | None = None
        for day in [*self.days(), *(self.days()[-1:] and [self.days()[-1] + DAY])]:
            if not self.is_near(day) or not any(reading.at >= midnight(day) for reading in self.readings):
                continue
            if start is not None:
                stretch = [start + n * DAY for n in range((day - start).days)]
                if all(self.billed_after_end(one) for one in stretch):
                    found.append(self._stretch(stretch))
            start = day
        return found

    def shared(self, day: date) -> Decimal:
        """What lies between the midnight that begins the day and the reading nearest in usage."""
        usage = self.usage_at(day)
        before = [reading.usage for reading in self.readings if reading.at < midnight(day)]
        after = [reading.usage for reading in self.readings if reading.at >= midnight(day)]
        sides = [abs(usage - side) for side in (*before[-1:], *after[:1]) if usage is not None]
        return min(sides, default=Decimal(0))

    def _stretch(self, days: list[date]) -> Row:
        observed = sum((self.observed(day) or Decimal(0) for day in days), Decimal(0))
        billed = sum((self.bills[day].usd for day in days), Decimal(0))
        one_percent = (abs(billed) / 100).quantize(NANO, ROUND_HALF_UP)
        tolerance = max(one_percent, Decimal("0.01"))
        return {
            "first_date": days[0],
            "last_date": days[-1],
            "days": len(days),
            "observed_usd": observed,
            "billed_usd": billed,
            "residual_usd": observed - billed,
            "shared_usd": self.shared(days[0]) + self.shared(days[-1] + DAY),
            "tolerance_usd": tolerance,
            "is_within_tolerance": abs(observed - billed) <= tolerance,
        }
