"""The warehouse in a lake: the same tables as of one file, published as views over files that stay where they are."""

import json
import shutil
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb
import pytest

from credits_pipeline import clock, commands, config
from credits_pipeline.defs.schedules import range_tags
from credits_pipeline.simulator import SimulatedAccount
from credits_pipeline.warehouse import Tables, Warehouse, WarehouseBusy, WarehouseError, open_warehouse, read_mart
from credits_pipeline.warehouse.lake import Lake as WholeLake
from credits_pipeline.warehouse.shard import SHARD_OF, shard_of
from credits_pipeline_tests.cluster import servers
from credits_pipeline_tests.cluster.conftest import green
from credits_pipeline_tests.conftest import TODAY
from credits_pipeline_tests.defs.test_daily_run import failures
from credits_pipeline_tests.models import is_same, project
from credits_pipeline_tests.warehouse.stored import reading
from credits_pipeline_tests.warehouse.test_readers import stop, three_readers
from tools import superset

NAMES = [*"abcdef", "default", "zurich_eu"]


def account(name: str, number: int, days: int = 70) -> SimulatedAccount:
    """Each spends in a way of its own, on two models; the second is used up."""
    ledger = {}
    for n in range(-20, days):
        day = TODAY - timedelta(days=n)
        usd = Decimal(number + 1) / 7 * (1 + (n * number) % 5) if number % 3 or n % 4 else Decimal(0)
        ledger[day] = {"vendor/model-a": round(usd, 6), "other/model-b": round(usd / 3, 8)}
    bought = datetime.combine(min(ledger), datetime.min.time(), UTC)
    credits = Decimal(10 if number == 1 else 120 * (number + 1))
    return SimulatedAccount.from_ledger(name, f"sk-or-v1-simulated-{name}", days=ledger, credits=[(bought, credits)])


def accounts(count: int = len(NAMES)) -> list[SimulatedAccount]:
    return [account(name, number) for number, name in enumerate(NAMES[:count])]


def marts(path: Path) -> dict[str, tuple[list[tuple[str, ...]], list[tuple[Any, ...]]]]:
    """Every published table: its columns with their types and comments, and its rows, sorted."""
    query = """
        select table_name, column_name, data_type, comment from duckdb_columns()
        where schema_name = 'marts' and table_name <> 'published' order by table_name, column_index
    """
    with duckdb.connect(str(path), read_only=True) as con:
        con.execute("set TimeZone = 'UTC'")
        columns: dict[str, list[tuple[str, ...]]] = {}
        for table, *column in con.execute(query).fetchall():
            columns.setdefault(table, []).append(tuple(column))
        return {name: (of, con.execute(f"from marts.{name} order by all").fetchall()) for name, of in columns.items()}


def forecasts() -> set[str]:
    """The models that rest on the forecast, whose sums of doubles may be added up in another order."""
    found = {"int_spend_levels"}
    for model in project().models.values():  # each after those that it reads
        if found.intersection(model.depends_on):
            found.add(model.name)
    return found


def assert_same(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Facts to the last digit, forecasts within a billionth of a USD."""
    assert found.keys() == wanted.keys()
    computed = forecasts()
    for name, (columns, rows) in wanted.items():
        assert found[name][0] == columns, name
        assert len(found[name][1]) == len(rows), name
        for row, other in zip(found[name][1], rows, strict=True):
            assert is_same(row, other, 1e-9 if name in computed else 0), (name, row, other)


def raw_rows(shard: Tables) -> list[tuple[Any, ...]]:
    tables = ["credits_snapshots", "model_usage", "model_usage_days"]
    tables += ["usage_breakdown", "usage_breakdown_days", "api_keys"]
    with shard.reading() as con:
        return [(table, *row) for table in tables for row in con.execute(f"from raw.{table}").fetchall()]


def all_raw(parts: list[Any]) -> list[str]:
    return sorted(str(row) for part in parts for row in part)


def two_days_in_a_file(run_job, move):
    first, last = (TODAY - timedelta(days=n) for n in (60, 1))
    green(run_job("backfill_history", tags=range_tags(first.isoformat(), last.isoformat())))
    green(run_job("daily_credits"))
    move(1)
    green(run_job("daily_credits"))


def test_a_lake_of_1_4_and_8_shards_has_every_row_and_gives_the_tables_of_the_file(
    lake, simulate, run_job, days_go_by, capsys
):
    simulate(*accounts())
    two_days_in_a_file(run_job, days_go_by)
    settings = config.current()
    wanted, raw = marts(settings.published_path), all_raw([raw_rows(Warehouse(settings.warehouse_path))])
    lake.published.parent.mkdir(mode=0o700)
    shutil.copy(settings.warehouse_path, lake.published.parent)
    lake.use(shards=4)
    with pytest.raises(WarehouseError, match="make reshard SHARDS=4"):  # a new lake must not hide the old warehouse
        open_warehouse(config.current()).each(raw_rows)
    for count in (1, 4, 8):
        lake.use(shards=count)
        if count > 1:
            with pytest.raises(WarehouseError, match=f"has .* shards and CREDITS_SHARDS says {count}"):
                open_warehouse(config.current()).each(raw_rows)
        assert commands.reshard(count) == 0
        assert all_raw(lake.each(raw_rows)) == raw
        assert_same(marts(lake.published), wanted)
    assert read_mart("credits_runway").shape[0] == len(NAMES)
    capsys.readouterr()
    commands.answer(as_json=True, days=None, probability=0.5)
    assert len(json.loads(capsys.readouterr().out)["accounts"]) == len(NAMES)
    # Files of what is over go once nothing published names them, and no others.
    former = lake.folder / "lake" / "1"
    assert list(former.rglob("*.parquet"))
    WholeLake(config.current()).tidy()
    assert not list(former.rglob("*.parquet"))
    assert_same(marts(lake.published), wanted)


def test_tidying_removes_old_states_and_leavings_and_nothing_that_is_published(lake, simulate, run_job, days_go_by):
    simulate(*accounts(4))
    lake.use(shards=2)
    green(run_job("daily_credits"))
    published = marts(lake.published)
    left = lake.folder / "lake" / "1" / "0000" / "marts" / "credits_runway" / "ducklake-of-a-killed-builder.parquet"
    shutil.copy(next(left.parent.glob("*.parquet")), left)
    for _ in range(3):
        days_go_by(5)
        # Built and committed, and never published: what is published stays the first night's.
        assert run_job(
            "daily_credits", asset_selection=[dg.AssetKey(name) for name in ("credits_snapshots", *project().models)]
        ).success
    count = len(list((lake.folder / "lake").rglob("*.parquet")))
    WholeLake(config.current()).tidy()
    assert left.exists()  # it may be that of a build that goes on
    WholeLake(config.current()).tidy(kept=timedelta(), orphans_kept=timedelta())
    assert not left.exists()
    assert len(list((lake.folder / "lake").rglob("*.parquet"))) < count
    assert marts(lake.published) == published


def test_readers_beside_five_generations_never_see_half_of_one(lake, simulate, run_job, days_go_by):
    simulate(*accounts(4))
    lake.use(shards=2)
    green(run_job("daily_credits"))
    with duckdb.connect(str(lake.published), read_only=True) as con:  # as Superset opens it
        con.execute(f"set allowed_directories = ['{superset.lake_folder(con)}']; set enable_external_access = false")
        assert all(con.execute(f"select count(*) from marts.{name}").fetchone() for name in marts(lake.published))
    with three_readers(lake.published) as readers:
        for _ in range(5):
            days_go_by(1)
            green(result := run_job("daily_credits"))
        told = stop(readers)
    assert {seen["last"] for seen in told.values()} == {result.run_id}
    assert max(len(seen["runs"]) for seen in told.values()) > 3  # type: ignore[arg-type]


def test_a_shard_whose_test_fails_keeps_its_tables_and_the_run_names_test_and_accounts(
    lake, simulate, run_job, days_go_by
):
    simulate(*accounts(6))
    lake.use(shards=2)
    green(run_job("daily_credits"))
    broken = open_warehouse(config.current()).of("a")
    with broken.writing("breaking it") as con:
        con.execute("update raw.credits_snapshots set source = 'nobody' where account = 'a'")
    days_go_by(1)
    result = run_job("daily_credits")
    assert not result.success
    [(step, why)] = failures(result).items()
    assert step == "every_shard_was_rebuilt"
    assert "accepted_values_stg_credits_snapshots_source" in why
    stays = {name for name in NAMES[:6] if shard_of(name, 2) == shard_of("a", 2)}
    assert {name for name in NAMES[:6] if f"{name}: " in why} == stays != set(NAMES[:6])
    days = {name: TODAY if name in stays else TODAY + timedelta(days=1) for name in NAMES[:6]}
    assert dict(lake.ask("select account, as_of::date from marts.credits_runway")) == days


def test_a_second_writer_of_a_shard_is_refused_in_a_sentence(lake):
    lake.use(shards=1)
    settings = config.current()
    first, second = (open_warehouse(settings, lock_timeout_s=1).of("a") for _ in range(2))
    with first.reading():
        pass
    held = r"shard 0 of the lake is held by process \d+ on .*building"
    with first.held("building the SQL models"), pytest.raises(WarehouseBusy, match=held):  # type: ignore[attr-defined]
        second.append_readings([reading(clock.now(), account="a")])
    assert second.append_readings([reading(clock.now(), account="a")]) == 1


def test_postgres_or_the_bucket_away_is_a_red_run_with_a_sentence_and_the_next_one_heals(
    lake, pg, simulate, run_job, days_go_by
):
    simulate(*accounts(3))
    with servers.Bucket() as bucket:
        lake.use(shards=2, data="s3://credits/lake", **bucket.environ)
        green(run_job("daily_credits"))
        before = read_mart("credits_runway")
        pg.stop()
        days_go_by(1)
        result = run_job("daily_credits")
        assert not result.success
        assert "PostgreSQL (CREDITS_LAKE) does not answer" in " ".join(failures(result).values())
        pg.start()
        assert before.equals(read_mart("credits_runway"))  # readers need the bucket only
        bucket.refusing = True
        result = run_job("daily_credits")
        assert not result.success
        assert "storage (CREDITS_LAKE_DATA) does not answer" in " ".join(failures(result).values())
        bucket.refusing = False
        green(run_job("daily_credits"))
        newest = read_mart("credits_readings")
        assert set(newest["observed_at"].dt.date) == {TODAY, TODAY + timedelta(days=1)}


def test_what_is_imported_and_what_the_schedules_ask_for_is_the_same_in_a_lake(
    lake, simulate, run_job, instance, tmp_path
):
    from credits_pipeline.defs import schedules

    simulate(*accounts(3))
    lake.use(shards=4)
    warehouse = open_warehouse(config.current())
    first = (TODAY - timedelta(days=365)).isoformat()
    last = (TODAY - timedelta(days=1)).isoformat()
    assert schedules.unsettled_range(warehouse, instance) == (first, last)
    green(run_job("backfill_history", tags=range_tags(first, last)))
    days = schedules.unsettled_range(open_warehouse(config.current()), instance)
    assert days is not None
    assert days[0] >= (TODAY - timedelta(days=3)).isoformat()
    logged = tmp_path / "logged.csv"
    logged.write_text("time,total_credits,total_usage\n2026-06-10T00:00:00Z,100,5\n2026-06-11T00:00:00Z,100,6\n")
    commands.import_readings_of(logged, "b", None)
    commands.import_readings_of(logged, "b", None)
    with warehouse.of("b").reading() as con:
        assert con.execute("select count(*) from raw.credits_snapshots where source = 'import'").fetchone() == (2,)
    for command, *told in ((commands.backup, None), (commands.restore, tmp_path), (commands.rename, "a", "x")):
        with pytest.raises(config.ConfigError, match=r"docs/scale\.md"):
            command(*told)


def test_sql_and_python_agree_on_where_an_account_is():
    names = [f"account_{n}" for n in range(500)]
    query = f"select {SHARD_OF.format(shards=7)} from (select unnest(?) as account)"
    assert [shard for (shard,) in duckdb.execute(query, [names]).fetchall()] == [shard_of(name, 7) for name in names]
    assert {shard_of(name, 7) for name in names} == set(range(7))
