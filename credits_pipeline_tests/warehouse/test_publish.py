"""The published copy: what BI tools open while the pipeline goes on."""

import os
import random
import stat
import subprocess
import sys
import textwrap
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path

import duckdb
import pandas as pd
import pytest

import credits_pipeline
from credits_pipeline.warehouse import (
    Warehouse,
    WarehouseBusy,
    WarehouseCorrupt,
    WarehouseError,
    open_published,
    read_mart,
)

AT = datetime(2026, 6, 10, 0, 7, tzinfo=UTC)
COMMENT = "Per account and day; it''s in USD.\nKey: account, spend_date."  # quoted for SQL


@pytest.fixture
def target(warehouse: Warehouse) -> Path:
    return warehouse.path.parent / "credits.duckdb"


def build(warehouse: Warehouse, generation: int = 1, rows: int = 3) -> None:
    """Two marts that say which generation they are of, as a build of the SQL would write them."""
    with warehouse.writing("a build") as con:
        con.execute(
            f"""
            create or replace table marts.credits_readings as
                select 'default' as account, timestamp '2026-06-09 23:59:58' as observed_at, {generation} as generation;
            create or replace table marts.daily_spend as
                select
                    'default' as account, date '2026-06-01' + i::int as spend_date,
                    (0.123456789 + i)::decimal(18,9) as spend_usd, i as readings, {generation} as generation
                from range({rows}) as r(i) order by i desc;
            comment on table marts.daily_spend is '{COMMENT}';
            """
        )
        con.execute("comment on column marts.daily_spend.spend_usd is 'USD; \"exact\"'")


def publish(warehouse: Warehouse, target: Path, run_id: str = "run 1") -> None:
    warehouse.publish(target, run_id=run_id, published_at=AT, version="1.2.3", is_simulated=False)


def tables(path: Path) -> list[tuple[object, ...]]:
    with duckdb.connect(str(path), read_only=True) as con:
        return con.execute(
            "select schema_name, table_name, comment from duckdb_tables() order by all"
        ).fetchall()


def generation(path: Path) -> tuple[object, ...]:
    with duckdb.connect(str(path), read_only=True) as con:
        return con.execute(
            """
            select run_id, (select any_value(generation) from marts.daily_spend),
                (select generation from marts.credits_readings)
            from marts.published
            """
        ).fetchall()[0]


# -- what is in it -------------------------------------------------------------------------


def test_it_holds_the_marts_and_nothing_else(warehouse: Warehouse, target: Path) -> None:
    build(warehouse)
    with warehouse.writing("other schemas") as con:
        con.execute("create schema staging; create table staging.s as select 1 as one")
        con.execute("create view marts.a_view as from marts.daily_spend")
    publish(warehouse, target)
    assert [(schema, name) for schema, name, _ in tables(target)] == [
        ("marts", "credits_readings"),
        ("marts", "daily_spend"),
        ("marts", "published"),
    ]
    with duckdb.connect(str(target), read_only=True) as con:
        assert con.execute("select count(*) from duckdb_views() where not internal").fetchall() == [(0,)]


def test_it_says_which_run_made_it_when_and_as_of_which_reading(warehouse: Warehouse, target: Path) -> None:
    build(warehouse)
    publish(warehouse, target)
    with open_published(target) as con:
        found = con.execute("from marts.published")
        assert [(column[0], str(column[1])) for column in found.description] == [
            ("run_id", "VARCHAR"),
            ("published_at", "TIMESTAMP"),
            ("as_of", "TIMESTAMP"),
            ("version", "VARCHAR"),
            ("is_simulated", "BOOLEAN"),
        ]
        assert found.fetchall() == [
            ("run 1", AT.replace(tzinfo=None), datetime(2026, 6, 9, 23, 59, 58), "1.2.3", False)
        ]
        undescribed = (
            "select count(*) from duckdb_columns() where table_name = 'published' and comment is null"
        )
        assert con.execute(undescribed).fetchall() == [(0,)]


def test_comments_types_and_the_order_of_rows_survive(warehouse: Warehouse, target: Path) -> None:
    build(warehouse)
    publish(warehouse, target)
    assert ("marts", "daily_spend", COMMENT.replace("''", "'")) in tables(target)
    with open_published(target) as con:
        columns = con.execute(
            """
            select column_name, data_type, comment from duckdb_columns()
            where table_name = 'daily_spend' order by column_index
            """
        ).fetchall()
        assert columns[:4] == [
            ("account", "VARCHAR", None),
            ("spend_date", "DATE", None),
            ("spend_usd", "DECIMAL(18,9)", 'USD; "exact"'),
            ("readings", "BIGINT", None),
        ]
        days = con.execute("select spend_date from marts.daily_spend").fetchall()
        assert days == [(date(2026, 6, 3),), (date(2026, 6, 2),), (date(2026, 6, 1),)]


def test_names_that_need_quoting_are_published_as_they_are(warehouse: Warehouse, target: Path) -> None:
    with warehouse.writing("odd names") as con:
        con.execute('create table marts."a ""b"" c" as select 1 as "select"')
        con.execute('comment on column marts."a ""b"" c"."select" is \'odd\'')
    publish(warehouse, target)
    assert read_mart('a "b" c', target)["select"].to_list() == [1]


def test_before_the_first_build_it_says_only_who_published(warehouse: Warehouse, target: Path) -> None:
    publish(warehouse, target)
    assert [name for _, name, _ in tables(target)] == ["published"]
    assert read_mart("published", target)["as_of"].isna().all()


def test_the_file_has_the_format_that_old_drivers_read(warehouse: Warehouse, target: Path) -> None:
    build(warehouse)
    publish(warehouse, target)
    # Bytes 12 to 20 of the main header: the version of the format. 64 is that of 0.9 to 1.1.
    assert int.from_bytes(target.read_bytes()[12:20], "little") == 64


def test_publishing_twice_gives_equal_tables(warehouse: Warehouse, target: Path) -> None:
    build(warehouse)
    publish(warehouse, target, "run 1")
    first = read_mart("daily_spend", target)
    publish(warehouse, target, "run 2")
    pd.testing.assert_frame_equal(read_mart("daily_spend", target), first)
    assert read_mart("published", target)["run_id"].to_list() == ["run 2"]


# -- the file ------------------------------------------------------------------------------


@pytest.mark.parametrize("umask", [0, 0o077])
def test_it_can_be_read_by_all_and_written_by_nobody(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        warehouse, target = Warehouse(tmp_path / "w.duckdb"), tmp_path / "new" / "credits.duckdb"
        publish(warehouse, target)
        publish(warehouse, target)
    finally:
        os.umask(before)
    assert stat.S_IMODE(target.stat().st_mode) == 0o444
    assert stat.S_IMODE(target.parent.stat().st_mode) == 0o700
    assert [path.name for path in target.parent.iterdir()] == ["credits.duckdb"]


def test_a_log_left_beside_the_old_file_does_not_leak_into_the_new_one(
    warehouse: Warehouse, target: Path
) -> None:
    """A tool that opened the file for writing (as root may) and died leaves a log that DuckDB would replay."""
    build(warehouse, 1)
    publish(warehouse, target)
    vandal = """
        import os, sys
        import duckdb
        os.chmod(sys.argv[1], 0o600)
        con = duckdb.connect(sys.argv[1])
        con.execute("delete from marts.daily_spend")
        os.kill(os.getpid(), 9)
    """
    run(vandal, target).communicate()
    assert target.with_name("credits.duckdb.wal").exists()
    build(warehouse, 2)
    publish(warehouse, target, "run 2")
    assert generation(target) == ("run 2", 2, 2)
    assert not target.with_name("credits.duckdb.wal").exists()


def test_a_tool_that_holds_the_file_open_for_writing_neither_blocks_nor_spoils_a_publication(
    warehouse: Warehouse, target: Path
) -> None:
    build(warehouse, 1)
    publish(warehouse, target)
    holder = run(
        """
        import os, sys
        import duckdb
        os.chmod(sys.argv[1], 0o600)
        con = duckdb.connect(sys.argv[1])
        print("held", flush=True)
        sys.stdin.read()
        con.execute("delete from marts.daily_spend")
        con.close()
        """,
        target,
    )
    assert holder.stdout is not None
    holder.stdout.readline()
    build(warehouse, 2)
    Warehouse(warehouse.path, lock_timeout_s=0).publish(
        target, run_id="run 2", published_at=AT, version="1", is_simulated=False
    )
    holder.communicate()
    assert generation(target) == ("run 2", 2, 2)


def test_no_room_to_publish_leaves_the_old_file_and_no_litter(warehouse: Warehouse, target: Path) -> None:
    build(warehouse, 1)
    publish(warehouse, target)
    build(warehouse, 2, rows=50_000)
    code = """
        import resource, sys
        from datetime import UTC, datetime
        from pathlib import Path
        from credits_pipeline import warehouse as w
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), resource.RLIM_INFINITY))
        try:
            w.Warehouse(Path(sys.argv[1])).publish(
                Path(sys.argv[2]), run_id="run 2", published_at=datetime.now(UTC), version="1", is_simulated=False
            )
        except w.WarehouseError as error:
            print(type(error).__name__)
    """
    for room in (100_000, 500_000):
        out, err = run(code, warehouse.path, target, room).communicate(timeout=60)
        assert out == "WarehouseError\n", out + err
        assert generation(target) == ("run 1", 1, 1)
        assert list(target.parent.glob(".*")) == []
    publish(warehouse, target, "run 2")
    assert generation(target) == ("run 2", 2, 2)


# -- beside readers and under kills --------------------------------------------------------


def run(code: str, *arguments: object) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


# As a BI tool does: connect, ask twice, hold on for a while, ask again; until its input ends.
READS_ALL_THE_TIME = """
    import select, sys
    import duckdb
    QUESTION = '''
        select run_id, (select any_value(generation) from marts.daily_spend),
            (select generation from marts.credits_readings)
        from marts.published
    '''
    reads, generations = 0, set()
    while True:
        with duckdb.connect(sys.argv[1], read_only=True) as con:
            ((run, one, two),) = con.execute(QUESTION).fetchall()
            assert run == f"run {one}" and one == two, (run, one, two)
            done = select.select([sys.stdin], [], [], 0.05)[0]
            assert con.execute(QUESTION).fetchall() == [(run, one, two)]
            reads += 2
            generations.add(one)
            if reads == 2:
                print("reading", flush=True)
        if done:
            break
    print(reads, len(generations), max(generations), flush=True)
"""


def publish_beside_readers(warehouse: Warehouse, target: Path, readers: int, times: int) -> None:
    build(warehouse, 0)
    publish(warehouse, target, "run 0")
    processes = [run(READS_ALL_THE_TIME, target) for _ in range(readers)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "reading\n"
    impatient = Warehouse(warehouse.path, lock_timeout_s=0)
    for number in range(1, times + 1):
        build(impatient, number)
        publish(impatient, target, f"run {number}")
    assert generation(target) == (f"run {times}", times, times)
    for process in processes:
        out, errors = process.communicate("stop\n", timeout=60)
        assert errors == ""
        _, generations, _ = map(int, out.split())
        assert generations > 1, "the reader never saw a new file: it proved nothing"


def test_readers_are_never_blocked_and_always_see_one_generation(warehouse: Warehouse, target: Path) -> None:
    publish_beside_readers(warehouse, target, readers=2, times=4)


@pytest.mark.heavy
def test_three_readers_and_two_hundred_publications(warehouse: Warehouse, target: Path) -> None:
    publish_beside_readers(warehouse, target, readers=3, times=200)


def test_an_open_connection_goes_on_seeing_what_it_saw(warehouse: Warehouse, target: Path) -> None:
    build(warehouse, 1)
    publish(warehouse, target, "run 1")
    with open_published(target) as old:
        build(warehouse, 2)
        publish(warehouse, target, "run 2")
        assert old.execute("select distinct generation from marts.daily_spend").fetchall() == [(1,)]
        assert old.execute("select run_id from marts.published").fetchall() == [("run 1",)]
        with open_published(target) as new:
            assert new.execute("select run_id from marts.published").fetchall() == [("run 2",)]


PUBLISHES_UNTIL_KILLED = """
    import sys
    from datetime import UTC, datetime
    from pathlib import Path
    from credits_pipeline.warehouse import Warehouse
    warehouse, target = Warehouse(Path(sys.argv[1])), Path(sys.argv[2])
    print("begun", flush=True)
    while True:
        with warehouse.writing("a build") as con:
            con.execute("update marts.daily_spend set generation = generation + 1")
            con.execute("update marts.credits_readings set generation = generation + 1")
            ((number,),) = con.execute("select generation from marts.credits_readings").fetchall()
        warehouse.publish(
            target, run_id=f"run {number}", published_at=datetime.now(UTC), version="1", is_simulated=False
        )
"""


def survive_kills(warehouse: Warehouse, target: Path, times: int, seed: int) -> None:
    build(warehouse, 0, rows=2000)
    publish(warehouse, target, "run 0")
    moments, newest, litter = random.Random(seed), 0, 0
    for _ in range(times):
        process = run(PUBLISHES_UNTIL_KILLED, warehouse.path, target)
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=moments.uniform(0.0, 0.5))
        process.kill()
        process.communicate()
        litter += len(list(target.parent.glob(".credits.duckdb.*")))
        run_id, one, two = generation(target)
        assert (run_id, two) == (f"run {one}", one)
        assert isinstance(one, int)
        assert one >= newest
        newest = one
    publish(warehouse, target, "afterwards")
    assert list(target.parent.glob(".credits.duckdb.*")) == [], f"{litter} files were left behind"


def test_a_publisher_killed_at_any_moment_leaves_the_old_file_or_the_new_one(
    warehouse: Warehouse, target: Path
) -> None:
    survive_kills(warehouse, target, times=4, seed=3)


@pytest.mark.heavy
def test_fifty_killed_publishers_leave_a_whole_file(warehouse: Warehouse, target: Path) -> None:
    survive_kills(warehouse, target, times=50, seed=4)


# -- reading it from Python ----------------------------------------------------------------


def test_a_mart_is_a_data_frame_with_exact_money(warehouse: Warehouse, target: Path) -> None:
    build(warehouse)
    publish(warehouse, target)
    frame = read_mart("daily_spend", target)
    assert list(frame["spend_usd"]) == [
        Decimal("2.123456789"),
        Decimal("1.123456789"),
        Decimal("0.123456789"),
    ]
    assert frame["spend_usd"].sum() == Decimal("3.370370367")
    assert {name: str(kind) for name, kind in frame.dtypes.items()} == {
        "account": "string[pyarrow]",
        "spend_date": "date32[day][pyarrow]",
        "spend_usd": "decimal128(18, 9)[pyarrow]",
        "readings": "int64[pyarrow]",
        "generation": "int32[pyarrow]",
    }
    assert frame["spend_date"][0] == date(2026, 6, 3)


def test_a_missing_count_does_not_turn_the_others_into_floats(warehouse: Warehouse, target: Path) -> None:
    with warehouse.writing("a build") as con:
        con.execute("create table marts.counts as select unnest([9007199254740993, null]) as requests")
    publish(warehouse, target)
    assert read_mart("counts", target)["requests"][0] == 9007199254740993


def test_the_package_itself_reads_the_configured_copy(
    warehouse: Warehouse, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(warehouse)
    publish(warehouse, target)
    monkeypatch.setenv("CREDITS_DATA_DIR", str(target.parent))
    assert len(credits_pipeline.read_mart("daily_spend")) == 3


def test_an_unknown_mart_is_refused_with_the_names_there_are(warehouse: Warehouse, target: Path) -> None:
    build(warehouse)
    publish(warehouse, target)
    for name in ("spend", "published; drop table marts.published", 'published"', "../x"):
        with pytest.raises(WarehouseError, match=r"there are credits_readings, daily_spend, published\.$"):
            read_mart(name, target)


def test_before_anything_was_published_it_says_what_to_run(target: Path) -> None:
    with pytest.raises(WarehouseError, match=r"no .*credits\.duckdb yet: run `make run` first"):
        read_mart("daily_spend", target)
    assert not target.parent.exists()


def test_a_damaged_copy_is_published_anew(warehouse: Warehouse, target: Path) -> None:
    publish(warehouse, target)
    target.chmod(0o600)
    target.write_bytes(b"junk" * 10_000)
    with pytest.raises(WarehouseCorrupt, match="run `make run` to publish it anew"):
        read_mart("published", target)
    publish(warehouse, target)
    assert len(read_mart("published", target)) == 1


def test_a_warehouse_that_is_held_is_not_published_half(warehouse: Warehouse, target: Path) -> None:
    impatient = Warehouse(warehouse.path, lock_timeout_s=0)
    with warehouse.writing("a build"), pytest.raises(WarehouseBusy):
        publish(impatient, target)
    assert not target.exists()


def test_importing_the_package_loads_no_database_and_no_pandas() -> None:
    code = "import sys, credits_pipeline.warehouse; print(sorted({'duckdb', 'pandas', 'pyarrow'} & set(sys.modules)))"
    assert run(code).communicate()[0] == "[]\n"
