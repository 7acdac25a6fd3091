"""Readers of the published copy beside daily runs: nothing waits, nothing fails, nothing is torn.

The readers are processes of their own over the real marts. Each asks every table that says how new it is, in
statements of its own, as the charts of a dashboard do, and compares what they say with `marts.published`.
"""

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from subprocess import Popen

import duckdb

from credits_pipeline_tests.children import running
from credits_pipeline_tests.published_history import History

READER = """
import json, select, sys
from contextlib import nullcontext
from pathlib import Path
import duckdb

path, manner = sys.argv[1:]

def connect():
    if manner == "through the package":
        from credits_pipeline.warehouse import open_published
        return open_published(Path(path))
    return duckdb.connect(path, read_only=True)

def look(con):
    # The run whose figures are seen; asserts that every table is of that same run.
    ask = lambda sql: con.execute(sql).fetchall()
    ((run, as_of, published_at),) = ask("select run_id, as_of, published_at from marts.published")
    # Who published, when: never seen before its tables are.
    assert published_at >= as_of
    for newest in (
        "select max(observed_at) from marts.credits_readings",
        "select max(as_of) from marts.credits_runway",
        "select max(as_of) from marts.runway_curve",
    ):
        assert ask(newest) == [(as_of,)], (run, as_of, newest)
    ((first_forecast,),) = ask("select min(forecast_date) from marts.balance_forecast")
    ((last_day, spend),) = ask("select max(spend_date), sum(spend_usd) from marts.daily_spend")
    assert last_day == as_of.date() and first_forecast <= last_day, (run, last_day, first_forecast)
    assert ask("select sum(EffectiveCost) from marts.focus_cost_and_usage") == [(spend,)], run
    ((long_spend,),) = ask("select sum(value_usd) from marts.daily_metrics_long where metric = 'spend'")
    assert long_spend == spend, run
    return run

def once():
    with connect() as con:
        return look(con)

def wait(seconds):
    "Until told to stop, at most this long; whether told."
    return bool(select.select([sys.stdin], [], [], seconds)[0])

# A tool that pools: one connection from before the first run until after the last one.
with connect() if manner == "holding on" else nullcontext() as held:
    seen = [once()]
    print("reading", flush=True)
    while not wait(0.2):
        seen.append(look(held) if held else once())
assert not held or len(set(seen)) == 1, set(seen)
seen.append(once())  # after the last run; a new connection gets the newest
print(json.dumps({"runs": sorted(set(seen)), "last": seen[-1]}))
"""

MANNERS = ("with a connection each time", "holding on", "through the package")


@contextmanager
def three_readers(path: Path) -> Iterator[dict[str, Popen[str]]]:
    with ExitStack() as stack:
        yield {manner: stack.enter_context(running(READER, path, manner)) for manner in MANNERS}


def stop(readers: dict[str, Popen[str]]) -> dict[str, dict[str, object]]:
    """What each reader saw; no read failed, and none saw two runs at once, or it would have died saying so."""
    told = {}
    for manner, reader in readers.items():
        out, errors = reader.communicate("stop\n", timeout=120)
        assert (reader.returncode, errors) == (0, ""), f"{manner}: {errors}"
        told[manner] = json.loads(out)
    return told


def test_daily_runs_and_a_backfill_go_through_beside_three_readers(tmp_path):
    """Every publication succeeds, and every reader sees one run at a time."""
    history = History(tmp_path, lock_timeout_s=0)
    history.run(days=20)
    first = f"run {history.last_run}"
    with three_readers(history.path) as readers:
        for number in range(4):
            if number == 1:
                history.read()
                history.backfill(days=200)
            else:
                history.run()
            with duckdb.connect(str(history.path), read_only=True) as con:
                last = f"run {history.last_run}"
                assert con.execute("select run_id from marts.published").fetchall() == [(last,)]
        told = stop(readers)
    assert told["holding on"]["runs"] == sorted({first, last})
    assert {manner: seen["last"] for manner, seen in told.items()} == dict.fromkeys(MANNERS, last)
    seen = {manner: len(told[manner]["runs"]) for manner in MANNERS if manner != "holding on"}
    assert min(seen.values()) >= 2, f"they hardly saw a new file, which proves nothing: {seen}"
