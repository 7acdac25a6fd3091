"""The door to DuckDB, over real files and, where two meet, real second processes."""

import gzip
import os
import random
import shutil
import signal
import stat
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import duckdb
import pytest

from credits_pipeline import clock
from credits_pipeline.errors import CreditsError
from credits_pipeline.warehouse import (
    MIGRATIONS,
    Reading,
    Warehouse,
    WarehouseBusy,
    WarehouseCorrupt,
    WarehouseError,
    open_published,
)

NOON = datetime(2026, 6, 10, 12, tzinfo=UTC)
FIXTURES = Path(__file__).parent.parent / "fixtures"


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


def reading(at: datetime = NOON, account: str = "default", credits: str = "25", usage: str = "5") -> Reading:
    return Reading(
        account=account,
        snapshot_date=at.date(),
        observed_at=at,
        total_credits=Decimal(credits),
        total_usage=Decimal(usage),
        key_fingerprint="ab12cd34",
        run_id="run",
        payload='{"data": {}}',
    )


def stored(warehouse: Warehouse, query: str) -> list[tuple[object, ...]]:
    with warehouse.reading() as con:
        return con.execute(query).fetchall()


def count(warehouse: Warehouse) -> object:
    return stored(warehouse, "select count(*) from raw.credits_snapshots")[0][0]


def python(code: str, *arguments: object, **more: object) -> subprocess.Popen[str]:
    """Another process that runs `code`; its standard input stays open until we close it."""
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **more,  # type: ignore[call-overload]
    )


@contextmanager
def running(code: str, *arguments: object, kill: bool = False) -> Iterator[subprocess.Popen[str]]:
    """Another process, from its first line of output on until the end of the block."""
    process = python(code, *arguments)
    with process:
        assert process.stdout is not None
        first = process.stdout.readline()
        assert first, process.stderr.read() if process.stderr else ""
        try:
            yield process
        finally:
            if kill:
                process.kill()
            process.communicate()


HOLDS_THE_LOCK = """
    import sys
    from pathlib import Path
    from credits_pipeline.warehouse import Warehouse
    with Warehouse(Path(sys.argv[1])).writing("a long build"):
        print("held", flush=True)
        sys.stdin.read()
"""

# A BI tool or a shell: it knows nothing of our lock.
HOLDS_THE_FILE = """
    import sys
    import duckdb
    con = duckdb.connect(sys.argv[1], read_only=sys.argv[2] == "read_only")
    print("held", flush=True)
    sys.stdin.read()
"""


# -- what is written -----------------------------------------------------------------------


def test_a_reading_comes_back_as_it_went_in(warehouse: Warehouse) -> None:
    put = reading(credits="123456789.123456789", usage="0.000000001")
    assert warehouse.append_readings([put]) == 1
    assert warehouse.newest_reading("default") == put


def test_two_readings_of_one_minute_are_both_kept(warehouse: Warehouse) -> None:
    assert warehouse.append_readings([reading(), reading()]) == 2
    assert count(warehouse) == 2


def test_appending_nothing_does_not_even_open_the_file(warehouse: Warehouse) -> None:
    assert warehouse.append_readings([]) == 0
    assert not warehouse.path.exists()


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("1E+3", "1000.000000000"),  # duckdb 1.5.6 binds this Decimal as 1
        ("5E-9", "0.000000005"),
        ("-3.5", "-3.500000000"),
        ("-0", "0.000000000"),
    ],
)
def test_every_way_of_writing_a_decimal_is_stored_to_the_last_digit(
    warehouse: Warehouse, given: str, kept: str
) -> None:
    warehouse.append_readings([reading(usage=given)])
    newest = warehouse.newest_reading("default")
    assert newest is not None
    assert f"{newest.total_usage:f}" == kept


@pytest.mark.parametrize("amount", ["NaN", "Infinity", "1000000000", "-1E+400"])
def test_what_is_no_amount_of_money_is_refused_and_nothing_is_written(
    warehouse: Warehouse, amount: str
) -> None:
    warehouse.append_readings([reading()])
    with pytest.raises(duckdb.Error):
        warehouse.append_readings([reading(), reading(usage=amount)])
    assert count(warehouse) == 1


def test_a_time_without_a_zone_is_refused(warehouse: Warehouse) -> None:
    with pytest.raises(ValueError, match="no time zone"):
        warehouse.append_readings([reading(at=datetime(2026, 6, 10))])


def test_instants_are_stored_in_utc_whatever_zone_the_machine_is_in(warehouse: Warehouse) -> None:
    code = """
        import sys
        from datetime import datetime, timedelta, timezone
        from decimal import Decimal
        from pathlib import Path
        from credits_pipeline.warehouse import Reading, Warehouse
        w = Warehouse(Path(sys.argv[1]))
        at = datetime(2026, 6, 11, 1, 30, tzinfo=timezone(timedelta(hours=9)))
        w.append_readings([Reading("default", at.date(), at, Decimal(1), Decimal(0), None, "run")])
        with w.reading() as con:
            assert con.execute("select current_setting('TimeZone')").fetchall() == [("UTC",)]
    """
    process = python(code, warehouse.path, env={**os.environ, "TZ": "Asia/Tokyo"})
    assert process.wait() == 0, process.communicate()[1]
    process.communicate()
    assert stored(warehouse, "select observed_at from raw.credits_snapshots") == [
        (datetime(2026, 6, 10, 16, 30),)
    ]


def test_hostile_names_are_data(warehouse: Warehouse) -> None:
    name = "'); drop table raw.credits_snapshots; --"
    warehouse.append_readings([reading(account=name)])
    warehouse.replace_usage(
        name, NOON.date(), NOON.date(), [Row(NOON.date(), name, Decimal(1))], fetched_at=NOON, run_id="run"
    )
    assert stored(warehouse, "select account, model from raw.model_usage") == [(name, name)]
    assert warehouse.unsettled_days([name], NOON.date(), NOON.date()) == {name: [NOON.date()]}


def test_the_newest_reading_goes_by_time_not_by_arrival(warehouse: Warehouse) -> None:
    times = [NOON, NOON - timedelta(days=9), NOON + timedelta(days=1), NOON - timedelta(hours=1)]
    warehouse.append_readings([reading(at=at) for at in times])
    warehouse.append_readings([reading(at=NOON + timedelta(days=5), account="other")])
    newest = warehouse.newest_reading("default")
    assert newest is not None
    assert newest.observed_at == times[2]
    assert warehouse.newest_reading("nobody") is None


def test_an_account_has_history_once_it_was_seen_with_credits_or_a_bill(warehouse: Warehouse) -> None:
    assert not warehouse.has_history("default")
    warehouse.append_readings([reading(credits="0", usage="0")])
    assert not warehouse.has_history("default")  # an honest account before its first top-up
    day = NOON.date()
    warehouse.replace_usage("billed", day, day, [Row(day, "m", Decimal(1))], fetched_at=NOON, run_id="run")
    assert warehouse.has_history("billed")
    warehouse.append_readings([reading()])
    assert warehouse.has_history("default")


def test_the_tables_of_alerts_and_versions_are_described(warehouse: Warehouse) -> None:
    """What the other tables mean is said in the SQL project, and written to them by its build."""
    undescribed = """
        select table_name from duckdb_tables() where comment is null and schema_name = 'ops' union all
        select column_name from duckdb_columns() where comment is null and schema_name = 'ops'
    """
    assert stored(warehouse, undescribed) == []


# -- what was billed -----------------------------------------------------------------------

DAY = date(2026, 6, 8)
DAYS = [DAY + timedelta(days=n) for n in range(3)]


def replaced(
    warehouse: Warehouse, *rows: Row, at: datetime = NOON, account: str = "default"
) -> dict[date, tuple[Decimal | None, Decimal]]:
    with clock.frozen(NOON + timedelta(days=1)):
        return warehouse.replace_usage(
            account, DAYS[0], DAYS[-1], list(rows), fetched_at=at, run_id=f"run {at:%H}"
        )


def test_a_day_billed_nothing_becomes_a_known_zero(warehouse: Warehouse) -> None:
    changes = replaced(
        warehouse, Row(DAYS[0], "a", Decimal("0.1")), Row(DAYS[0], "b", Decimal("0.000000002"))
    )
    assert changes == {
        DAYS[0]: (None, Decimal("0.100000002")),
        DAYS[1]: (None, Decimal(0)),
        DAYS[2]: (None, Decimal(0)),
    }
    assert stored(warehouse, "select usage_date, credits_usd, run_id from raw.model_usage_days") == [
        (DAYS[0], Decimal("0.100000002"), "run 12"),
        (DAYS[1], Decimal(0), "run 12"),
        (DAYS[2], Decimal(0), "run 12"),
    ]


def test_replacing_tells_how_much_each_day_moved(warehouse: Warehouse) -> None:
    replaced(warehouse, Row(DAYS[0], "a", Decimal("1.5")))
    later = NOON + timedelta(hours=1)
    changes = replaced(warehouse, Row(DAYS[0], "a", Decimal("1.75")), Row(DAYS[2], "a", Decimal(2)), at=later)
    assert changes[DAYS[0]] == (Decimal("1.5"), Decimal("1.75"))
    assert changes[DAYS[1]] == (Decimal(0), Decimal(0))
    assert changes[DAYS[2]] == (Decimal(0), Decimal(2))


def test_replacing_touches_no_other_day_and_no_other_account(warehouse: Warehouse) -> None:
    replaced(warehouse, *(Row(day, "a", Decimal(1)) for day in DAYS))
    replaced(warehouse, *(Row(day, "a", Decimal(2)) for day in DAYS), account="other")
    with clock.frozen(NOON):
        warehouse.replace_usage("default", DAYS[1], DAYS[1], [], fetched_at=NOON, run_id="run")
    query = "select credits_usd::int from raw.model_usage_days where account = ? order by usage_date"
    with warehouse.reading() as con:
        assert con.execute(query, ["default"]).fetchall() == [(1,), (0,), (1,)]
        assert con.execute(query, ["other"]).fetchall() == [(2,), (2,), (2,)]


def test_replacing_twice_is_the_same_as_once(warehouse: Warehouse) -> None:
    rows = [Row(day, model, Decimal("0.123456789")) for day in DAYS for model in "ab"]
    tables = ("raw.model_usage", "raw.model_usage_days")
    replaced(warehouse, *rows)
    once = [stored(warehouse, f"from {table} order by all") for table in tables]
    replaced(warehouse, *rows)
    assert [stored(warehouse, f"from {table} order by all") for table in tables] == once


def test_of_two_fetches_the_later_one_wins_in_whichever_order_they_arrive(warehouse: Warehouse) -> None:
    replaced(warehouse, Row(DAYS[0], "a", Decimal(2)), at=NOON)
    assert replaced(warehouse, Row(DAYS[0], "a", Decimal(1)), at=NOON - timedelta(minutes=5)) == {}
    assert stored(warehouse, "select credits_usd from raw.model_usage") == [(Decimal(2),)]


def test_a_fetch_from_the_future_does_not_shut_out_the_present(warehouse: Warehouse) -> None:
    """A clock that ran a year ahead for an hour must not freeze the bill for a year."""
    with clock.frozen(NOON + timedelta(days=365)):
        warehouse.replace_usage(
            "default", DAY, DAY, [Row(DAY, "a", Decimal(1))], fetched_at=clock.now(), run_id="ahead"
        )
        assert warehouse.unsettled_days(["default"], DAY, DAY) == {"default": []}
    with clock.frozen(NOON):
        assert warehouse.unsettled_days(["default"], DAY, DAY) == {"default": [DAY]}
        warehouse.replace_usage(
            "default", DAY, DAY, [Row(DAY, "a", Decimal(2))], fetched_at=clock.now(), run_id="right"
        )
    assert stored(warehouse, "select credits_usd, run_id from raw.model_usage_days") == [
        (Decimal(2), "right")
    ]


@pytest.mark.parametrize(
    "rows",
    [
        [Row(DAY - timedelta(days=1), "a", Decimal(1))],
        [Row(DAY, "a", Decimal(1)), Row(DAY, "a", Decimal(1))],
        [Row(DAY, "a", Decimal(1)), Row(DAY, "b", Decimal("NaN"))],
        [Row(DAY, "a", Decimal(1)), Row(DAY, "b", Decimal(1), requests=2**63)],
    ],
)
def test_rows_that_cannot_be_are_refused_and_nothing_is_written(
    warehouse: Warehouse, rows: list[Row]
) -> None:
    replaced(warehouse, Row(DAY, "a", Decimal(7)))
    with pytest.raises((ValueError, duckdb.Error)):
        replaced(warehouse, *rows, at=NOON + timedelta(hours=1))
    assert stored(warehouse, "select usage_date, credits_usd from raw.model_usage") == [(DAY, Decimal(7))]
    assert len(stored(warehouse, "from raw.model_usage_days")) == 3


def test_several_accounts_are_replaced_in_one_transaction(warehouse: Warehouse) -> None:
    def store_three() -> None:
        with warehouse.writing("usage") as con:
            for account in ("one", "two"):
                warehouse.replace_usage(account, DAY, DAY, [], fetched_at=NOON, run_id="run", con=con)
            raise KeyError("the third account")

    with pytest.raises(KeyError):
        store_three()
    assert stored(warehouse, "from raw.model_usage_days") == []


def test_a_day_is_settled_48_hours_after_its_end(warehouse: Warehouse) -> None:
    settled_from = datetime(2026, 6, 11, tzinfo=UTC)  # the end of the 8th is the 9th at 00:00
    with clock.frozen(settled_from + timedelta(days=9)):
        for account, at in (("early", settled_from - timedelta(microseconds=1)), ("late", settled_from)):
            warehouse.replace_usage(account, DAY, DAY, [], fetched_at=at, run_id="run")
        days = warehouse.unsettled_days(["early", "late", "new"], DAY - timedelta(days=1), DAY)
    assert days == {"early": [DAY - timedelta(days=1), DAY], "late": [DAY - timedelta(days=1)]} | {
        "new": [DAY - timedelta(days=1), DAY]
    }


# -- one transaction -----------------------------------------------------------------------


@pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt, SystemExit, GeneratorExit])
def test_any_exception_undoes_everything(warehouse: Warehouse, failure: type[BaseException]) -> None:
    def build() -> None:
        with warehouse.writing("a build") as con:
            warehouse.append_readings([reading()], con=con)
            con.execute("create table marts.half_done as select 1 as one")
            raise failure

    with pytest.raises(failure):
        build()
    assert count(warehouse) == 0
    assert stored(warehouse, "select table_name from duckdb_tables() where schema_name = 'marts'") == []
    warehouse.append_readings([reading()])


def test_a_failing_statement_undoes_everything_and_keeps_its_own_name(warehouse: Warehouse) -> None:
    def build() -> None:
        with warehouse.writing("a build") as con:
            warehouse.append_readings([reading()], con=con)
            con.execute("select 'not a number'::int")

    with pytest.raises(duckdb.ConversionException):
        build()
    assert count(warehouse) == 0


def test_reading_cannot_write(warehouse: Warehouse) -> None:
    with pytest.raises(duckdb.Error, match="read-only"), warehouse.reading() as con:
        con.execute("delete from raw.credits_snapshots")


def test_nothing_is_loaded_from_the_network(warehouse: Warehouse) -> None:
    with warehouse.reading() as con, pytest.raises(duckdb.Error):
        con.execute("from 'https://127.0.0.1:9/nothing.parquet'")


# -- the file ------------------------------------------------------------------------------


def mode(path: Path) -> str:
    return f"{stat.S_IMODE(path.stat().st_mode):o}"


@pytest.mark.parametrize("umask", [0, 0o077])
def test_files_are_for_our_eyes_only_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        warehouse = Warehouse(tmp_path / "data" / "warehouse.duckdb")
        with warehouse.writing("looking") as con:
            warehouse.append_readings([reading()], con=con)
            con.execute("commit")  # so that the log is there to be looked at
            modes = {path.name: mode(path) for path in warehouse.path.parent.iterdir()}
            con.execute("begin")
        assert mode(warehouse.path.parent) == "700"
        assert modes == dict.fromkeys(
            ["warehouse.duckdb"] + [f"warehouse.duckdb.{end}" for end in ("wal", "lock")], "600"
        )
        assert os.umask(umask) == umask
    finally:
        os.umask(before)


def test_a_directory_that_the_user_opened_to_others_stays_open(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data").chmod(0o755)
    Warehouse(tmp_path / "data" / "warehouse.duckdb").append_readings([reading()])
    assert mode(tmp_path / "data") == "755"


def test_the_file_has_the_format_that_old_drivers_read(warehouse: Warehouse) -> None:
    warehouse.append_readings([reading()])
    # Bytes 12 to 20 of the main header: the version of the format. 64 is that of 0.9 to 1.1.
    assert int.from_bytes(warehouse.path.read_bytes()[12:20], "little") == 64


JUNK = random.Random(7).randbytes(50_000)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(lambda whole: JUNK, id="junk"),
        pytest.param(lambda whole: b"", id="empty"),
        pytest.param(lambda whole: b"SQLite format 3\0" + JUNK, id="another database"),
        pytest.param(lambda whole: whole[: len(whole) // 2], id="cut in half"),
        pytest.param(lambda whole: whole[:9000], id="cut in the header"),
        pytest.param(lambda whole: whole[:12288] + JUNK + whole[12288 + 50_000 :], id="overwritten"),
    ],
)
def test_a_damaged_file_is_named_and_never_replaced_by_an_empty_one(
    warehouse: Warehouse, content: object
) -> None:
    warehouse.append_readings([reading()])
    damaged = content(warehouse.path.read_bytes())  # type: ignore[operator]
    warehouse.path.write_bytes(damaged)
    for attempt in (lambda: warehouse.append_readings([reading()]), lambda: count(warehouse)):
        with pytest.raises(WarehouseCorrupt, match="make restore") as caught:
            attempt()
        assert str(warehouse.path) in str(caught.value)
        assert "\n" not in str(caught.value)
    assert warehouse.path.read_bytes() == damaged


def test_a_log_without_its_database_is_not_covered_by_an_empty_one(warehouse: Warehouse) -> None:
    warehouse.path.parent.mkdir()
    (warehouse.path.parent / "warehouse.duckdb.wal").write_bytes(b"something")
    with pytest.raises(WarehouseCorrupt, match="has lost its database"):
        warehouse.append_readings([reading()])
    assert not warehouse.path.exists()


def test_somebody_elses_database_is_left_alone(warehouse: Warehouse) -> None:
    warehouse.path.parent.mkdir()
    with duckdb.connect(str(warehouse.path)) as con:
        con.execute("create table theirs as select 1 as one")
    with pytest.raises(WarehouseCorrupt, match="no warehouse of this program"):
        warehouse.append_readings([reading()])
    with duckdb.connect(str(warehouse.path), read_only=True) as con:
        assert con.execute("from theirs").fetchall() == [(1,)]


def test_a_file_in_the_place_of_the_data_directory_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file", encoding="utf-8")
    for path in (tmp_path / "data" / "warehouse.duckdb", tmp_path / "data" / "deeper" / "warehouse.duckdb"):
        with pytest.raises(CreditsError, match="is no directory: name another one"):
            Warehouse(path).append_readings([reading()])


NO_FILE = {
    "pipe": os.mkfifo,
    "folder": Path.mkdir,
    "link to nowhere": lambda path: path.symlink_to("/nowhere/file"),
}


@pytest.mark.parametrize("what", NO_FILE)
@pytest.mark.parametrize("suffix", ["", ".wal", ".lock"])
def test_what_is_no_file_in_the_place_of_one_is_one_sentence_and_neither_waited_for_nor_covered(
    warehouse: Warehouse, what: str, suffix: str
) -> None:
    """A pipe would be read for ever; a link whose disk is not mounted would be replaced by an empty warehouse."""
    warehouse.path.parent.mkdir()
    place = warehouse.path.with_name(warehouse.path.name + suffix)
    NO_FILE[what](place)
    with pytest.raises(CreditsError, match=f"{place} .* no file: mount its disk or move it away"):
        warehouse.append_readings([reading()])
    assert os.path.lexists(place)
    assert not place.is_file()


@pytest.mark.parametrize("what", NO_FILE)
@pytest.mark.parametrize("suffix", ["", ".wal"])
def test_what_is_no_file_in_the_place_of_the_published_copy_is_one_sentence(
    warehouse: Warehouse, what: str, suffix: str
) -> None:
    warehouse.append_readings([reading()])
    target = warehouse.path.with_name("credits.duckdb")
    NO_FILE[what](target.with_name(target.name + suffix))
    with pytest.raises(CreditsError, match=f"{target}{suffix} .* no file: mount its disk"):
        warehouse.publish(target, run_id="run", published_at=NOON, version="1", is_simulated=True)
    assert {path.name for path in target.parent.iterdir()} == {
        "warehouse.duckdb",
        "warehouse.duckdb.lock",
        target.name + suffix,
    }
    if not suffix:
        with pytest.raises(CreditsError), open_published(target):
            pass


def test_a_warehouse_behind_a_link_stays_behind_it(warehouse: Warehouse, tmp_path: Path) -> None:
    warehouse.append_readings([reading()])
    warehouse.path.rename(tmp_path / "elsewhere")
    warehouse.path.symlink_to(tmp_path / "elsewhere")
    warehouse.append_readings([reading()])
    assert warehouse.path.is_symlink()
    warehouse.path.unlink()
    (tmp_path / "elsewhere").rename(warehouse.path)
    with warehouse.reading() as con:
        assert con.execute("select count(*) from raw.credits_snapshots").fetchall() == [(2,)]


def unprivileged(code: str, path: Path) -> "subprocess.CompletedProcess[str]":
    """Run `code` as a user whom file modes stop, also where the tests run as root."""
    prelude = """
        import os, sys
        from datetime import UTC, datetime
        from decimal import Decimal
        from pathlib import Path
        import duckdb
        from credits_pipeline import warehouse as w
        w.Warehouse(Path(sys.argv[1]).parent / "warm-up.duckdb").reading().__enter__()
        path = Path(sys.argv[1])
        at = datetime(2026, 6, 10, tzinfo=UTC)
        one = w.Reading("default", at.date(), at, Decimal(1), Decimal(0), None, "run")
        def told(call):
            try:
                call()
            except w.WarehouseError as error:
                print(type(error).__name__, error)
            else:
                print("went well")
    """
    whole = textwrap.dedent(prelude) + textwrap.dedent(code)
    return subprocess.run(
        [sys.executable, "-c", whole, str(path)], capture_output=True, text=True, check=True, timeout=60
    )


@pytest.mark.parametrize(
    ("what", "bits"), [("warehouse.duckdb", 0o000), ("warehouse.duckdb", 0o400), (".", 0o500)]
)
def test_a_missing_permission_is_one_sentence(tmp_path: Path, what: str, bits: int) -> None:
    data = tmp_path / "data"
    warehouse = Warehouse(data / "warehouse.duckdb")
    warehouse.append_readings([reading()])
    (data / "warehouse.duckdb.lock").unlink()
    if os.geteuid() == 0:  # root may do everything: hand the files over and step down
        for path in (data, *data.iterdir()):
            os.chown(path, 65534, 65534)
    data.joinpath(what).chmod(bits)
    for parent in list(data.parents)[:-2] if os.geteuid() == 0 else []:
        parent.chmod(0o755)
    done = unprivileged(
        """
        if os.geteuid() == 0:
            os.setegid(65534); os.seteuid(65534)
        told(lambda: w.Warehouse(path, lock_timeout_s=0).append_readings([one]))
        """,
        tmp_path / "data" / "warehouse.duckdb",
    )
    data.chmod(0o700)
    assert done.stdout.startswith("WarehouseError No permission to use "), done.stdout
    assert "readable and writable for this user" in done.stdout
    assert count(warehouse) == 1


FILLS_THE_DISK = """
    import resource, sys
    from datetime import UTC, datetime
    from decimal import Decimal
    from pathlib import Path
    from credits_pipeline import warehouse as w
    path, size = Path(sys.argv[1]), int(sys.argv[2])
    at = datetime(2026, 6, 10, tzinfo=UTC)
    def rows(n):
        return [
            w.Reading(f"account {i}", at.date(), at, Decimal(i), Decimal(i) / 7, None, "run", payload=f"{i:0200d}")
            for i in range(n)
        ]
    # No disk is needed to run out of room: the kernel refuses every write beyond this size with EFBIG.
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
    try:
        {attempt}
    except w.WarehouseError as error:
        print(type(error).__name__, error)
"""


@pytest.mark.parametrize("room", [0, 40_000, 400_000, 1_400_000])
def test_running_out_of_room_loses_no_committed_reading(warehouse: Warehouse, room: int) -> None:
    warehouse.append_readings([reading()])
    attempt = FILLS_THE_DISK.replace("{attempt}", "w.Warehouse(path).append_readings(rows(20_000))")
    process = python(attempt, warehouse.path, room)
    out, err = process.communicate(timeout=60)
    assert out.startswith("WarehouseError No room to write"), out + err
    assert count(warehouse) == 1
    assert warehouse.append_readings([reading()] * 1000) == 1000
    assert count(warehouse) == 1001


def test_no_room_for_the_first_file_leaves_none(warehouse: Warehouse) -> None:
    attempt = FILLS_THE_DISK.replace("{attempt}", "w.Warehouse(path).append_readings(rows(1))")
    out, err = python(attempt, warehouse.path, 100_000).communicate(timeout=60)
    assert out.startswith("WarehouseError No room to write"), out + err
    assert not warehouse.path.exists()
    assert warehouse.append_readings([reading()]) == 1


# -- who holds it --------------------------------------------------------------------------


def test_who_waits_in_vain_is_told_who_holds_it(warehouse: Warehouse) -> None:
    with running(HOLDS_THE_LOCK, warehouse.path) as holder:
        impatient = Warehouse(warehouse.path, lock_timeout_s=0.2)
        for attempt in (lambda: impatient.append_readings([reading()]), lambda: count(impatient)):
            with pytest.raises(WarehouseBusy) as caught:
                attempt()
            message = str(caught.value)
            assert f"process {holder.pid} on " in message
            assert "(a long build) since 20" in message
            assert message.endswith("let it finish or stop it, then run this again.")
    assert warehouse.append_readings([reading()]) == 1


def test_who_waits_long_enough_gets_it(warehouse: Warehouse) -> None:
    with running(HOLDS_THE_LOCK, warehouse.path) as holder:
        waiting = python(
            """
            import sys
            from datetime import UTC, datetime
            from decimal import Decimal
            from pathlib import Path
            from credits_pipeline.warehouse import Reading, Warehouse
            at = datetime(2026, 6, 10, tzinfo=UTC)
            print("waiting", flush=True)
            Warehouse(Path(sys.argv[1])).append_readings(
                [Reading("default", at.date(), at, Decimal(1), Decimal(0), None, "run")]
            )
            """,
            warehouse.path,
        )
        assert waiting.stdout is not None
        assert waiting.stdout.readline() == "waiting\n"
        assert waiting.poll() is None
        holder.communicate()  # its input ends: it lets go
        _, errors = waiting.communicate(timeout=60)
    assert waiting.returncode == 0, errors
    assert count(warehouse) == 1


def test_a_killed_holder_blocks_nobody_and_is_not_named(warehouse: Warehouse) -> None:
    with running(HOLDS_THE_LOCK, warehouse.path, kill=True) as dead:
        pass
    note = warehouse.path.parent / "warehouse.duckdb.lock"
    assert str(dead.pid) in note.read_text(encoding="utf-8")
    left_behind = note.read_bytes()
    assert warehouse.append_readings([reading()]) == 1
    with running(HOLDS_THE_LOCK, warehouse.path):
        note.write_bytes(left_behind)  # as it is before the next holder has written its own
        with pytest.raises(WarehouseBusy, match="is held by another process: "):
            count(Warehouse(warehouse.path, lock_timeout_s=0))


@pytest.mark.parametrize("how", ["read_write", "read_only"])
def test_a_program_that_opens_the_warehouse_by_itself_is_waited_for_and_named(
    warehouse: Warehouse, how: str
) -> None:
    warehouse.append_readings([reading()])
    with running(HOLDS_THE_FILE, warehouse.path, how) as holder:
        with pytest.raises(WarehouseBusy, match=f"PID {holder.pid}"):
            Warehouse(warehouse.path, lock_timeout_s=0.2).append_readings([reading()])
        if how == "read_only":
            assert count(warehouse) == 1
    assert warehouse.append_readings([reading()]) == 1


def test_a_connection_of_this_process_is_named_as_such(warehouse: Warehouse) -> None:
    warehouse.append_readings([reading()])
    impatient = Warehouse(warehouse.path, lock_timeout_s=0)
    with duckdb.connect(str(warehouse.path)), pytest.raises(WarehouseBusy, match="this very process"):
        impatient.append_readings([reading()])


def test_opening_it_twice_in_a_row_of_calls_is_refused_and_not_a_deadlock(warehouse: Warehouse) -> None:
    impatient = Warehouse(warehouse.path, lock_timeout_s=0.1)
    with impatient.writing("outer"), pytest.raises(WarehouseBusy, match=f"process {os.getpid()} "):
        impatient.append_readings([reading()])


def test_writers_in_several_processes_take_turns_and_lose_nothing(warehouse: Warehouse) -> None:
    code = """
        import sys
        from datetime import UTC, datetime
        from decimal import Decimal
        from pathlib import Path
        from credits_pipeline.warehouse import Reading, Warehouse
        at = datetime(2026, 6, 10, tzinfo=UTC)
        for _ in range(5):
            Warehouse(Path(sys.argv[1])).append_readings(
                [Reading(sys.argv[2], at.date(), at, Decimal(1), Decimal(0), None, "run")]
            )
    """
    writers = [python(code, warehouse.path, name) for name in "abc"]
    for writer in writers:
        assert writer.communicate(timeout=120)[1] == ""
    assert stored(
        warehouse, "select account, count(*) from raw.credits_snapshots group by all order by all"
    ) == [
        ("a", 5),
        ("b", 5),
        ("c", 5),
    ]


# -- killed --------------------------------------------------------------------------------

# Says the number of every batch that is committed; a batch is 50 readings and one usage day.
COMMITS_UNTIL_KILLED = """
    import sys
    from datetime import UTC, date, datetime, timedelta
    from decimal import Decimal
    from pathlib import Path
    from credits_pipeline.warehouse import Reading, Warehouse
    warehouse, start = Warehouse(Path(sys.argv[1])), int(sys.argv[2])
    at = datetime(2026, 6, 10, tzinfo=UTC)
    print("begun", flush=True)
    for batch in range(start, start + 1000):
        with warehouse.writing("a batch") as con:
            rows = [Reading(str(batch), at.date(), at, Decimal(i), Decimal(0), None, "run") for i in range(50)]
            warehouse.append_readings(rows, con=con)
            day = date(2020, 1, 1) + timedelta(days=batch)
            warehouse.replace_usage("default", day, day, [], fetched_at=at, run_id="run", con=con)
        print(batch, flush=True)
"""


def survive_kills(warehouse: Warehouse, times: int, seed: int) -> None:
    moments, committed = random.Random(seed), 0
    for _ in range(times):
        process = python(COMMITS_UNTIL_KILLED, warehouse.path, committed)
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=moments.uniform(0.0, 0.6))
        process.kill()
        out, _ = process.communicate()
        told = [int(line) for line in out.splitlines() if line.isdigit()]
        batches = stored(
            warehouse, "select account::int, count(*) from raw.credits_snapshots group by all order by all"
        )
        assert [size for _, size in batches] == [50] * len(batches)
        assert len(batches) >= (told[-1] + 1 if told else committed), "a committed batch is gone"
        assert stored(warehouse, "select count(*) from raw.model_usage_days") == [(len(batches),)]
        committed = len(batches)


def test_a_process_killed_at_any_moment_leaves_whole_transactions(warehouse: Warehouse) -> None:
    survive_kills(warehouse, times=4, seed=1)


@pytest.mark.heavy
def test_fifty_killed_processes_leave_whole_transactions(warehouse: Warehouse) -> None:
    survive_kills(warehouse, times=50, seed=2)


def test_a_process_killed_while_it_creates_the_file_leaves_a_healthy_start(tmp_path: Path) -> None:
    for number, delay in enumerate([0.0, 0.02, 0.04, 0.06, 0.1]):
        warehouse = Warehouse(tmp_path / str(number) / "warehouse.duckdb")
        process = python(COMMITS_UNTIL_KILLED, warehouse.path, 0)
        assert process.stdout is not None
        process.stdout.readline()
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=delay)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        warehouse.append_readings([reading()])
        assert sorted(path.name for path in warehouse.path.parent.iterdir()) == [
            "warehouse.duckdb",
            "warehouse.duckdb.lock",
        ]


# -- versions ------------------------------------------------------------------------------


@pytest.fixture
def next_release(tmp_path: Path) -> Path:
    """The migrations of a release that comes after this one."""
    steps = shutil.copytree(MIGRATIONS, tmp_path / "next_release")
    number = len(list(steps.glob("*.sql"))) + 1
    step = "alter table raw.credits_snapshots add column note varchar; update raw.credits_snapshots set note = 'old'"
    (steps / f"{number:04}_notes.sql").write_text(step, encoding="utf-8")
    return steps


def test_an_older_file_is_brought_up_to_date_and_kept_as_it_was(
    warehouse: Warehouse, next_release: Path
) -> None:
    warehouse.append_readings([reading()])
    newer = Warehouse(warehouse.path, migrations=next_release)
    assert stored(newer, "select note from raw.credits_snapshots") == [("old",)]
    (kept,) = warehouse.path.parent.glob("warehouse.duckdb.version-1-*")
    assert count(Warehouse(kept)) == 1
    assert mode(kept) == "600"
    assert stored(newer, "select note from raw.credits_snapshots") == [("old",)]
    assert len(list(warehouse.path.parent.glob("warehouse.duckdb.version-*Z"))) == 1


def test_a_migration_that_fails_changes_nothing(warehouse: Warehouse, next_release: Path) -> None:
    warehouse.append_readings([reading()])
    last = sorted(next_release.glob("*.sql"))[-1]
    last.write_text(last.read_text(encoding="utf-8") + "; select 'not a number'::int", encoding="utf-8")
    with pytest.raises(duckdb.Error, match="not a number"):
        count(Warehouse(warehouse.path, migrations=next_release))
    assert count(warehouse) == 1


def test_a_file_of_a_newer_release_is_refused_and_left_alone(
    warehouse: Warehouse, next_release: Path
) -> None:
    warehouse.append_readings([reading()])
    count(Warehouse(warehouse.path, migrations=next_release))
    for attempt in (lambda: warehouse.append_readings([reading()]), lambda: count(warehouse)):
        with pytest.raises(WarehouseError, match=r"newer release of this program.*update this program"):
            attempt()
    assert count(Warehouse(warehouse.path, migrations=next_release)) == 1


def test_a_file_of_the_first_release_still_opens(warehouse: Warehouse) -> None:
    """The fixture was written by the first release (duckdb 1.5.6) and is never made anew."""
    warehouse.path.parent.mkdir()
    packed = FIXTURES / "warehouse_of_version_1.duckdb.gz"
    warehouse.path.write_bytes(gzip.decompress(packed.read_bytes()))
    newest = warehouse.newest_reading("default")
    assert newest == reading(at=NOON, credits="25", usage="5.123456789")
    assert stored(warehouse, "select usage_date, credits_usd from raw.model_usage_days") == [
        (DAY, Decimal("0.25")),
        (DAY + timedelta(days=1), Decimal(0)),
    ]
    assert warehouse.append_readings([reading()]) == 1


def test_the_tables_of_the_first_release_are_not_edited_afterwards(
    warehouse: Warehouse, tmp_path: Path
) -> None:
    """A change of a table is a new migration: files in use have run the first one already."""
    columns = """
        select schema_name, table_name, column_index, column_name, data_type, is_nullable from duckdb_columns()
        where database_name = 'warehouse' and schema_name in ('raw', 'ops') order by all
    """
    first = tmp_path / "first release"
    first.mkdir()
    shutil.copy(min(MIGRATIONS.glob("*.sql")), first)
    packed = FIXTURES / "warehouse_of_version_1.duckdb.gz"
    old = Warehouse(tmp_path / "old.duckdb", migrations=first)
    old.path.write_bytes(gzip.decompress(packed.read_bytes()))
    assert stored(Warehouse(warehouse.path, migrations=first), columns) == stored(old, columns)


# -- backups -------------------------------------------------------------------------------


@pytest.fixture
def filled(warehouse: Warehouse) -> Warehouse:
    warehouse.append_readings([reading(), reading(at=NOON + timedelta(days=1))])
    replaced(warehouse, Row(DAY, "a", Decimal("0.123456789")))
    with warehouse.writing("marts and alerts") as con:
        con.execute(
            "create table marts.credits_readings as select account, total_usage from raw.credits_snapshots"
        )
        con.execute("comment on table marts.credits_readings is 'It''s described.'")
        con.execute(
            """
            insert into ops.alerts_sent (alert_key, kind, channel, title, body, due_at)
            values ('key', 'run_out', 'log', 'title', 'body', '2026-06-10')
            """
        )
    return warehouse


def everything(warehouse: Warehouse) -> dict[str, list[tuple[object, ...]]]:
    """What a backup must bring back: the rows of every table that cannot be built anew, and all that is in the file."""
    found = {"catalog": stored(warehouse, CATALOG)}
    for name in ("raw.credits_snapshots", "raw.model_usage", "raw.model_usage_days", "ops.alerts_sent"):
        found[name] = stored(warehouse, f"from {name}")
    return found


CATALOG = """
    select schema_name, table_name, sql from duckdb_tables() where schema_name <> 'marts' union all
    select schema_name, view_name, sql from duckdb_views() where not internal union all
    select schema_name, function_name, macro_definition from duckdb_functions() where not internal
    order by all
"""


def test_a_backup_brings_back_every_row_that_cannot_be_built_anew(filled: Warehouse, tmp_path: Path) -> None:
    before = everything(filled)
    made = filled.backup(tmp_path / "backups")
    filled.append_readings([reading(at=NOON + timedelta(days=2))])
    kept = filled.restore(made)
    assert everything(filled) == before
    assert kept is not None
    assert count(Warehouse(kept)) == 3
    assert mode(filled.path) == "600"


def test_a_backup_has_exact_parquet_of_the_raw_and_mart_tables(filled: Warehouse, tmp_path: Path) -> None:
    made = filled.backup(tmp_path / "backups")
    assert mode(made) == "700"
    assert sorted(str(path.relative_to(made)) for path in made.rglob("*.*")) == [
        "marts/credits_readings.parquet",
        "raw/credits_snapshots.parquet",
        "raw/model_usage.parquet",
        "raw/model_usage_days.parquet",
        "warehouse.duckdb",
    ]
    assert {mode(path) for path in made.rglob("*.*")} == {"600"}
    usage = duckdb.sql(f"select credits_usd, typeof(credits_usd) from '{made}/raw/model_usage.parquet'")
    assert usage.fetchall() == [(Decimal("0.123456789"), "DECIMAL(18,9)")]


FORMULAS = [
    "=1+1",
    "+1",
    "-1",
    "@SUM(A1)",
    "\t=1+1",
    "\r=1+1",
    '=HYPERLINK("http://evil.example")',
    "=cmd|' /C calc'!A0",
]


def test_an_export_is_typed_so_that_a_name_that_looks_like_a_formula_stays_text(
    warehouse: Warehouse, tmp_path: Path
) -> None:
    """A spreadsheet computes what begins so in CSV, of which this program writes none; in Parquet text is text."""
    replaced(warehouse, *(Row(DAY, name, Decimal("1")) for name in FORMULAS))
    made = warehouse.backup(tmp_path / "backups")
    assert {path.suffix for path in made.rglob("*") if path.is_file()} == {".duckdb", ".parquet"}
    names = duckdb.sql(f"select model, typeof(model) from '{made}/raw/model_usage.parquet' order by model")
    assert names.fetchall() == [(name, "VARCHAR") for name in sorted(FORMULAS)]


def test_a_damaged_warehouse_is_kept_aside_by_restore(filled: Warehouse, tmp_path: Path) -> None:
    made = filled.backup(tmp_path / "backups")
    filled.path.write_bytes(JUNK)
    (filled.path.parent / "warehouse.duckdb.wal").write_bytes(b"its log")
    kept = filled.restore(made / "warehouse.duckdb")
    assert kept is not None
    assert kept.read_bytes() == JUNK
    assert kept.with_name(kept.name + ".wal").read_bytes() == b"its log"
    assert count(filled) == 2
    assert not (filled.path.parent / "warehouse.duckdb.wal").exists()


def test_restore_into_an_empty_place(filled: Warehouse, tmp_path: Path) -> None:
    made = filled.backup(tmp_path / "backups")
    elsewhere = Warehouse(tmp_path / "new machine" / "warehouse.duckdb")
    assert elsewhere.restore(made) is None
    assert everything(elsewhere) == everything(filled)


def test_a_damaged_backup_changes_nothing(filled: Warehouse, tmp_path: Path) -> None:
    made = filled.backup(tmp_path / "backups") / "warehouse.duckdb"
    whole = made.read_bytes()
    for damaged in (JUNK, whole[: len(whole) // 2], whole[:12288] + JUNK + whole[12288 + 50_000 :]):
        made.write_bytes(damaged)
        with pytest.raises(WarehouseCorrupt, match="is damaged"):
            filled.restore(made)
        assert count(filled) == 2
    assert sorted(path.name for path in filled.path.parent.iterdir()) == [
        "warehouse.duckdb",
        "warehouse.duckdb.lock",
    ]


def forge(made: Path, change: str) -> Path:
    with duckdb.connect(str(made / "warehouse.duckdb")) as con:
        con.execute(change)
    return made


@pytest.mark.parametrize(
    "forgery",
    [
        """
        alter table raw.model_usage rename to hidden;
        create view raw.model_usage as select * replace ((select content from read_text('/etc/hostname')) as model)
        from raw.hidden
        """,
        "drop table raw.credits_snapshots",
        "alter table raw.model_usage drop credits_usd",
        "update ops.schema_version set version = 0",
        "alter table ops.schema_version alter version type varchar using 'one'",
        "alter table ops.schema_version rename version to number",
    ],
)
def test_a_file_without_our_tables_is_no_backup_and_changes_nothing(
    filled: Warehouse, tmp_path: Path, forgery: str
) -> None:
    made = forge(filled.backup(tmp_path / "backups"), forgery)
    before = everything(filled)
    with pytest.raises(WarehouseCorrupt, match="no backup of ours"):
        filled.restore(made)
    assert everything(filled) == before
    assert list(filled.path.parent.glob("*before-restore*")) == []


@pytest.mark.parametrize(
    "forgery",
    [
        "create view marts.daily_spend as select content from read_text('/etc/hostname')",
        "create macro greatest(a, b) as 7",
        'create table raw."/tmp/elsewhere" (i integer)',
        "alter table ops.alerts_sent add column more varchar",
        "alter table raw.model_usage alter credits_usd type double",
        "alter table raw.credits_snapshots alter payload set default 'theirs'",
    ],
)
def test_nothing_but_the_rows_of_our_tables_comes_along_with_a_backup(
    filled: Warehouse, tmp_path: Path, forgery: str
) -> None:
    before = everything(filled)
    filled.restore(forge(filled.backup(tmp_path / "backups"), forgery))
    assert everything(filled) == before


def test_a_pipe_in_the_place_of_a_backup_is_refused_and_not_waited_for(
    filled: Warehouse, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(CreditsError, match="is no file"):
        filled.restore(tmp_path / "pipe")


def test_two_warehouses_back_up_into_one_folder_at_once(filled: Warehouse, tmp_path: Path) -> None:
    other = Warehouse(tmp_path / "other" / "warehouse.duckdb")
    other.append_readings([reading()])
    into = tmp_path / "backups"
    with clock.frozen(NOON), ThreadPoolExecutor(2) as pool:
        made = [path for _ in range(3) for path in pool.map(lambda one: one.backup(into), [filled, other])]
    assert len(set(made)) == 6
    assert [count(Warehouse(path / "warehouse.duckdb")) for path in made] == [2, 1] * 3


def test_restoring_from_nowhere_or_from_itself_says_so(filled: Warehouse, tmp_path: Path) -> None:
    with pytest.raises(WarehouseError, match=r"There is no backup at .*make backup"):
        filled.restore(tmp_path / "nowhere")
    with pytest.raises(WarehouseError, match="is the warehouse itself"):
        filled.restore(filled.path)
    assert count(filled) == 2


def test_restore_waits_for_a_program_that_has_the_file_open(filled: Warehouse, tmp_path: Path) -> None:
    made = filled.backup(tmp_path / "backups")
    with running(HOLDS_THE_FILE, filled.path, "read_only"), pytest.raises(WarehouseBusy):
        Warehouse(filled.path, lock_timeout_s=0.1).restore(made)
    assert list(filled.path.parent.glob("*.before-restore-*")) == []


def test_a_restore_killed_at_any_moment_leaves_the_earlier_file_or_the_backup(
    filled: Warehouse, tmp_path: Path
) -> None:
    made = filled.backup(tmp_path / "backups")
    filled.append_readings([reading(at=NOON + timedelta(days=2))])
    code = """
        import sys
        from pathlib import Path
        from credits_pipeline.warehouse import Warehouse
        print("begun", flush=True)
        Warehouse(Path(sys.argv[1])).restore(Path(sys.argv[2]))
    """
    for delay in (0.1, 0.15, 0.2, 0.25):
        process = python(code, filled.path, made)
        assert process.stdout is not None
        process.stdout.readline()
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=delay)
        process.kill()
        process.communicate()
        assert count(filled) in (2, 3)
    filled.restore(made)
    assert count(filled) == 2
    assert list(filled.path.parent.glob(".*")) == []


def test_backups_and_restores_of_one_instant_overwrite_nothing(filled: Warehouse, tmp_path: Path) -> None:
    with clock.frozen(NOON + timedelta(days=2)):
        first = filled.backup(tmp_path / "backups")
        filled.append_readings([reading()])
        second = filled.backup(tmp_path / "backups")
        kept = [filled.restore(first), filled.restore(second)]
    assert first != second
    assert [count(Warehouse(path)) for path in kept if path] == [3, 2]
    assert count(filled) == 3


def test_a_backup_that_was_cut_short_does_not_look_like_one(filled: Warehouse, tmp_path: Path) -> None:
    attempt = FILLS_THE_DISK.replace("{attempt}", "w.Warehouse(path).backup(path.parent.parent / 'backups')")
    out, err = python(attempt, filled.path, 300_000).communicate(timeout=60)
    assert out.startswith(f"WarehouseError No room to write {tmp_path}/backups/"), out + err
    assert list((tmp_path / "backups").iterdir()) == []


def test_no_room_to_restore_changes_nothing_and_leaves_no_litter(filled: Warehouse, tmp_path: Path) -> None:
    made = filled.backup(tmp_path / "backups")
    filled.append_readings([reading()])
    attempt = FILLS_THE_DISK.replace("{attempt}", f"w.Warehouse(path).restore(Path({str(made)!r}))")
    out, err = python(attempt, filled.path, 300_000).communicate(timeout=60)
    assert out.startswith("WarehouseError"), out + err
    assert count(filled) == 3
    assert sorted(path.name for path in filled.path.parent.iterdir()) == [
        "warehouse.duckdb",
        "warehouse.duckdb.lock",
    ]
