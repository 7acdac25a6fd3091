"""The one door to the warehouse's file, over real files and, where two meet, real second processes."""

import gzip
import os
import shutil
from decimal import Decimal
from pathlib import Path

import duckdb
import pytest

from credits_pipeline.errors import CreditsError
from credits_pipeline.warehouse import (
    MIGRATIONS,
    Warehouse,
    WarehouseBusy,
    WarehouseCorrupt,
    WarehouseError,
    open_published,
)
from credits_pipeline_tests.children import python, running
from credits_pipeline_tests.warehouse.stored import (
    DAMAGES,
    DAYS,
    FILLS_THE_DISK,
    HOLDS_THE_FILE,
    HOLDS_THE_LOCK,
    NOON,
    PRELUDE,
    count,
    mode,
    newest_reading,
    reading,
    stored,
)

FIXTURES = Path(__file__).parent.parent / "fixtures"


def test_files_are_for_our_eyes_only_whatever_the_umask(tmp_path):
    before = os.umask(0)
    try:
        warehouse = Warehouse(tmp_path / "data" / "warehouse.duckdb")
        with warehouse.writing("looking") as con:
            warehouse.append_readings([reading()], con=con)
            con.execute("commit")  # so that the log is there to be looked at
            modes = {path.name: mode(path) for path in warehouse.path.parent.iterdir()}
            con.execute("begin")
        assert mode(warehouse.path.parent) == "700"
        assert modes == dict.fromkeys(["warehouse.duckdb", "warehouse.duckdb.lock", "warehouse.duckdb.wal"], "600")
        assert os.umask(0) == 0
    finally:
        os.umask(before)


def test_the_file_has_the_format_that_old_drivers_read(warehouse):
    warehouse.append_readings([reading()])
    # Bytes 12 to 20 of the main header: the version of the format. 64 is that of 0.9 to 1.1.
    assert int.from_bytes(warehouse.path.read_bytes()[12:20], "little") == 64


@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_file_is_named_and_never_replaced_by_an_empty_one(warehouse, how):
    warehouse.append_readings([reading()])
    damaged = DAMAGES[how](warehouse.path.read_bytes())
    warehouse.path.write_bytes(damaged)
    for attempt in (lambda: warehouse.append_readings([reading()]), lambda: count(warehouse)):
        with pytest.raises(WarehouseCorrupt, match="make restore") as caught:
            attempt()
        assert str(warehouse.path) in str(caught.value)
        assert "\n" not in str(caught.value)
    assert warehouse.path.read_bytes() == damaged


def test_what_is_not_ours_to_write_over_is_left_alone(warehouse):
    """A log that has lost its database, and somebody else's database."""
    warehouse.path.parent.mkdir()
    log = warehouse.path.with_name("warehouse.duckdb.wal")
    log.write_bytes(b"something")
    with pytest.raises(WarehouseCorrupt, match="has lost its database"):
        warehouse.append_readings([reading()])
    assert not warehouse.path.exists()
    log.unlink()
    with duckdb.connect(str(warehouse.path)) as con:
        con.execute("create table theirs as select 1 as one")
    with pytest.raises(WarehouseCorrupt, match="no warehouse of this program"):
        warehouse.append_readings([reading()])
    with duckdb.connect(str(warehouse.path), read_only=True) as con:
        assert con.execute("from theirs").fetchall() == [(1,)]


NO_FILE = {"pipe": os.mkfifo, "folder": Path.mkdir, "link": lambda path: path.symlink_to("/nowhere/file")}


@pytest.mark.parametrize("what", NO_FILE)
@pytest.mark.parametrize("name", ["warehouse.duckdb", "credits.duckdb"])
def test_what_is_no_file_in_the_place_of_one_is_one_sentence_and_neither_waited_for_nor_covered(warehouse, what, name):
    """A pipe would be read for ever; a link whose disk is not mounted would be replaced by an empty warehouse."""
    warehouse.path.parent.mkdir()
    place = warehouse.path.with_name(name)
    NO_FILE[what](place)
    target = warehouse.path.with_name("credits.duckdb")
    with pytest.raises(CreditsError, match=f"{place} is no file.*: mount its disk or move it away"):
        warehouse.publish(target, run_id="run", published_at=NOON, version="1", is_simulated=True)
    assert os.path.lexists(place)
    assert not place.is_file()
    if place == target:
        with pytest.raises(CreditsError, match="no file"), open_published(target):
            pass


def test_a_warehouse_behind_a_link_stays_behind_it(warehouse, tmp_path):
    warehouse.append_readings([reading()])
    warehouse.path.rename(tmp_path / "elsewhere.duckdb")
    warehouse.path.symlink_to(tmp_path / "elsewhere.duckdb")
    warehouse.append_readings([reading()])
    assert warehouse.path.is_symlink()
    assert count(Warehouse(tmp_path / "elsewhere.duckdb")) == 2


def test_running_out_of_room_loses_no_committed_reading(warehouse):
    warehouse.append_readings([reading()])
    attempt = "warehouse.append_readings([one(str(i), i) for i in range(20_000)])"
    with python(FILLS_THE_DISK.replace("{attempt}", attempt), warehouse.path, 400_000) as process:
        out, errors = process.communicate(timeout=60)
    assert out.startswith("No room to write"), out + errors
    assert count(warehouse) == 1
    assert warehouse.append_readings([reading()] * 1000) == 1000
    assert count(warehouse) == 1001


def test_who_waits_in_vain_is_told_who_holds_it(warehouse):
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


def test_a_program_that_opens_the_warehouse_by_itself_is_waited_for_and_named(warehouse):
    warehouse.append_readings([reading()])
    with running(HOLDS_THE_FILE, warehouse.path, "read_only") as holder:
        with pytest.raises(WarehouseBusy, match=f"PID {holder.pid}"):
            Warehouse(warehouse.path, lock_timeout_s=0.2).append_readings([reading()])
        assert count(warehouse) == 1
    assert warehouse.append_readings([reading()]) == 1


def test_opening_it_twice_in_a_row_of_calls_is_refused_and_not_a_deadlock(warehouse):
    impatient = Warehouse(warehouse.path, lock_timeout_s=0.1)
    with impatient.writing("outer"), pytest.raises(WarehouseBusy, match=f"process {os.getpid()} "):
        impatient.append_readings([reading()])


def test_writers_in_several_processes_take_turns_and_lose_nothing(warehouse):
    code = PRELUDE + "for _ in range(5):\n    warehouse.append_readings([one(sys.argv[2])])"
    writers = [python(code, warehouse.path, name) for name in "abc"]
    for writer in writers:
        with writer:
            assert writer.communicate(timeout=120)[1] == ""
    counted = stored(warehouse, "select account, count(*) from raw.credits_snapshots group by all order by all")
    assert counted == [("a", 5), ("b", 5), ("c", 5)]


@pytest.fixture
def next_release(tmp_path: Path) -> Path:
    """The migrations of a release that comes after this one."""
    steps = shutil.copytree(MIGRATIONS, tmp_path / "next_release")
    number = len(list(steps.glob("*.sql"))) + 1
    step = "alter table raw.credits_snapshots add column note varchar; update raw.credits_snapshots set note = 'old'"
    (steps / f"{number:04}_notes.sql").write_text(step, encoding="utf-8")
    return steps


def test_an_older_file_is_brought_up_to_date_and_kept_as_it_was_and_a_newer_one_is_refused(warehouse, next_release):
    warehouse.append_readings([reading()])
    newer = Warehouse(warehouse.path, migrations=next_release)
    for _ in range(2):
        assert stored(newer, "select note from raw.credits_snapshots") == [("old",)]
        (kept,) = warehouse.path.parent.glob("warehouse.duckdb.version-*Z")
    assert count(Warehouse(kept)) == 1
    assert mode(kept) == "600"
    for attempt in (lambda: warehouse.append_readings([reading()]), lambda: count(warehouse)):
        with pytest.raises(WarehouseError, match=r"newer release of this program.*update this program"):
            attempt()
    assert count(newer) == 1


def test_a_migration_that_fails_changes_nothing(warehouse, next_release):
    warehouse.append_readings([reading()])
    last = sorted(next_release.glob("*.sql"))[-1]
    last.write_text(last.read_text(encoding="utf-8") + "; select 'not a number'::int", encoding="utf-8")
    with pytest.raises(duckdb.Error, match="not a number"):
        count(Warehouse(warehouse.path, migrations=next_release))
    assert count(warehouse) == 1


def test_a_file_of_the_first_release_still_opens_and_its_tables_have_the_form_of_today(warehouse, tmp_path):
    """The fixture was written by the first release (duckdb 1.5.6) and is never made anew; a change is a migration."""
    old = Warehouse(tmp_path / "old.duckdb")
    old.path.write_bytes(gzip.decompress((FIXTURES / "warehouse_of_version_1.duckdb.gz").read_bytes()))
    assert newest_reading(old, "default") == reading(at=NOON, credits="25", usage="5.123456789")
    assert stored(old, "select usage_date, credits_usd from raw.model_usage_days") == [
        (DAYS[0], Decimal("0.25")),
        (DAYS[1], Decimal(0)),
    ]
    columns = """
        select schema_name, table_name, column_index, column_name, data_type, is_nullable from duckdb_columns()
        where database_name = 'warehouse' and schema_name in ('raw', 'ops') order by all
    """
    assert stored(old, columns) == stored(warehouse, columns)
    assert old.append_readings([reading()]) == 1
