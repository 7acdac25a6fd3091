"""Backups, and the way back: every row that cannot be built anew, and nothing else."""

from contextlib import suppress
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from subprocess import TimeoutExpired

import duckdb
import pytest

from credits_pipeline import clock
from credits_pipeline.warehouse import Warehouse, WarehouseBusy, WarehouseCorrupt, WarehouseError
from credits_pipeline_tests.children import python, running
from credits_pipeline_tests.warehouse.stored import (
    DAMAGES,
    DAY,
    FILLS_THE_DISK,
    HOLDS_THE_FILE,
    NOON,
    PRELUDE,
    Row,
    count,
    mode,
    names,
    reading,
    replaced,
    stored,
)


@pytest.fixture
def filled(warehouse: Warehouse) -> Warehouse:
    warehouse.append_readings([reading(), reading(at=NOON + timedelta(days=1))])
    replaced(warehouse, Row(DAY, "a", Decimal("0.123456789")))
    with warehouse.writing("marts and alerts") as con:
        con.execute("create table marts.credits_readings as select account, total_usage from raw.credits_snapshots")
        con.execute("comment on table marts.credits_readings is 'It''s described.'")
        con.execute(
            """
            insert into ops.alerts_sent (alert_key, kind, channel, title, body, due_at)
            values ('key', 'run_out', 'log', 'title', 'body', '2026-06-10')
            """
        )
    return warehouse


def raw_tables(warehouse: Warehouse) -> list[str]:
    query = "select 'raw.' || table_name from duckdb_tables() where schema_name = 'raw' order by all"
    return [name for (name,) in stored(warehouse, query)]


def everything(warehouse: Warehouse) -> dict[str, list[tuple[object, ...]]]:
    """What a backup must bring back: the rows of every table that cannot be built anew, and all that is in the file."""
    names = raw_tables(warehouse)
    with warehouse.reading() as con:
        rows = {name: con.execute(f"from {name}").fetchall() for name in (*names, "ops.alerts_sent")}
        return {**rows, "catalog": con.execute(CATALOG).fetchall()}


CATALOG = """
    select schema_name, table_name, sql from duckdb_tables() where schema_name <> 'marts' union all
    select schema_name, view_name, sql from duckdb_views() where not internal union all
    select schema_name, function_name, macro_definition from duckdb_functions() where not internal
    order by all
"""


def test_a_backup_brings_back_every_row_that_cannot_be_built_anew(filled, tmp_path):
    before = everything(filled)
    made = filled.backup(tmp_path / "backups")
    filled.append_readings([reading(at=NOON + timedelta(days=2))])
    kept = filled.restore(made)
    assert everything(filled) == before
    assert kept is not None
    assert count(Warehouse(kept)) == 3
    assert mode(filled.path) == "600"
    elsewhere = Warehouse(tmp_path / "new machine" / "warehouse.duckdb")
    assert elsewhere.restore(made) is None
    assert everything(elsewhere) == before


def test_a_backup_has_exact_parquet_of_the_raw_and_mart_tables(filled, tmp_path):
    made = filled.backup(tmp_path / "backups")
    assert mode(made) == "700"
    assert sorted(str(path.relative_to(made)) for path in made.rglob("*.*")) == [
        "marts/credits_readings.parquet",
        *[f"{name.replace('.', '/')}.parquet" for name in raw_tables(filled)],
        "warehouse.duckdb",
    ]
    assert {mode(path) for path in made.rglob("*.*")} == {"600"}
    usage = duckdb.sql(f"select credits_usd, typeof(credits_usd) from '{made}/raw/model_usage.parquet'")
    assert usage.fetchall() == [(Decimal("0.123456789"), "DECIMAL(18,9)")]


def test_a_damaged_backup_changes_nothing(filled, tmp_path):
    made = filled.backup(tmp_path / "backups") / "warehouse.duckdb"
    whole = made.read_bytes()
    for damage in DAMAGES.values():
        made.write_bytes(damage(whole))
        with pytest.raises(WarehouseCorrupt, match="is damaged"):
            filled.restore(made)
        assert count(filled) == 2
    assert names(filled.path.parent) == ["warehouse.duckdb", "warehouse.duckdb.lock"]


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
        "alter table ops.schema_version rename version to number",
    ],
)
def test_a_file_without_our_tables_is_no_backup_and_changes_nothing(filled, tmp_path, forgery):
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
        "alter table raw.model_usage alter credits_usd type double",
        "alter table raw.credits_snapshots alter payload set default 'theirs'",
    ],
)
def test_nothing_but_the_rows_of_our_tables_comes_along_with_a_backup(filled, tmp_path, forgery):
    before = everything(filled)
    filled.restore(forge(filled.backup(tmp_path / "backups"), forgery))
    assert everything(filled) == before


def test_restoring_from_nowhere_or_from_itself_says_so(filled, tmp_path):
    with pytest.raises(WarehouseError, match=r"There is no backup at .*make backup"):
        filled.restore(tmp_path / "nowhere")
    with pytest.raises(WarehouseError, match="is the warehouse itself"):
        filled.restore(filled.path)
    assert count(filled) == 2


def test_restore_waits_for_a_program_that_has_the_file_open(filled, tmp_path):
    made = filled.backup(tmp_path / "backups")
    with running(HOLDS_THE_FILE, filled.path, "read_only"), pytest.raises(WarehouseBusy):
        Warehouse(filled.path, lock_timeout_s=0.1).restore(made)
    assert list(filled.path.parent.glob("*.before-restore-*")) == []


def test_a_restore_killed_at_any_moment_leaves_the_earlier_file_or_the_backup(filled, tmp_path):
    made = filled.backup(tmp_path / "backups")
    filled.append_readings([reading(at=NOON + timedelta(days=2))])
    code = PRELUDE + 'print("begun", flush=True)\nwarehouse.restore(Path(sys.argv[2]))'
    for delay in (0.1, 0.2):
        with running(code, filled.path, made) as process, suppress(TimeoutExpired):
            process.wait(timeout=delay)
        assert count(filled) in (2, 3)
    filled.restore(made)
    assert count(filled) == 2
    assert list(filled.path.parent.glob(".*")) == []


def test_backups_and_restores_of_one_instant_overwrite_nothing(filled, tmp_path):
    with clock.frozen(NOON + timedelta(days=2)):
        first = filled.backup(tmp_path / "backups")
        filled.append_readings([reading()])
        second = filled.backup(tmp_path / "backups")
        kept = [filled.restore(first), filled.restore(second)]
    assert first != second
    assert [count(Warehouse(path)) for path in kept if path] == [3, 2]
    assert count(filled) == 3


def test_without_room_neither_a_backup_nor_a_restore_leaves_anything_behind(filled, tmp_path):
    def attempt(call: str, *arguments: Path) -> str:
        with python(FILLS_THE_DISK.replace("{attempt}", call), filled.path, 300_000, *arguments) as process:
            out, errors = process.communicate(timeout=60)
        return out + errors

    said = attempt("warehouse.backup(Path(sys.argv[3]))", tmp_path / "backups")
    assert said.startswith(f"No room to write {tmp_path}/backups/"), said
    assert names(tmp_path / "backups") == []
    made = filled.backup(tmp_path / "backups")
    filled.append_readings([reading()])
    said = attempt("warehouse.restore(Path(sys.argv[3]))", made)
    assert said.startswith("No room to write"), said
    assert count(filled) == 3
    assert names(filled.path.parent) == ["warehouse.duckdb", "warehouse.duckdb.lock"]
