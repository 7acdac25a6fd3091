"""The published copy: what BI tools open while the pipeline goes on."""

import os
import shutil
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path

import duckdb
import pytest

import credits_pipeline
from credits_pipeline.warehouse import Warehouse, WarehouseCorrupt, WarehouseError, open_published, read_mart
from credits_pipeline_tests.children import python
from credits_pipeline_tests.warehouse.stored import mode, names

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
    folder = target.with_name("parquet").resolve()
    one, run_id = (
        duckdb.sql(f"select any_value({column}) from '{folder}/{mart}.parquet'").fetchall()[0][0]
        for mart, column in (("daily_spend", "generation"), ("published", "run_id"))
    )
    assert run_id in {f"run {one}", "afterwards"}
    return one


def test_it_holds_the_marts_with_their_comments_types_and_order_and_nothing_else(warehouse, target):
    build(warehouse)
    with warehouse.writing("other schemas") as con:
        con.execute("create schema staging; create table staging.s as select 1 as one")
        con.execute("create view marts.a_view as from marts.daily_spend")
    publish(warehouse, target)
    assert [(schema, name) for schema, name, _ in tables(target)] == [
        ("marts", name) for name in ("credits_readings", "daily_spend", "published")
    ]
    assert ("marts", "daily_spend", COMMENT.replace("''", "'")) in tables(target)
    with open_published(target) as con:
        assert con.execute("select count(*) from duckdb_views() where not internal").fetchall() == [(0,)]
        columns = "select column_name, data_type, comment from duckdb_columns() where table_name = '{}' order by all"
        assert con.execute(columns.format("daily_spend")).fetchall() == [
            ("account", "VARCHAR", None),
            ("generation", "INTEGER", None),
            ("readings", "BIGINT", None),
            ("spend_date", "DATE", None),
            ("spend_usd", "DECIMAL(18,9)", 'USD; "exact"'),
        ]
        table = con.sql("from marts.daily_spend")
        assert [row[1] for row in table.fetchall()] == [date(2026, 6, day) for day in (3, 2, 1)]
        as_parquet = duckdb.sql(f"from '{target.with_name('parquet')}/daily_spend.parquet'")
        assert (as_parquet.columns, as_parquet.types) == (table.columns, table.types)
        assert as_parquet.fetchall() == table.fetchall()
        # Which run made it, when, and as of which reading.
        found = con.sql("from marts.published")
        assert dict(zip(found.columns, found.fetchall()[0], strict=True)) == {
            "run_id": "run 1",
            "published_at": AT.replace(tzinfo=None),
            "as_of": datetime(2026, 6, 9, 23, 59, 58),
            "version": "1.2.3",
            "is_simulated": False,
        }
        described = con.execute(columns.format("published")).fetchall()
        assert {kind for _, kind, _ in described} == {"VARCHAR", "TIMESTAMP", "BOOLEAN"}
        assert all(comment for *_, comment in described)


OPENS_IT_FOR_WRITING_AND_DIES = """
    import os, sys
    import duckdb
    os.chmod(sys.argv[1], 0o600)
    con = duckdb.connect(sys.argv[1])
    con.execute("delete from marts.daily_spend")
    os.kill(os.getpid(), 9)
"""


def test_it_can_be_read_by_all_and_written_by_nobody_whatever_the_umask(tmp_path):
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


def test_a_log_left_beside_the_old_file_does_not_leak_into_the_new_one(warehouse, target):
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


def test_parquet_is_of_one_run_also_for_who_began_to_read_before_the_next(warehouse, target):
    build(warehouse, 1)
    publish(warehouse, target, "run 1")
    reader = target.with_name("parquet").resolve()
    build(warehouse, 2)
    publish(warehouse, target, "run 2")
    assert parquet(target) == 2
    assert duckdb.sql(f"select any_value(generation) from '{reader}/daily_spend.parquet'").fetchall() == [(1,)]
    publish(warehouse, target, "run 2")
    assert not reader.exists()


def test_a_folder_that_came_with_a_copy_of_the_data_gives_way_to_the_link(warehouse, target):
    """`scp -r` copies what a link leads to."""
    build(warehouse, 1)
    publish(warehouse, target, "run 1")
    copy = shutil.copytree(target.with_name("parquet"), target.with_name("copied"))
    target.with_name("parquet").unlink()
    copy.rename(target.with_name("parquet"))
    build(warehouse, 2)
    publish(warehouse, target, "run 2")
    assert parquet(target) == 2


def test_a_mart_is_a_data_frame_with_exact_money_and_the_package_itself_finds_it(warehouse, target, monkeypatch):
    build(warehouse)
    with warehouse.writing("a build") as con:
        con.execute("create table marts.counts as select unnest([9007199254740993, null]) as requests")
    publish(warehouse, target)
    assert read_mart("counts", target)["requests"][0] == 9007199254740993  # no float, though one is missing
    monkeypatch.setenv("CREDITS_DATA_DIR", str(target.parent))
    frame = credits_pipeline.read_mart("daily_spend")
    assert list(frame["spend_usd"]) == [Decimal(f"{day}.123456789") for day in (2, 1, 0)]
    assert frame["spend_usd"].sum() == Decimal("3.370370367")
    assert frame["spend_date"][0] == date(2026, 6, 3)
    kinds = {name: str(kind).removesuffix("[pyarrow]") for name, kind in frame.dtypes.items()}
    assert kinds.pop("spend_usd") == "decimal128(18, 9)"
    assert list(kinds.values()) == ["string", "date32[day]", "int64", "int32"]


def test_an_unknown_mart_is_refused_with_the_names_there_are(warehouse, target):
    build(warehouse)
    publish(warehouse, target)
    for name in ("spend", "published; drop table marts.published"):
        with pytest.raises(WarehouseError, match=r"there are credits_readings, daily_spend, published\.$"):
            read_mart(name, target)


def test_a_damaged_copy_is_published_anew(warehouse, target):
    publish(warehouse, target)
    target.chmod(0o600)
    target.write_bytes(b"junk" * 10_000)
    with pytest.raises(WarehouseCorrupt, match="run `make run` to publish it anew"):
        read_mart("published", target)
    publish(warehouse, target)
    assert len(read_mart("published", target)) == 1
