"""How long who spends takes: `python benchmarks/who_spends.py [MILLIONS]`.

Fetching and storing 365 days × 20 keys × 10 models from the simulated API, whose own time is measured apart, and
`daily_spend_by_key` over 10 million raw rows beside a `group by` written by hand, in any order and in the same one.
"""

import multiprocessing
import os
import resource
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from functools import partial
from multiprocessing.connection import Connection
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
    order by account, usage_date, member, model
"""


def timed(what: str, work: Callable[[], object]) -> float:
    """Seconds of CPU of this process, which a busy machine does not change."""
    started, began = time.perf_counter(), time.process_time()
    work()
    seconds, cpu = time.perf_counter() - started, time.process_time() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    print(f"{what}: {seconds:.2f} s, of them {cpu:.2f} s of our own CPU, peak memory {peak:.0f} MB", flush=True)
    return cpu


def a_year() -> None:
    """What fetching and storing a year takes beyond the time of the API, which answers in another process."""
    today = clock.today()
    days = {
        today - timedelta(days=n): {f"vendor/model-{m}": Decimal("1.234567891") for m in range(MODELS)}
        for n in range(1, DAYS + 1)
    }
    keys = [SimulatedKey(f"key {n}") for n in range(KEYS)]
    credits = [(midnight(min(days)), Decimal(10_000))]
    account = SimulatedAccount.from_ledger("default", "sk-or-v1-benchmark", days=days, credits=credits, keys=keys)
    first, last = min(days), max(days)
    ours, theirs = multiprocessing.Pipe()
    server = multiprocessing.get_context("fork").Process(target=serve, args=(account, theirs), daemon=True)
    server.start()  # so that the API's own time is not this process's
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {**ours.recv(), "CREDITS_DATA_DIR": folder}
        found: dict[str, Usage] = {}

        async def ask(client: Client, of: config.Account) -> Usage:
            return await client.usage(of, first, last, dimension="api_key")

        def fetch() -> None:
            replies, errors = OpenRouter().ask_each(config.current().accounts, ask)
            assert not errors, errors
            found.update(replies)

        timed("fetching", fetch)
        usage = found["default"]
        timed(
            f"storing {len(usage.rows):,} rows of {usage.requests_made} requests",
            lambda: Warehouse(config.current().warehouse_path).replace_usage(
                "default", first, last, usage.rows, fetched_at=usage.fetched_at, run_id="b", dimension="api_key"
            ),
        )
    server.terminate()


def serve(account: SimulatedAccount, pipe: Connection) -> None:
    with SimulatedAPI([account], requests_per_minute=None) as api:
        pipe.send(api.environment())
        threading.Event().wait()


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
        queries = {
            f"by hand, {rows:,} rows, in any order": BY_HAND.partition("order by")[0],
            f"by hand, {rows:,} rows, in the same order": BY_HAND,
            "daily_spend_by_key": f"create or replace table marts.daily_spend_by_key as {model.compiled}",
        }
        tries = [[timed(name, partial(con.execute, query)) for name, query in queries.items()] for _ in range(3)]
        in_any_order, in_order, ours = (min(times) for times in zip(*tries, strict=True))
        print(
            f"{ours / in_any_order:.2f} times the query by hand, {ours / in_order:.2f} times the one in the same order"
        )


if __name__ == "__main__":
    a_year()
    many_rows(float(sys.argv[1]) if len(sys.argv) > 1 else 10)
