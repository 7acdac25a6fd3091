"""The published copy: what BI tools open while the pipeline goes on."""

import os
import random
import shutil
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from subprocess import TimeoutExpired

import duckdb
import pytest

import credits_pipeline
from credits_pipeline.warehouse import (
    Warehouse,
    WarehouseCorrupt,
    WarehouseError,
    open_published,
    read_mart,
)
from credits_pipeline_tests.children import python, running
from credits_pipeline_tests.warehouse.stored import FILLS_THE_DISK, PRELUDE, mode, names

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
        return con.execute("select schema_name, table_name, comment from duckdb_tables() order by all").fetchall()


def generation(path: Path) -> tuple[object, ...]:
    with duckdb.connect(str(path), read_only=True) as con:
        return con.execute(
            """
            select run_id, (select any_value(generation) from marts.daily_spend),
                (select generation from marts.credits_readings)
            from marts.published
            """
        ).fetchall()[0]


def parquet(target: Path) -> int:
    """The generation of the Parquet files beside it, which must be one."""
    columns = (
        "(select any_value(generation) from '{0}/daily_spend.parquet'), (select run_id from '{0}/published.parquet')"
    )
    ((one, run_id),) = duckdb.sql(f"select {columns.format(target.with_name('parquet').resolve())}").fetchall()
    assert run_id in {f"run {one}", "afterwards"}
    return one


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
        undescribed = "select count(*) from duckdb_columns() where table_name = 'published' and comment is null"
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
        as_parquet = duckdb.sql(f"from '{target.with_name('parquet')}/daily_spend.parquet'")
        table = con.sql("from marts.daily_spend")
        assert (as_parquet.columns, as_parquet.types) == (table.columns, table.types)
        assert as_parquet.fetchall() == table.fetchall()


OPENS_IT_FOR_WRITING_AND_DIES = """
    import os, sys
    import duckdb
    os.chmod(sys.argv[1], 0o600)
    con = duckdb.connect(sys.argv[1])
    con.execute("delete from marts.daily_spend")
    os.kill(os.getpid(), 9)
"""

# -- the file ------------------------------------------------------------------------------


def test_it_can_be_read_by_all_and_written_by_nobody_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        warehouse, target = Warehouse(tmp_path / "w.duckdb"), tmp_path / "new" / "credits.duckdb"
        publish(warehouse, target)
        publish(warehouse, target)
    finally:
        os.umask(before)
    assert (mode(target), mode(target.parent)) == ("444", "700")
    *folders, one, link = names(target.parent)
    assert (one, link) == ("credits.duckdb", "parquet")
    assert [mode(target.parent / folder) for folder in folders] == ["755", "755"]
    assert mode(target.parent / "parquet" / "published.parquet") == "444"
    assert [name for _, name, _ in tables(target)] == ["published"]  # as nothing was built


def test_a_log_left_beside_the_old_file_does_not_leak_into_the_new_one(warehouse: Warehouse, target: Path) -> None:
    """A tool that opened the file for writing (as root may) and died leaves a log that DuckDB would replay."""
    build(warehouse, 1)
    publish(warehouse, target)
    with python(OPENS_IT_FOR_WRITING_AND_DIES, target) as vandal:
        vandal.communicate()
    assert target.with_name("credits.duckdb.wal").exists()
    build(warehouse, 2)
    publish(warehouse, target, "run 2")
    assert generation(target) == ("run 2", 2, 2)
    assert not target.with_name("credits.duckdb.wal").exists()


def test_parquet_is_of_one_run_also_for_who_began_to_read_before_the_next(warehouse: Warehouse, target: Path) -> None:
    build(warehouse, 1)
    publish(warehouse, target, "run 1")
    reader = target.with_name("parquet").resolve()
    build(warehouse, 2)
    publish(warehouse, target, "run 2")
    assert parquet(target) == 2
    assert duckdb.sql(f"select any_value(generation) from '{reader}/daily_spend.parquet'").fetchall() == [(1,)]
    publish(warehouse, target, "run 2")
    assert not reader.exists()


def test_a_folder_that_came_with_a_copy_of_the_data_gives_way_to_the_link(warehouse: Warehouse, target: Path) -> None:
    """`scp -r` copies what a link leads to."""
    build(warehouse, 1)
    publish(warehouse, target, "run 1")
    copy = shutil.copytree(target.with_name("parquet"), target.with_name("copied"))
    target.with_name("parquet").unlink()
    copy.rename(target.with_name("parquet"))
    build(warehouse, 2)
    publish(warehouse, target, "run 2")
    assert parquet(target) == 2


def test_no_room_to_publish_leaves_the_old_file_and_no_litter(warehouse: Warehouse, target: Path) -> None:
    build(warehouse, 1)
    publish(warehouse, target)
    build(warehouse, 2, rows=50_000)
    attempt = 'warehouse.publish(Path(sys.argv[3]), run_id="run 2", published_at=at, version="1", is_simulated=False)'
    with python(FILLS_THE_DISK.replace("{attempt}", attempt), warehouse.path, 500_000, target) as process:
        out, errors = process.communicate(timeout=60)
    assert out.startswith("No room to write"), out + errors
    assert generation(target) == ("run 1", 1, 1)
    assert list(target.parent.glob(".*")) == [(target.parent / "parquet").resolve()]
    publish(warehouse, target, "run 2")
    assert generation(target) == ("run 2", 2, 2)


# -- beside readers and under kills --------------------------------------------------------


PUBLISHES_UNTIL_KILLED = (
    PRELUDE
    + """
target = Path(sys.argv[2])
print("begun", flush=True)
while True:
    with warehouse.writing("a build") as con:
        con.execute("update marts.daily_spend set generation = generation + 1")
        con.execute("update marts.credits_readings set generation = generation + 1")
        ((number,),) = con.execute("select generation from marts.credits_readings").fetchall()
    warehouse.publish(target, run_id=f"run {number}", published_at=at, version="1", is_simulated=False)
"""
)


def test_a_publisher_killed_at_any_moment_leaves_the_old_file_or_the_new_one(
    warehouse: Warehouse, target: Path
) -> None:
    build(warehouse, 0, rows=2000)
    publish(warehouse, target, "run 0")
    moments, newest = random.Random(3), 0
    for _ in range(3):
        with running(PUBLISHES_UNTIL_KILLED, warehouse.path, target) as process, pytest.raises(TimeoutExpired):
            process.wait(timeout=moments.uniform(0.0, 0.5))
        run_id, one, two = generation(target)
        assert (run_id, two) == (f"run {one}", one)
        assert isinstance(one, int)
        assert one >= newest
        newest = one
        assert parquet(target) <= one  # the folder comes after the file
    publish(warehouse, target, "afterwards")
    assert parquet(target) == generation(target)[1]
    assert list(target.parent.glob(".credits.duckdb.*")) == []


# -- reading it from Python ----------------------------------------------------------------


def test_a_mart_is_a_data_frame_with_exact_money(warehouse: Warehouse, target: Path) -> None:
    build(warehouse)
    with warehouse.writing("a build") as con:
        con.execute("create table marts.counts as select unnest([9007199254740993, null]) as requests")
    publish(warehouse, target)
    assert read_mart("counts", target)["requests"][0] == 9007199254740993  # no float, though one is missing
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


def test_the_package_itself_finds_the_copy_as_the_pipeline_does(
    warehouse: Warehouse, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(warehouse)
    publish(warehouse, target)
    monkeypatch.setenv("CREDITS_DATA_DIR", str(target.parent))
    assert len(credits_pipeline.read_mart("daily_spend")) == 3


def test_an_unknown_mart_is_refused_with_the_names_there_are(warehouse: Warehouse, target: Path) -> None:
    build(warehouse)
    publish(warehouse, target)
    for name in ("spend", "published; drop table marts.published"):
        with pytest.raises(WarehouseError, match=r"there are credits_readings, daily_spend, published\.$"):
            read_mart(name, target)


def test_a_damaged_copy_is_published_anew(warehouse: Warehouse, target: Path) -> None:
    publish(warehouse, target)
    target.chmod(0o600)
    target.write_bytes(b"junk" * 10_000)
    with pytest.raises(WarehouseCorrupt, match="run `make run` to publish it anew"):
        read_mart("published", target)
    publish(warehouse, target)
    assert len(read_mart("published", target)) == 1


def test_importing_the_rooms_loads_no_database_no_client_and_no_pandas() -> None:
    code = """
    import sys, credits_pipeline.openrouter, credits_pipeline.warehouse
    print([name for name in ("duckdb", "httpx", "pandas", "pyarrow") if name in sys.modules])
    """
    assert python(code).communicate()[0] == "[]\n"
