"""How long who spends takes: `python benchmarks/who_spends.py [MILLIONS]`.

Fetching and storing 365 days × 20 keys × 10 models from the simulated API, whose own time is measured apart, and
`daily_spend_by_key` over 10 million raw rows beside a `group by` written by hand.
"""

import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import duckdb

from credits_pipeline import clock, config
from credits_pipeline.openrouter import Client, OpenRouter, Usage
from credits_pipeline.simulator import SimulatedAccount, SimulatedAPI, SimulatedKey
from credits_pipeline.simulator.ledger import midnight
from credits_pipeline.sql_project import SqlProject
from credits_pipeline.warehouse import MIGRATIONS, Warehouse

KEYS, MODELS, DAYS = 20, 10, 365
BY_HAND = """
    create or replace table by_hand as
    select account, usage_date, member, model, sum(credits_usd)::decimal(18, 9) as spend_usd,
        sum(byok_usd)::decimal(18, 9) as byok_usd, sum(requests)::bigint as requests,
        sum(prompt_tokens)::bigint as prompt_tokens, sum(completion_tokens)::bigint as completion_tokens
    from raw.usage_breakdown where dimension = 'api_key'
    group by account, usage_date, member, model
"""


def timed(what: str, work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    seconds = time.perf_counter() - started
    print(f"{what}: {seconds:.2f} s, peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3:.0f} MB")
    return seconds


def a_year() -> None:
    """What fetching and storing a year takes beyond the time of the API, which answers in this process."""
    today = clock.today()
    days = {
        today - timedelta(days=n): {f"vendor/model-{m}": Decimal("1.234567891") for m in range(MODELS)}
        for n in range(1, DAYS + 1)
    }
    keys = [SimulatedKey(f"key {n}") for n in range(KEYS)]
    credits = [(midnight(min(days)), Decimal(10_000))]
    account = SimulatedAccount.from_ledger("default", "sk-or-v1-benchmark", days=days, credits=credits, keys=keys)
    first, last = min(days), max(days)
    spent = {"api": 0.0}
    with tempfile.TemporaryDirectory() as folder, SimulatedAPI([account], requests_per_minute=None) as api:
        os.environ |= {**api.environment(), "CREDITS_DATA_DIR": folder}
        answer = api.answer

        def answer_timed(request: object) -> object:
            started = time.perf_counter()
            reply = answer(request)  # type: ignore[arg-type]
            spent["api"] += time.perf_counter() - started
            return reply

        api.answer = answer_timed  # type: ignore[assignment,method-assign]
        found: dict[str, Usage] = {}

        async def ask(client: Client, of: config.Account) -> Usage:
            return await client.usage(of, first, last, dimension="api_key")

        def fetch() -> None:
            replies, errors = OpenRouter().ask_each(config.current().accounts, ask)
            assert not errors, errors
            found.update(replies)

        fetching = timed("fetching, the API's own time included", fetch)
        usage = found["default"]
        warehouse = Warehouse(config.current().warehouse_path)
        storing = timed(
            f"storing {len(usage.rows):,} rows of {usage.requests_made} requests",
            lambda: warehouse.replace_usage(
                "default", first, last, usage.rows, fetched_at=usage.fetched_at, run_id="b", dimension="api_key"
            ),
        )
        print(f"beyond the API's own {spent['api']:.2f} s: {fetching - spent['api'] + storing:.2f} s")


def many_rows(millions: float) -> None:
    with tempfile.TemporaryDirectory() as folder, duckdb.connect(str(Path(folder, "big.duckdb"))) as con:
        for migration in sorted(MIGRATIONS.glob("*.sql")):
            con.execute(migration.read_text(encoding="utf-8"))
        accounts = max(1, round(millions * 1e6 / (DAYS * KEYS * MODELS)))
        con.execute(
            f"""
            insert into raw.usage_breakdown
            select 'account ' || a, date '2025-06-01' + d::int, 'api_key', 'key ' || k, 'vendor/model-' || m,
                (a * 7 + d * 13 + k * 17 + m) % 1000 / 7, 0, 10, 1000, 100, 0, 0
            from range({accounts}) as accounts (a), range({DAYS}) as days (d), range({KEYS}) as keys (k),
                range({MODELS}) as models (m)
            """
        )
        con.execute(
            """
            insert into raw.model_usage
            select account, usage_date, model, sum(credits_usd), 0, sum(requests), sum(prompt_tokens),
                sum(completion_tokens), 0, 0
            from raw.usage_breakdown group by account, usage_date, model;
            insert into raw.model_usage_days
            select account, usage_date, sum(credits_usd), usage_date + 4, 'r' from raw.model_usage group by all;
            insert into raw.usage_breakdown_days
            select account, usage_date, 'api_key', credits_usd, fetched_at, 'r' from raw.model_usage_days
            """
        )
        [(rows,)] = con.execute("select count(*) from raw.usage_breakdown").fetchall()
        model = SqlProject.load(config.PROJECT_ROOT / "dbt_like_sql").models["daily_spend_by_key"]
        ours, by_hand = [], []
        for _ in range(3):
            by_hand.append(timed(f"by hand, {rows:,} rows, in no order", lambda: con.execute(BY_HAND)))
            sql = f"create or replace table marts.daily_spend_by_key as {model.compiled}"
            ours.append(timed("daily_spend_by_key", lambda sql=sql: con.execute(sql)))  # type: ignore[misc]
        print(f"{min(ours) / min(by_hand):.2f} times the query by hand")


if __name__ == "__main__":
    a_year()
    many_rows(float(sys.argv[1]) if len(sys.argv) > 1 else 10)
