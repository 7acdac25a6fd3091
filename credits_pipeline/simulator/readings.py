"""Readings that a simulated owner had logged before the pipeline came."""

import csv
import random
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path

from credits_pipeline.simulator.accounts import SimulatedAccount
from credits_pipeline.simulator.ledger import to_nano
from credits_pipeline.simulator.wire import money


@dataclass(frozen=True)
class EarlierReading:
    """One line that somebody's cron job logged. USD."""

    time: datetime
    total_credits: Decimal
    total_usage: Decimal


def readings(
    account: SimulatedAccount,
    since: date,
    until: date,
    at: time = time(0, 5),
    missing: float = 0.02,
) -> list[EarlierReading]:
    """What a daily cron job at `at` (UTC) would have logged from `since` up to, not including, `until`.

    A share of days is `missing`: laptops sleep. The replies come some seconds after the full minute.
    """
    logged = []
    for offset in range((until - since).days):
        day = since + timedelta(days=offset)
        luck = random.Random(f"{account.name} {day}")  # noqa: S311 - no secret, the same everywhere
        if luck.random() < missing:
            continue
        instant = datetime.combine(day, at, tzinfo=UTC) + timedelta(seconds=1 + int(luck.random() * 5))
        logged.append(EarlierReading(instant, account.credits_at(instant), account.usage_at(instant)))
    return logged


def write_readings(path: Path, logged: Iterable[EarlierReading]) -> int:
    """Write readings as CSV (time, total_credits, total_usage); the number of lines written."""
    rows = [(r.time.isoformat(), *(money(to_nano(n)) for n in (r.total_credits, r.total_usage))) for r in logged]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["time", "total_credits", "total_usage"])
        writer.writerows(rows)
    return len(rows)
