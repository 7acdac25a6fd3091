"""`make bench`: what a daily run costs, as ratios to rivals measured in the same session.

    python benchmarks/daily_run.py [--repeat 5]
    python benchmarks/daily_run.py --accounts 1000    # only what so many accounts cost, their keys in a file

(a) an empty one-asset Dagster job, launched the same way: what Dagster itself costs;
(b) `dbt build` of the same models by dbt-duckdb: what the SQL would cost with the usual tool.
Then a year's history for 1 and for 200 accounts, from a server that takes 100 ms to answer.
Every figure is a time from process start to exit, the median of the repeats, with the simulated API in a process of
its own, which shares the cores. Nothing is asserted: the figures are for reading.
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
from typing import NamedTuple

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
    keep = {k: v for k, v in os.environ.items() if not k.startswith(("OPENROUTER_", "CREDITS_", "DAGSTER_", "PYTHON"))}
    home = folder / "dagster"
    home.mkdir()
    shutil.copy(ROOT / "credits_pipeline" / "launch" / "dagster.yaml", home)
    try:
        yield {**keep, **settings, "CREDITS_DATA_DIR": str(folder), "DAGSTER_HOME": str(home)}
    finally:
        server.communicate()
        shutil.rmtree(folder, ignore_errors=True)


class Took(NamedTuple):
    """What a process took from start to exit, those that it started included."""

    wall_s: float
    cpu_s: float
    peak_mb: float


def took(command: Sequence[str], env: dict[str, str]) -> Took:
    """Run a process; its output is shown if it fails."""
    with tempfile.TemporaryFile("w+") as output:
        start = time.perf_counter()
        process = subprocess.Popen(command, env=env, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT)
        _, status, used = os.wait4(process.pid, 0)
        wall_s = time.perf_counter() - start
        if status:
            output.seek(0)
            sys.exit(f"{' '.join(command)} failed:\n{output.read()}")
    return Took(wall_s, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)


def pipeline(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "credits_pipeline", *arguments]


def dbt_build(env: dict[str, str]) -> list[str]:
    """`dbt build` on a copy of the warehouse, as its users run it; `env` is told where the copy is."""
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
        took(pipeline("run"), env)  # last year's bills, once
        env_dbt = dict(env)
        command = dbt_build(env_dbt)
        for number in range(repeat):
            print(f"  round {number + 1} of {repeat} …", flush=True)
            empty.append(took([sys.executable, "-c", EMPTY_JOB], env))
            ours.append(took(pipeline("run"), env))
            dbt.append(took(command, env_dbt))
    print("medians                                       wall s    CPU s    ratio of wall, of CPU")
    run = median(ours)
    print(f"daily run, one account, 365 days of history   {run.wall_s:6.2f}   {run.cpu_s:6.2f}")
    for name, rival, goal in (
        ("(a) empty one-asset Dagster job           ", median(empty), 1.8),
        ("(b) dbt build of the same models          ", median(dbt), 0.7),
    ):
        ratios = f"{run.wall_s / rival.wall_s:.2f}, {run.cpu_s / rival.cpu_s:.2f} (goal {goal})"
        print(f"  {name}  {rival.wall_s:6.2f}   {rival.cpu_s:6.2f}    {ratios}")


def median(times: Sequence[Took]) -> Took:
    return Took(*map(statistics.median, zip(*times, strict=True)))


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
        run = took(pipeline("backfill", *days), env)
        fetching = step_seconds(env, "model_usage")
    print(
        f"365 days of {accounts:3} account(s), {latency_s * 1000:.0f} ms per request: {run.wall_s:6.2f} s (CPU "
        f"{run.cpu_s:.2f} s), {run.wall_s - start_s:6.2f} s beyond an empty Dagster job; {fetching:.2f} s of it to ask "
        "and to store the bill"
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
            run = took(pipeline("run"), env)
            print(f"{accounts:,} accounts, {what}: {run.wall_s:.0f} s, CPU {run.cpu_s:.0f} s, {run.peak_mb:.0f} MB")
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
        start_s = median([took([sys.executable, "-c", EMPTY_JOB], env) for _ in range(3)]).wall_s
    for accounts in (1, 20, 200):
        history(accounts, 0.1, start_s)


if __name__ == "__main__":
    main()
