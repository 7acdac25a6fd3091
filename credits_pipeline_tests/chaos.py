"""What can go wrong, as one table, and a command that does it at random: `make chaos`.

    python -m credits_pipeline_tests.chaos --minutes 20 [--seed 1]

Each fault strikes a real run, in a process of its own, at a named stage. It is survived when no committed reading is
lost, whoever reads the published copy sees one whole generation, the error is a sentence, and the next healthy run
brings everything up to date by itself. Disks that fill and turn read-only are real ones, which takes root.
"""

import argparse
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

from credits_pipeline.simulator import SimulatedAccount
from credits_pipeline.warehouse import Warehouse, open_published
from credits_pipeline_tests.children import Children, Ended
from credits_pipeline_tests.faulty import Fault as Misbehaviour
from credits_pipeline_tests.faulty import FaultyAPI

BEGIN = datetime(2025, 6, 17, 0, 5, tzinfo=UTC)  # a year before a day that is past as well
USD_A_DAY = Decimal("2.4")
DISK = "64m"
NOWHERE = {"OPENROUTER_BASE_URL": "https://nowhere.invalid/api/v1"}

OURS = {
    *("warehouse.duckdb", "warehouse.duckdb.lock", "credits.duckdb", "metrics.prom", "parquet"),
    *("report.html", ".report.html.lock", "alerts.lock"),
}


class World:
    """A pipeline with its data on a small disk, an API, and a clock that this process moves."""

    def __init__(self, root: Path, children: Children, *, has_disk: bool) -> None:
        self.root, self.children, self.has_disk = root, children, has_disk
        self.now = BEGIN
        self.data, self.home = root / "data", root / "home"
        self.home.mkdir(mode=0o700)
        ledger = {BEGIN.date() + timedelta(days=n): {"vendor/model-a": USD_A_DAY} for n in range(-10, 90)}
        bought = datetime.combine(min(ledger), datetime.min.time(), UTC)
        key, credits = "sk-or-v1-simulated-default", [(bought, Decimal(1000))]
        account = SimulatedAccount.from_ledger("default", key, days=ledger, credits=credits)
        self.api = FaultyAPI([account], now=lambda: self.now)
        self.environ = {
            **{name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ},
            **self.api.environment(),
            "CREDITS_DATA_DIR": str(self.data),
            "CREDITS_START_DATE": f"{BEGIN.date() - timedelta(days=3)}",
            "DAGSTER_HOME": str(self.home),
        }

    def run(self, *arguments: str, **options: Any) -> Ended:
        return self.start(*arguments, **options).wait()

    def start(self, *arguments: str, environ: Mapping[str, str] = {}, **options: Any) -> Any:
        options = {"now": self.now, "folder": self.root / "output", **options}
        return self.children.start(arguments or ["run"], environ={**self.environ, **environ}, **options)

    @property
    def warehouse(self) -> Warehouse:
        return Warehouse(self.data / "warehouse.duckdb", lock_timeout_s=20)

    def readings(self) -> list[tuple[Any, ...]]:
        with self.warehouse.reading() as con:
            return con.execute(
                "select account, snapshot_date, observed_at, total_credits, total_usage, run_id, payload "
                "from raw.credits_snapshots order by observed_at, rowid"
            ).fetchall()

    def published(self) -> datetime:
        """As of when the copy is that readers see; a copy whose tables disagree is none."""
        with open_published(self.data / "credits.duckdb") as con:
            ((as_of,),) = con.execute("select as_of from marts.published").fetchall()
            told = con.execute(
                "select (select max(observed_at) from marts.credits_readings), "
                "(select max(as_of) from marts.credits_runway), "
                "(select max(spend_date) from marts.daily_spend)"
            ).fetchall()
        assert told == [(as_of, as_of, as_of.date())], "readers see tables of two generations"
        return as_of

    def bills_are_right(self) -> None:
        """Every day is known, once, with what the API billed for it."""
        with self.warehouse.reading() as con:
            rows = con.execute("select usage_date, credits_usd from raw.model_usage_days order by all").fetchall()
        first = BEGIN.date() - timedelta(days=3)
        days = [first + timedelta(days=n) for n in range((self.now.date() - first).days + 1)]
        assert [day for day, _ in rows] == days
        assert {usd for _, usd in rows[:-1]} == {USD_A_DAY}

    def litter(self) -> set[str]:
        """What nobody needs; of the Parquet only the newest generation and the one before are kept."""
        names = {path.name for path in self.data.iterdir()} - OURS
        generations = {name for name in names if name.startswith(".parquet.")}
        return names - generations if len(generations) <= 2 else names


@contextmanager
def world(children: Children) -> Iterator[World]:
    """A world in which one healthy run was done. As root its data are on a small disk of their own."""
    memory = Path("/dev/shm")
    root = Path(tempfile.mkdtemp(prefix="credits-", dir=memory if os.access(memory, os.W_OK) else None))
    root.chmod(0o755)
    (root / "data").mkdir(mode=0o700)
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, root, ignore_errors=True)
        has_disk = os.geteuid() == 0 and mounted(root / "data")
        if has_disk:
            stack.callback(subprocess.run, ["umount", "-l", str(root / "data")], check=False)
        made = World(root, children, has_disk=has_disk)
        stack.enter_context(made.api)
        ended = made.run()
        assert ended.returncode == 0, ended.stderr
        yield made


def mounted(path: Path) -> bool:
    options = f"size={DISK},mode=0700"
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "credits", str(path)], check=False, capture_output=True
    )
    return done.returncode == 0


# -- the table ---------------------------------------------------------------------------------

STAGES = (
    *("before the request", "mid-body", "before the write", "mid-transaction of the readings"),
    *("mid-transaction of the SQL", "between commit and publish", "mid-publish"),
    *("before the copy gets its name", "mid-report"),
)


# In the suite that runs at every change; the rest is heavy.
ALWAYS = {
    *(("SIGKILL", stage) for stage in (*STAGES[3:5], *STAGES[6:])),
    *(("file size limit", "mid-publish"), ("SIGTERM", "mid-transaction of the readings")),
    *(("disk full", "before the write"), ("permission denied", "before the write")),
    *(("500 for an hour", ""), ("clock back a day", "")),
}


@dataclass(frozen=True)
class Row:
    """One fault, at one stage where it is the fate of a run's own process, and the words that its error must have."""

    name: str
    stage: str = ""
    says: str = ""
    answer: Misbehaviour | None = None  # of the API's
    environ: Mapping[str, str] = field(default_factory=dict)
    shift: timedelta = timedelta()  # of this machine's clock; the server's is right
    after: Callable[[World], None] | None = None
    needs_disk: bool = False

    def __str__(self) -> str:
        return f"{self.name}, {self.stage}" if self.stage else self.name

    @property
    def always(self) -> bool:
        return (self.name, self.stage) in ALWAYS

    @property
    def may_pass(self) -> bool:
        """With what was written by then, and the old copy's room, a run can come to its end."""
        return self.name == "disk full" and self.stage in {"before the copy gets its name", "mid-report"}


def room_again(world: World) -> None:
    (world.data / "filler").unlink(missing_ok=True)


def writable_again(world: World) -> None:
    subprocess.run(["mount", "-o", "remount,rw", str(world.data)], check=True)


def history_again(world: World) -> None:
    for path in (world.home, *world.home.rglob("*")):
        os.chown(path, os.geteuid(), os.getegid())


def table() -> list[Row]:
    full = "[Ff]ree some space|make room"
    says = {"SIGKILL": "", "SIGTERM": "stopped", "Ctrl-C": "stopped", "file size limit": full}
    rows = [Row(name, stage, says=words) for stage in STAGES for name, words in says.items()]
    rows += [Row("disk full", stage, says=full, after=room_again, needs_disk=True) for stage in STAGES]
    for stage in ("before the request", "before the write", "between commit and publish"):
        forbidden = "permission|writable|write there"
        rows += [
            Row("read-only", stage, says="writable|write there", after=writable_again, needs_disk=True),
            Row("permission denied", stage, says=forbidden, after=history_again, needs_disk=True),
        ]
    return [
        *rows,
        Row("a web page, and nothing else", says="run again later", answer=Misbehaviour.status(200, html=True)),
        Row("connection reset", says="run again|again later", answer=Misbehaviour.reset()),
        Row("broken off mid-body", says="again", answer=Misbehaviour.truncated_body()),
        Row("429 storm", says="fewer requests", answer=Misbehaviour.status(429, retry_after=120)),
        Row("500 for an hour", says="run again later", answer=Misbehaviour.status(500)),
        Row("DNS failure", says="nowhere.invalid", environ=NOWHERE),
        Row("clock back a day", says="set the clock", shift=timedelta(days=-1)),
        Row("clock forward a year", says="set the clock", shift=timedelta(days=365)),
    ]


def strike(world: World, row: Row) -> Ended:
    """Let the fault strike a run an hour later, and check what must hold after it and after the next run."""
    world.now += timedelta(hours=1)
    before, seen = world.readings(), world.published()
    fate = {"stage": row.stage, "fate": row.name} if row.stage else {}
    if row.answer:
        world.api.misbehave(row.answer, times=None)
    try:
        ended = world.run(now=world.now + row.shift, environ=row.environ, **fate)
        as_of = world.published()  # whatever happened, there is a whole copy
    finally:
        world.api.behave()
        if row.after:
            row.after(world)
    after = survived(world, before, seen, as_of)
    if row.may_pass and ended.returncode == 0:
        assert as_of == after[-1][2], "the run says that all went well"
    else:
        told(row, ended)
    heals(world, after)
    return ended


def survived(world: World, before: list[Any], seen: datetime, as_of: datetime) -> list[Any]:
    """The readings after a fault; `as_of`: the copy that readers saw then."""
    after = world.readings()
    assert after[: len(before)] == before, "a committed reading was lost"
    assert len(after) <= len(before) + 1, "a reading was doubled"
    assert as_of in {seen, after[-1][2]}, "the copy is of no generation that there was"
    return after


def heals(world: World, after: list[Any]) -> None:
    world.now += timedelta(minutes=30)
    healthy = world.run()
    assert healthy.returncode == 0, f"the next run did not heal it: {healthy.stderr}"
    healed = world.readings()
    assert healed[:-1] == after
    assert world.published() == healed[-1][2]
    world.bills_are_right()
    assert world.litter() == set()


def told(row: Row, ended: Ended) -> None:
    """A killed process says nothing; every other says in a sentence what to do, and shows no traceback."""
    if row.name == "SIGKILL":
        assert ended.returncode == -signal.SIGKILL, ended
        return
    assert "Traceback" not in ended.stderr, ended.stderr
    if ended.returncode == -signal.SIGTERM:
        return  # between two jobs: nothing was under way that could have been told about
    assert ended.returncode == 1, ended
    sentences = [line for line in ended.stderr.splitlines() if line.startswith(("error: ", "failed: ", "stopped"))]
    assert sentences, ended.stderr
    assert any(re.search(row.says, line) for line in sentences), ended.stderr


# -- at random ---------------------------------------------------------------------------------


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--seed", type=int, default=time.time_ns() % 1_000_000)
    options = parser.parse_args()
    chance = random.Random(options.seed)
    passed: Counter[str] = Counter()
    failed: list[str] = []
    until = time.monotonic() + options.minutes * 60
    print(f"seed {options.seed}", flush=True)
    with Children() as children:
        while time.monotonic() < until:
            with world(children) as here:
                rows = [row for row in table() if here.has_disk or not row.needs_disk]
                for _ in range(200):
                    if time.monotonic() >= until:
                        break
                    row = chance.choice([*rows, *([None] * (len(rows) // 2))])
                    name = str(row) if row else "SIGKILL at a random moment"
                    try:
                        if row:
                            strike(here, row)
                        else:
                            kill_at_random(here, chance)
                    except AssertionError as error:
                        failed.append(name)
                        print(f"NOT survived: {name}: {error}", flush=True)
                        break  # in a new world, for this one may be spoiled
                    passed[row.name if row else name] += 1
                    print(f"survived: {name}", flush=True)
    kinds = ", ".join(f"{count} {name}" for name, count in passed.most_common())
    print(f"{passed.total()} faults survived, {len(failed)} not, in {options.minutes:g} minutes ({kinds})")
    return 1 if failed else 0


def kill_at_random(world: World, chance: random.Random) -> None:
    """SIGKILL after a time that nobody chose, then the same promises."""
    world.now += timedelta(hours=1)
    before, seen = world.readings(), world.published()
    child = world.start()
    time.sleep(chance.uniform(0, 6))
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    heals(world, survived(world, before, seen, world.published()))


if __name__ == "__main__":
    sys.exit(main())
