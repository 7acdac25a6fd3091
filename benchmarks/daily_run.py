"""`make bench`: what a daily run costs, as ratios to rivals measured in the same session.

    python benchmarks/daily_run.py [--repeat 5]
    python benchmarks/daily_run.py --accounts 1000    # only what so many accounts cost, their keys in a file

(a) an empty one-asset Dagster job, launched the same way: what Dagster itself costs;
(b) `dbt build` of the same models by dbt-duckdb: what the SQL would cost with the usual tool.
Then a year's history for 1 and for 200 accounts, from a server that takes 100 ms to answer.
Every figure is a wall time from process start to exit, the median of the repeats, with the simulated API in a process
of its own. Nothing is asserted: the figures are for reading.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg

ROOT = Path(__file__).resolve().parent.parent

EMPTY_JOB = """
import dagster as dg

@dg.asset
def empty() -> None: ...

defs = dg.Definitions(assets=[empty], jobs=[dg.define_asset_job("job", "*")], executor=dg.in_process_executor)
with dg.DagsterInstance.get() as instance:
    assert defs.resolve_job_def("job").execute_in_process(
        instance=instance, run_config={"loggers": {"console": {"config": {"log_level": "ERROR"}}}}
    ).success
"""

SERVER = """
import sys
from datetime import date
from credits_pipeline import clock
from credits_pipeline.simulator import AGENTS, STEADY, SimulatedAccount, SimulatedAPI

accounts = [
    SimulatedAccount("default" if n == 0 else f"a{n}", f"sk-or-v1-simulated-{n}", anchor=clock.today(), seed=n % 10)
    for n in range(int(sys.argv[1]))
]
with SimulatedAPI(accounts, latency_s=float(sys.argv[2])) as api:
    for name, value in api.environment().items():
        print(f"{name}={value}")
    print("ready", flush=True)
    sys.stdin.read()
"""


@contextmanager
def simulated(accounts: int, latency_s: float) -> Iterator[dict[str, str]]:
    """The environment of a run against a simulated API in a process of its own, with empty directories."""
    command = [sys.executable, "-c", SERVER, str(accounts), str(latency_s)]
    server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    folder = Path(tempfile.mkdtemp(prefix="credits-bench-"))
    assert server.stdout
    lines = iter(server.stdout.readline, "ready\n")
    settings = dict(line.rstrip("\n").split("=", 1) for line in lines)
    keep = {k: v for k, v in os.environ.items() if not k.startswith(("OPENROUTER_", "CREDITS_", "DAGSTER_"))}
    home = folder / "dagster"
    home.mkdir()
    shutil.copy(ROOT / "credits_pipeline" / "launch" / "dagster.yaml", home)
    try:
        yield {**keep, **settings, "CREDITS_DATA_DIR": str(folder), "DAGSTER_HOME": str(home)}
    finally:
        server.communicate()
        shutil.rmtree(folder, ignore_errors=True)


def seconds(command: Sequence[str], env: dict[str, str]) -> float:
    """Wall time of a process, from start to exit; its output is shown if it fails."""
    start = time.perf_counter()
    done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, check=False)
    taken = time.perf_counter() - start
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stdout}\n{done.stderr}")
    return taken


def pipeline(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "credits_pipeline", *arguments]


def dbt_build(env: dict[str, str]) -> list[str]:
    """`dbt build` on a copy of the warehouse, as its users run it."""
    project = ROOT / "dbt_like_sql"
    copy = Path(env["CREDITS_DATA_DIR"]) / "dbt.duckdb"
    shutil.copy(Path(env["CREDITS_DATA_DIR"]) / "warehouse.duckdb", copy)
    env["CREDITS_DBT_WAREHOUSE"] = str(copy)
    env["DBT_SEND_ANONYMOUS_USAGE_STATS"] = "false"
    target = str(copy.with_name("dbt-target"))
    folders = ["--project-dir", str(project), "--profiles-dir", str(project), "--target-path", target]
    return [str(Path(sys.executable).with_name("dbt")), "--quiet", "build", *folders, "--log-path", target]


def daily_run(repeat: int) -> None:
    empty, ours, dbt = [], [], []
    with simulated(1, 0) as env:
        seconds(pipeline("run"), env)  # last year's bills, once
        command = dbt_build(dict(env))
        env_dbt = {**env, "CREDITS_DBT_WAREHOUSE": str(Path(env["CREDITS_DATA_DIR"]) / "dbt.duckdb")}
        for number in range(repeat):
            print(f"  round {number + 1} of {repeat} …", flush=True)
            empty.append(seconds([sys.executable, "-c", EMPTY_JOB], env))
            ours.append(seconds(pipeline("run"), env))
            dbt.append(seconds(command, {**env_dbt, "DBT_SEND_ANONYMOUS_USAGE_STATS": "false"}))
    run, rival_a, rival_b = map(statistics.median, (ours, empty, dbt))
    print(f"daily run, one account, 365 days of history   {run:6.2f} s")
    print(f"  (a) empty one-asset Dagster job             {rival_a:6.2f} s   ratio {run / rival_a:.2f} (goal 1.5)")
    print(f"  (b) dbt build of the same models            {rival_b:6.2f} s   ratio {run / rival_b:.2f} (goal 1.0)")


def step_seconds(env: dict[str, str], step: str) -> float:
    """How long a step of the only run took, as Dagster's history says."""
    os.environ["DAGSTER_HOME"] = env["DAGSTER_HOME"]
    with dg.DagsterInstance.get() as instance:
        (run,) = instance.get_runs()
        (stats,) = instance.get_run_step_stats(run.run_id, [step])
    return (stats.end_time or 0) - (stats.start_time or 0)


def history(accounts: int, latency_s: float, start_s: float) -> None:
    with simulated(accounts, latency_s) as env:
        yesterday = datetime.now(UTC).date() - timedelta(days=1)
        days = ["--from", f"{yesterday - timedelta(days=364)}", "--to", f"{yesterday}"]
        taken = seconds(pipeline("backfill", *days), env)
        fetching = step_seconds(env, "model_usage")
    print(
        f"365 days of {accounts:3} account(s), {latency_s * 1000:.0f} ms per request: {taken:6.2f} s, "
        f"{taken - start_s:6.2f} s beyond an empty Dagster job; {fetching:.2f} s of it to ask and to store the bill"
    )


def many(accounts: int, latency_s: float) -> None:
    """The first run and a daily one: seconds, CPU (of ours, not of the simulated API), memory, and the files."""
    with simulated(accounts, latency_s) as env:
        folder = Path(env["CREDITS_DATA_DIR"])
        keys = [name for name in env if f"{name}_".startswith("OPENROUTER_API_KEY_")]
        file = folder / "keys"
        file.touch(mode=0o600)
        file.write_text("".join(f"{name.lower()[19:] or 'default'}={env.pop(name)}\n" for name in keys))
        env["OPENROUTER_API_KEYS_FILE"] = str(file)
        for what in ("first run, 365 days of history", "daily run after it"):
            start = time.perf_counter()
            run = subprocess.Popen(pipeline("run"), env=env, cwd=ROOT, stdout=subprocess.DEVNULL)
            _, status, used = os.wait4(run.pid, 0)
            taken = time.perf_counter() - start
            print(
                f"{accounts:,} accounts, {what}: {taken:.0f} s, CPU {used.ru_utime + used.ru_stime:.0f} s, "
                f"{used.ru_maxrss / 1024:.0f} MB" + (f" FAILED {status}" if status else ""),
                flush=True,
            )
        for name in ("warehouse.duckdb", "credits.duckdb", "report.html"):
            print(f"  {name}: {(folder / name).stat().st_size / 1e6:.0f} MB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--accounts", type=int, help="only what so many accounts cost, at 100 ms per request")
    options = parser.parse_args()
    if options.accounts:
        many(options.accounts, 0.1)
        return
    daily_run(options.repeat)
    with simulated(1, 0) as env:
        start_s = statistics.median(seconds([sys.executable, "-c", EMPTY_JOB], env) for _ in range(3))
    for accounts in (1, 20, 200):
        history(accounts, 0.1, start_s)


if __name__ == "__main__":
    main()
