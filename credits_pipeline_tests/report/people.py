"""The accounts that pages are tested on: real tables, built from readings and bills, of the people that there are.

Deterministic; the newest readings are of NOW.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from credits_pipeline_tests.models import DAY, World

NOW = datetime(2026, 11, 22, 0, 5)
WRITTEN = NOW.replace(tzinfo=UTC) + timedelta(minutes=2)
MODELS = (
    "anthropic/claude-sonnet-4.5",
    "openai/gpt-5.2",
    "google/gemini-3-flash",
    *(f"vendor/m{n:02}" for n in range(12)),
)

# As every account of a table is absurd in a way of its own, no figure of one may stop what is said of the others.
KEYED = (
    "steady", "soon", "debt", "calm", "young", "years", "unused", "free", "tiny", "huge", "late", "corrected", "gaps",
    "unread",
)  # fmt: skip


def settings(*names: str, **more: Any) -> Any:
    """What a page asks of the settings: which accounts have a key, and from when on a reading is old."""
    accounts = [SimpleNamespace(name=name) for name in names]
    return SimpleNamespace(accounts=accounts, stale_after=timedelta(hours=36), **more)


def spending(
    world: World, account: str, daily: Sequence[Any], credits: Any, *, used: Any = 0, top_ups: Sequence[int] = ()
) -> None:
    """A reading at 00:05 after each day's spend, the last of them NOW; $100 bought before the readings of `top_ups`."""
    usage, bought = Decimal(str(used)), Decimal(str(credits))
    first = NOW - len(daily) * DAY
    world.read(first, bought, usage, account)
    for number, amount in enumerate(daily, start=1):
        usage += Decimal(str(amount))
        bought += 100 * (number in top_ups)
        world.read(first + number * DAY, bought, usage, account)


def who_spends(world: World, account: str) -> None:
    """Three keys: one began a week ago and is near its limit, one has no limit and is long unused. A team for one."""
    days = "select account, usage_date, 'api_key', credits_usd, fetched_at, run_id from raw.model_usage_days"
    world.con.execute(f"insert into raw.usage_breakdown_days {days} where account = ?", [account])
    for ago in range(60, 0, -1):
        for member, usd in {"web": 1, "batch-7": 2 * (ago <= 7), "nightly": 3 * (ago > 40)}.items():
            world.con.execute(
                "insert into raw.usage_breakdown values (?, ?, 'api_key', ?, ?, ?, 0, 1, 10, 20, 5, 2)",
                [account, NOW.date() - ago * DAY, member, MODELS[0], f"{usd / 10}"],
            )
    for name, limit, left, reset in (("batch-7", 10, "0.5", "monthly"), ("nightly", None, None, None)):
        world.con.execute(
            "insert into raw.api_keys values (?, ?, ?, ?, 'sk-or-v1-…', 'Research', ?, ?, ?, false, 9, null, null,"
            " null, false, '2026-01-01', '2026-11-30', 'r')",
            [account, NOW, f"hash of {name}", name, limit, left, reset],
        )
    world.con.execute("insert into raw.teams values (1, '*', 'api_key', 'batch*', 'Data', 'CC 7')")


def everybody() -> World:
    """All of KEYED but `unread`, which only the settings know, and `former`, whose key was taken away."""
    world = World()
    day = NOW.date()
    week = [6, 5, 7, 6, 5, 2, 1]
    world.con.execute("begin")
    for ago in range(200, 60, -1):
        share = week[ago % 7] / Decimal(2)
        world.bill(day - ago * DAY, share, models={MODELS[0]: share / 2, MODELS[1]: share / 2}, account="steady")
    for ago in range(60, 0, -1):
        models = {model: Decimal(week[ago % 7]) / (n + 2) for n, model in enumerate(MODELS)}
        world.bill(day - ago * DAY, sum(models.values()), models=models, account="steady")
    spending(world, "steady", [week[ago % 7] for ago in range(60, 0, -1)], 150, top_ups=(20, 40))
    who_spends(world, "steady")
    spending(world, "soon", [4 + n % 3 for n in range(70)], 400, top_ups=(1,))
    spending(world, "debt", [38 + n % 2 for n in range(30)], 211)
    spending(world, "calm", [3, *[0] * 40], 20)
    spending(world, "young", [2], 20)
    spending(world, "years", [2] * 45, 40_000)
    spending(world, "unused", [0, 0, 0], 0)
    spending(world, "free", [0, 0, 0], 14, used=3)
    spending(world, "tiny", ["0.00007"] * 60, "0.00455")
    spending(world, "huge", [1_000_000] * 60, 300_000_000)
    world.read("2026-11-21 23:50", 50, 10, "late")
    world.read("2026-11-21 23:59", 50, 10, "late")
    world.bill("2026-11-21", "5.72", fetched="2026-11-21 23:59", account="late")
    spending(world, "corrected", [3, 3, 3, "-24.89", 3, 3], 90, used=40)
    for ago in (60, 59, 58, 12, 11, 10):
        world.bill(day - ago * DAY, 2, account="gaps")
    spending(world, "gaps", [3, 3], 60, used=500)
    for number in range(12):
        world.read(NOW - (30 - number) * DAY, 100, 5 * number, "former")
    world.con.execute(
        "insert into raw.account_plans values ('steady', 140, 10, 50, '2026-12-24'), ('soon', null, 10, 50, null)"
    )
    world.con.execute("commit")
    world.build([model for model in world.project.models])
    world.con.execute(
        "create table marts.published as select '0f4c' as run_id, timestamp '2026-11-22 00:06' as published_at, "
        "timestamp '2026-11-22 00:05' as as_of, '0.1.0' as version, false as is_simulated"
    )
    return world


def publish(world: World, path: Path) -> None:
    """Their tables as a published copy at `path`."""
    world.con.execute(f"attach '{path}' as copy")
    world.con.execute("create schema copy.marts")
    tables = "select table_name from duckdb_tables() where schema_name = 'marts' and database_name = 'memory'"
    for (table,) in world.con.execute(tables).fetchall():
        world.con.execute(f"create table copy.marts.{table} as from memory.marts.{table}")
    world.con.execute("detach copy")
