"""What a lake and a cluster cost and bring, beside one file, measured in the same session (Linux).

    make cluster; .venv/bin/python benchmarks/cluster.py --accounts 1000 --runs 3

Made-up accounts, 180 days, a reading a midnight and 3 models billed a day, once in a file and, by `reshard`, in a lake
of 1 and of 4 shards in a folder. Measured is the job `rebuild` as a process (all models, tests, publishing, report,
alerts), each way in turn, after a first time that is not counted; medians. CPU counts the run, the workers, the
scheduler and PostgreSQL, which the benchmark starts itself. The rival is what a queue of tasks such as Celery would do
with Dagster: a run per shard, each with a file of its own, two at a time, without what the queue itself costs and
without one published copy of all. Nothing is fetched, and nothing is asserted: the figures are for reading.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil
from forecast import LOAD_MADE_UP

from credits_pipeline_tests.cluster import servers

ROOT = Path(__file__).resolve().parent.parent
DAYS, SHARDS = 180, 4
PROJECTED_ACCOUNTS, PROJECTED_WORKERS = 1_000_000, 100
LOAD_BILLS = """
insert into raw.model_usage
select account, cast(observed_at as date), 'vendor/model-' || model, cast(spend * share as decimal(18, 9)), 0,
    10, 1000, 100, 0, 0
from (
    select account, observed_at,
        lead(total_usage) over (partition by account order by observed_at) - total_usage as spend
    from raw.credits_snapshots
)
cross join (values (1, 0.5), (2, 0.3), (3, 0.2)) as models (model, share)
where spend > 0;

insert into raw.model_usage_days
select account, cast(observed_at as date), coalesce(sum(credits_usd), 0), observed_at + interval 4 days, 'bench'
from raw.credits_snapshots
left join raw.model_usage using (account)
where usage_date = cast(observed_at as date) or usage_date is null
group by account, observed_at
"""
REBUILD = "from credits_pipeline import commands, config; raise SystemExit(commands.rebuild(config.current()))"


@dataclass(frozen=True)
class Cost:
    """Of one run: seconds, CPU seconds of each part, peak memory in MB."""

    wall: float
    run: float
    workers: float
    others: float
    run_mb: float
    worker_mb: float

    @property
    def cpu(self) -> float:
        return self.run + self.workers + self.others


@dataclass(frozen=True)
class Way:
    """One way to keep and build the same accounts."""

    name: str
    environ: Mapping[str, str]
    others: tuple[int, ...] = ()
    workers: tuple[int, ...] = ()
    command: tuple[str, ...] = (sys.executable, "-c", REBUILD)


def cpu(processes: Iterable[int]) -> float:
    """CPU seconds of processes and of all that they started, living or not."""
    found = [psutil.Process(pid) for pid in processes]
    found += [child for process in found for child in process.children(recursive=True)]
    return sum(sum(process.cpu_times()[:4]) for process in found)


def peak_mb(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def measured(way: Way) -> Cost:
    before, started = (cpu(way.workers), cpu(way.others)), time.perf_counter()
    run = subprocess.Popen(way.command, env={**os.environ, **way.environ}, cwd=ROOT, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(run.pid, 0)
    if status:
        sys.exit(f"{way.name}: the run failed")
    return Cost(
        time.perf_counter() - started,
        used.ru_utime + used.ru_stime,
        cpu(way.workers) - before[0],
        cpu(way.others) - before[1],
        used.ru_maxrss / 1024,
        max(map(peak_mb, way.workers), default=0.0),
    )


def fill(path: Path, accounts: int) -> None:
    from credits_pipeline.warehouse import Warehouse

    with Warehouse(path).writing("the benchmark") as con:
        con.execute(LOAD_MADE_UP, {"accounts": accounts, "days": DAYS})
        con.execute(LOAD_BILLS)


def lake(folder: Path, pg: servers.Postgres, shards: int) -> dict[str, str]:
    """A lake with the accounts of the file, built once."""
    home, database = folder / f"lake{shards}", f"lake{shards}"
    home.mkdir()
    shutil.copy(folder / "file" / "warehouse.duckdb", home)
    pg.psql("postgres", f"create database {database}")
    service = home / "pg_service.conf"
    service.write_text(pg.service.read_text().replace("dbname=credits", f"dbname={database}"))
    environ = {
        "CREDITS_DATA_DIR": str(home),
        "CREDITS_LAKE": "postgres:service=credits",
        "CREDITS_LAKE_DATA": str(home / "lake"),
        "CREDITS_SHARDS": str(shards),
        "PGSERVICEFILE": str(service),
    }
    measured(Way(database, environ, command=(sys.executable, "-m", "credits_pipeline", "reshard", str(shards))))
    return environ


def run_per_shard(folder: Path, accounts: int) -> Way:
    """As many accounts in files of their own, each built by a run of its own, two at a time."""
    for number in range(SHARDS):
        fill(folder / f"part{number}" / "warehouse.duckdb", accounts // SHARDS)
    runs = 'seq 0 $LAST | xargs -P 2 -I{} env CREDITS_DATA_DIR=$PARTS{} $PYTHON -c "$REBUILD"'
    environ = {"LAST": f"{SHARDS - 1}", "PARTS": f"{folder}/part", "PYTHON": sys.executable, "REBUILD": REBUILD}
    return Way(f"rival: {SHARDS} runs of a shard each", environ, command=("sh", "-c", runs))


def table(costs: Mapping[str, list[Cost]], accounts: int) -> None:
    def median(name: str, part: str) -> float:
        return statistics.median(getattr(cost, part) for cost in costs[name])

    print(f"\n{accounts:,} accounts, {DAYS} days, medians of {len(next(iter(costs.values())))} runs")
    print(f"{'':30s} {'wall s':>7s} {'CPU s':>7s} {'ms/acc.':>7s} {'run':>6s} {'workers':>7s} {'others':>6s}   peak MB")
    for name in costs:
        total = median(name, "cpu")
        print(
            f"{name:30s} {median(name, 'wall'):7.1f} {total:7.1f} {1000 * total / accounts:7.1f}"
            f" {median(name, 'run'):6.1f} {median(name, 'workers'):7.1f} {median(name, 'others'):6.1f}"
            f"   run {median(name, 'run_mb'):.0f}, worker {median(name, 'worker_mb'):.0f}"
        )
    file, _, _, one, two = costs
    serial, workers = median(two, "run"), median(two, "workers")
    print(f"CPU per account, of the file's: {median(two, 'cpu') / median(file, 'cpu'):.2f}")
    print(f"CPU of the workers per shard of {accounts // SHARDS:,} accounts: {workers / SHARDS:.1f} s")
    print(f"serial part (CPU of the run's own process, which workers do not share): {serial:.1f} s")
    print(f"two workers against one: {median(one, 'wall') / median(two, 'wall'):.2f} times as fast")
    each = workers / accounts
    print(
        f"projection to {PROJECTED_ACCOUNTS:,} accounts on {PROJECTED_WORKERS} workers of a core each: "
        "serial part + accounts / workers x workers' CPU per account\n"
        f"  = {serial:.1f} s + {PROJECTED_ACCOUNTS // PROJECTED_WORKERS:,} x {each * 1000:.1f} ms"
        f" = {serial + PROJECTED_ACCOUNTS / PROJECTED_WORKERS * each:.0f} s; without fetching,"
        " and without what the serial part grows by"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--accounts", type=int, default=1000)
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    for name in [name for name in os.environ if name.startswith(("OPENROUTER_", "CREDITS_", "DAGSTER_", "PG"))]:
        del os.environ[name]
    os.environ["CREDITS_ENV_FILE"] = ""
    with tempfile.TemporaryDirectory(prefix="credits-bench-") as name, servers.postgres(Path(name) / "postgres") as pg:
        folder = Path(name)
        fill(folder / "file" / "warehouse.duckdb", options.accounts)
        file = Way("one file", {"CREDITS_DATA_DIR": str(folder / "file")})
        rival = run_per_shard(folder, options.accounts)
        for way in (file, rival):
            measured(way)
        one, many = lake(folder, pg, 1), lake(folder, pg, SHARDS)
        postmaster = int((pg.data / "postmaster.pid").read_text().split()[0])
        with servers.cluster(folder / "dask1", many, 1) as small, servers.cluster(folder / "dask2", many, 2) as large:
            ways = [file, rival, Way("lake, 1 shard, no cluster", one, (postmaster,))]
            for cluster in (small, large):
                address = {"CREDITS_CLUSTER": cluster.address}
                pids = tuple(worker.pid for worker in cluster.workers)
                of = f"lake, {SHARDS} shards, {len(pids)} worker{'s'[: len(pids) - 1]}"
                ways.append(Way(of, {**many, **cluster.environ, **address}, (postmaster, cluster.scheduler.pid), pids))
                measured(ways[-1])  # its workers load their modules once
            costs: dict[str, list[Cost]] = {way.name: [] for way in ways}
            for number in range(options.runs):
                for way in ways:
                    cost = measured(way)
                    costs[way.name].append(cost)
                    print(f"  {number + 1}: {way.name:30s} {cost.wall:6.1f} s, CPU {cost.cpu:6.1f} s", flush=True)
    table(costs, options.accounts)


if __name__ == "__main__":
    main()
