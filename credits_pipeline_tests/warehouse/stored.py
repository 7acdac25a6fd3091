"""What the tests of the warehouse share: one reading, one row of a bill, what is stored, and ways to damage a file."""

import random
import stat
from collections.abc import Callable
from dataclasses import dataclass, fields
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path

from credits_pipeline import clock
from credits_pipeline.warehouse import Reading, Warehouse

JUNK = random.Random(7).randbytes(50_000)
DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "junk": lambda whole: JUNK,
    "cut in half": lambda whole: whole[: len(whole) // 2],
    "overwritten": lambda whole: whole[:12288] + JUNK + whole[12288 + len(JUNK) :],
}
NOON = datetime(2026, 6, 10, 12, tzinfo=UTC)
DAY = date(2026, 6, 8)
DAYS = [DAY + timedelta(days=n) for n in range(3)]


@dataclass(frozen=True)
class Row:
    usage_date: date
    model: str
    credits_usd: Decimal
    byok_usd: Decimal = Decimal(0)
    requests: int = 1
    prompt_tokens: int = 2
    completion_tokens: int = 3
    reasoning_tokens: int = 4
    cached_tokens: int = 5
    member: str = ""


def reading(at: datetime = NOON, account: str = "default", credits: str = "25", usage: str = "5") -> Reading:
    counters = Decimal(credits), Decimal(usage)
    return Reading(account, at.date(), at, *counters, "ab12cd34", "run", payload='{"data": {}}')


def stored(warehouse: Warehouse, query: str) -> list[tuple[object, ...]]:
    with warehouse.reading() as con:
        return con.execute(query).fetchall()


def newest_reading(warehouse: Warehouse, account: str) -> Reading:
    columns = [field.name for field in fields(Reading)]
    query = f"select {', '.join(columns)} from raw.credits_snapshots where account = '{account}' order by observed_at"
    row = dict(zip(columns, stored(warehouse, query)[-1], strict=True))
    return Reading(**row | {"observed_at": row["observed_at"].replace(tzinfo=UTC)})


def count(warehouse: Warehouse) -> object:
    return stored(warehouse, "select count(*) from raw.credits_snapshots")[0][0]


def replaced(
    warehouse: Warehouse, *rows: Row, at: datetime = NOON, account: str = "default", dimension: str = ""
) -> dict[date, tuple[Decimal | None, Decimal]]:
    """The bill of `DAYS`, fetched at `at`."""
    with clock.frozen(NOON + timedelta(days=1)):
        told = {"fetched_at": at, "run_id": f"run {at:%H}", "dimension": dimension}
        return warehouse.replace_usage(account, DAYS[0], DAYS[-1], list(rows), **told)


def mode(path: Path) -> str:
    return f"{stat.S_IMODE(path.stat().st_mode):o}"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# Another process begins with these; `warehouse` is the one whose path is its first argument.
PRELUDE = """
import os, sys
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from credits_pipeline.warehouse import Reading, Warehouse, WarehouseError
warehouse = Warehouse(Path(sys.argv[1]))
at = datetime(2026, 6, 10, tzinfo=UTC)
def one(account="default", credits=1):
    return Reading(account, at.date(), at, Decimal(credits), Decimal(0), None, "run", payload="x" * 200)
"""

HOLDS_THE_LOCK = (
    PRELUDE
    + """
with warehouse.writing("a long build"):
    print("held", flush=True)
    sys.stdin.read()
"""
)

# A BI tool or a shell: it knows nothing of our lock.
HOLDS_THE_FILE = """
import sys
import duckdb
con = duckdb.connect(sys.argv[1], read_only=sys.argv[2] == "read_only")
print("held", flush=True)
sys.stdin.read()
"""

# No disk is needed to run out of room: the kernel refuses every write beyond the size in argv[2] with EFBIG.
FILLS_THE_DISK = (
    PRELUDE
    + """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
try:
    {attempt}
except WarehouseError as error:
    print(error)
"""
)
