"""Readings that people logged before they had this program: honest files go in once, others not at all."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from credits_pipeline import clock
from credits_pipeline.warehouse import Reading, Warehouse
from credits_pipeline.warehouse.importing import ImportRefused, ImportResult, import_readings

NOW = datetime(2026, 6, 17, 12, tzinfo=UTC)
HEADER = "time,total_credits,total_usage\n"
GOOD = HEADER + "2026-06-01T00:05:00Z,25,5.00000001\n2026-06-02T00:05:00Z,25,6.5\n"


@pytest.fixture(autouse=True)
def _midday() -> Iterator[None]:
    with clock.frozen(NOW):
        yield


@pytest.fixture
def load(warehouse: Warehouse, tmp_path: Path) -> Callable[..., ImportResult]:
    """Import a text or bytes as a file, for the account `default`."""

    def load(content: str | bytes, tz: str | None = None, account: str = "default") -> ImportResult:
        file = tmp_path / "readings.csv"
        file.write_bytes(content.encode() if isinstance(content, str) else content)
        return import_readings(warehouse, file, account, tz=tz, run_id="import 1")

    return load


def stored(warehouse: Warehouse) -> list[tuple[datetime, Decimal, Decimal]]:
    with warehouse.reading() as con:
        rows = con.execute(
            "select observed_at, total_credits, total_usage from raw.credits_snapshots order by observed_at"
        ).fetchall()
    return [(at.replace(tzinfo=UTC), credits, usage) for at, credits, usage in rows]


FIRST = (datetime(2026, 6, 1, 0, 5, tzinfo=UTC), Decimal(25), Decimal("5.00000001"))
SECOND = (datetime(2026, 6, 2, 0, 5, tzinfo=UTC), Decimal(25), Decimal("6.5"))


# -- honest files --------------------------------------------------------------------------


def test_a_file_becomes_readings_that_say_where_they_came_from(
    load: Callable[..., ImportResult], warehouse: Warehouse
) -> None:
    assert load(GOOD) == ImportResult(appended=2, already_there=0)
    assert warehouse.newest_reading("default") == Reading(
        account="default",
        snapshot_date=date(2026, 6, 2),
        observed_at=SECOND[0],
        total_credits=Decimal(25),
        total_usage=Decimal("6.5"),
        key_fingerprint=None,
        run_id="import 1",
        source="import",
        payload='{"time": "2026-06-02T00:05:00Z", "total_credits": "25", "total_usage": "6.5"}',
    )
    assert stored(warehouse) == [FIRST, SECOND]


def test_importing_again_appends_nothing(load: Callable[..., ImportResult], warehouse: Warehouse) -> None:
    load(GOOD)
    assert load(GOOD) == ImportResult(appended=0, already_there=2)
    assert load(GOOD + "2026-06-03T00:05:00Z,25,7\n") == ImportResult(appended=1, already_there=2)
    assert len(stored(warehouse)) == 3


def test_the_same_file_belongs_to_two_accounts_if_told_so(load: Callable[..., ImportResult]) -> None:
    assert load(GOOD).appended == 2
    assert load(GOOD, account="acme").appended == 2


def test_a_reading_of_ours_at_the_same_instant_is_not_doubled(
    load: Callable[..., ImportResult], warehouse: Warehouse
) -> None:
    at, credits, usage = FIRST
    warehouse.append_readings([Reading("default", at.date(), at, credits, usage, "ab12", "run")])
    assert load(GOOD) == ImportResult(appended=1, already_there=1)


def test_a_row_said_twice_in_one_file_counts_once(load: Callable[..., ImportResult]) -> None:
    assert load(GOOD + "2026-06-02T02:05:00+02:00,25.0,6.50\n") == ImportResult(appended=2, already_there=1)


def test_the_order_of_rows_and_columns_and_further_columns_do_not_matter(
    load: Callable[..., ImportResult], warehouse: Warehouse
) -> None:
    text = (
        "Note, Total_Usage ,balance,TIME,total_credits\n"
        "late,6.5,18.5,2026-06-02T00:05:00Z,25\n"
        '"first, really",5.00000001,,2026-06-01T00:05:00Z,25\n'
    )
    assert load(text).appended == 2
    assert stored(warehouse) == [FIRST, SECOND]


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(GOOD.replace("\n", "\r\n"), id="Windows line ends"),
        pytest.param(GOOD.encode("utf-8-sig"), id="UTF-8 with a mark, as Excel saves it"),
        pytest.param(GOOD.replace(",", "\t").encode("utf-16"), id="Unicode text, as Excel saves it"),
        pytest.param(GOOD.replace(",", ";"), id="semicolons"),
        pytest.param(GOOD.replace(",", ";").replace(".", ","), id="semicolons and decimal commas"),
        pytest.param("sep=;\r\n" + GOOD.replace(",", ";"), id="a hint for Excel"),
        pytest.param(GOOD + ",,\n\n , ,\n", id="padding rows"),
        pytest.param(GOOD.replace("\n", ",,\n"), id="padding columns"),
        pytest.param(GOOD.rstrip("\n"), id="no last line end"),
    ],
)
def test_files_as_spreadsheets_save_them(
    load: Callable[..., ImportResult], warehouse: Warehouse, content: str | bytes
) -> None:
    assert load(content) == ImportResult(appended=2, already_there=0)
    assert stored(warehouse) == [FIRST, SECOND]


@pytest.mark.parametrize(
    ("written", "tz"),
    [
        ("2026-06-01T00:05:00Z", None),
        ("2026-06-01 00:05:00 UTC", None),
        ("2026-06-01 02:05:00 +0200", None),
        ("2026-05-31T17:05-07:00", None),
        ("2026-06-01T00:05:00.000000+00:00", None),
        ("1780272300", None),
        ("1780272300.0", None),
        ("2026-06-01 02:05:00", "Europe/Paris"),
        ("2026-06-01T00:05", "UTC"),
        ("2026-05-31T17:05:00-07:00", "Europe/Paris"),  # its own offset counts, not the file's zone
    ],
)
def test_every_usual_way_of_writing_an_instant(
    load: Callable[..., ImportResult], warehouse: Warehouse, written: str, tz: str | None
) -> None:
    load(f"{HEADER}{written},25,5.00000001\n", tz)
    assert stored(warehouse) == [FIRST]


def test_the_day_of_a_reading_is_its_utc_day(load: Callable[..., ImportResult], warehouse: Warehouse) -> None:
    load(f"{HEADER}2026-06-01T01:00:00+09:00,25,5\n")
    newest = warehouse.newest_reading("default")
    assert newest is not None
    assert newest.snapshot_date == date(2026, 5, 31)


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        ("29.9999982", "29.999998200"),
        ("5", "5.000000000"),
        ("+5.", None),
        ("1.2E-05", "0.000012000"),
        ("1e3", "1000.000000000"),
        ("999999999.999999999", "999999999.999999999"),
        ("29.999998200000001", "29.999998200"),  # what floating point leaves behind
        ("0.0000000005", "0.000000000"),
    ],
)
def test_amounts_are_taken_digit_by_digit(
    load: Callable[..., ImportResult], warehouse: Warehouse, written: str, kept: str | None
) -> None:
    if kept is None:
        with pytest.raises(ImportRefused, match="no number from 0 up"):
            load(f"{HEADER}2026-06-01T00:05:00Z,{written},1\n")
    else:
        load(f"{HEADER}2026-06-01T00:05:00Z,{written},1\n")
        assert f"{stored(warehouse)[0][1]:f}" == kept


AMOUNTS = st.decimals(min_value=0, max_value=Decimal("999999999.999999999"), places=9)


@settings(max_examples=5, deadline=None)
@given(amounts=st.lists(AMOUNTS, min_size=50, max_size=100).map(sorted))
def test_any_amount_goes_through_unchanged(
    tmp_path_factory: pytest.TempPathFactory, amounts: list[Decimal]
) -> None:
    folder = tmp_path_factory.mktemp("amounts")
    file, warehouse = folder / "readings.csv", Warehouse(folder / "warehouse.duckdb")
    times = [FIRST[0] + timedelta(seconds=n) for n in range(len(amounts))]
    lines = [f"{at.isoformat()},1,{amount}\n" for at, amount in zip(times, amounts, strict=True)]
    file.write_text(HEADER + "".join(lines), encoding="utf-8")
    import_readings(warehouse, file, "default", run_id="run")
    assert [usage for _, _, usage in stored(warehouse)] == amounts


def test_a_file_without_rows_imports_nothing(load: Callable[..., ImportResult]) -> None:
    assert load(HEADER) == ImportResult(appended=0, already_there=0)


def test_a_new_account_may_begin_with_zeros(load: Callable[..., ImportResult]) -> None:
    assert load(HEADER + "2026-05-31T00:05:00Z,0,0\n2026-06-01T00:05:00Z,25,5\n").appended == 2


def import_many(load: Callable[..., ImportResult], warehouse: Warehouse, rows: int) -> None:
    start = datetime(2025, 6, 1, tzinfo=UTC)
    step = Decimal("0.00012345")
    lines = [f"{(start + timedelta(minutes=5 * n)).isoformat()},100,{n * step:f}\n" for n in range(rows)]
    assert load(HEADER + "".join(lines)) == ImportResult(appended=rows, already_there=0)
    newest = warehouse.newest_reading("default")
    assert newest is not None
    assert newest.total_usage == (rows - 1) * step


def test_ten_thousand_rows_go_in_at_once(load: Callable[..., ImportResult], warehouse: Warehouse) -> None:
    import_many(load, warehouse, 10_000)


@pytest.mark.heavy
def test_a_hundred_thousand_rows_go_in_at_once(
    load: Callable[..., ImportResult], warehouse: Warehouse
) -> None:
    import_many(load, warehouse, 100_000)


# -- Parquet -------------------------------------------------------------------------------


@pytest.fixture
def load_table(warehouse: Warehouse, tmp_path: Path) -> Callable[..., ImportResult]:
    def load_table(columns: dict[str, object], tz: str | None = None) -> ImportResult:
        file = tmp_path / "readings.parquet"
        pq.write_table(pa.table(columns), file)
        return import_readings(warehouse, file, "default", tz=tz, run_id="import 1")

    return load_table


TIMES = [FIRST[0], SECOND[0]]


@pytest.mark.parametrize(
    ("times", "amounts", "tz"),
    [
        pytest.param(pa.array(TIMES, pa.timestamp("us", "UTC")), pa.decimal128(18, 9), None, id="exact"),
        pytest.param(pa.array(TIMES, pa.timestamp("ns", "Asia/Tokyo")), pa.float64(), None, id="as pandas"),
        pytest.param(
            pa.array([t.replace(tzinfo=None, hour=2) for t in TIMES], pa.timestamp("s")),
            pa.decimal128(38, 12),
            "Europe/Paris",
            id="no zone",
        ),
        pytest.param(pa.array([t.isoformat() for t in TIMES]), pa.string(), None, id="text"),
        pytest.param(pa.array([int(t.timestamp()) for t in TIMES]), pa.string(), None, id="Unix seconds"),
    ],
)
def test_parquet_of_every_usual_type(
    load_table: Callable[..., ImportResult],
    warehouse: Warehouse,
    times: pa.Array,
    amounts: pa.DataType,
    tz: str | None,
) -> None:
    usage = pa.array([Decimal("5.00000001"), Decimal("6.5")], pa.decimal128(18, 9))
    columns = {
        "time": times,
        "total_credits": pa.array([25, 25], pa.int64()),
        "total_usage": usage.cast(amounts),
        "more": pa.array([["not"], ["read"]]),
    }
    assert load_table(columns, tz) == ImportResult(appended=2, already_there=0)
    assert stored(warehouse) == [FIRST, SECOND]


@pytest.mark.parametrize(
    ("columns", "why"),
    [
        (
            {"time": TIMES, "total_credits": [25, None], "total_usage": [5, 6]},
            "row 2 has the total_credits ''",
        ),
        ({"time": TIMES, "total_credits": [25.0, float("nan")], "total_usage": [5, 6]}, "row 2 .*'nan'"),
        ({"time": TIMES, "total_credits": [25, 25]}, r"not \['time', 'total_credits'\]"),
        (
            {"time": TIMES, "total_credits": pa.array([25, 25], pa.float32()), "total_usage": [5, 6]},
            "a 32-bit float is too coarse for money",
        ),
        (
            {
                "time": [t.replace(tzinfo=None) for t in TIMES],
                "total_credits": [25, 25],
                "total_usage": [5, 6],
            },
            "row 1 .* without a UTC offset",
        ),
    ],
)
def test_parquet_that_cannot_be_true_is_refused(
    load_table: Callable[..., ImportResult], warehouse: Warehouse, columns: dict[str, object], why: str
) -> None:
    with pytest.raises(ImportRefused, match=why):
        load_table(columns)
    assert not warehouse.path.exists()


FAR = pa.array([10**15, 10**15], pa.int64())


@pytest.mark.parametrize(
    "times",
    [
        FAR.cast(pa.timestamp("s", "UTC")),
        pa.array([2**31 - 1, 0], pa.int32()).cast(pa.date32()),
        pa.array([0, 0], pa.int64()).cast(pa.timestamp("us", "Nowhere/Never")),
        pa.array([b"\xff\xfe", b"\x80"], pa.binary()).cast(pa.string(), safe=False),
    ],
    ids=["after the year 9999", "a day after it", "an unknown zone", "not UTF-8"],
)
def test_parquet_with_times_that_python_has_not_is_refused_in_a_sentence(
    load_table: Callable[..., ImportResult], times: pa.Array
) -> None:
    with pytest.raises(ImportRefused, match="Nothing was imported"):
        load_table({"time": times, "total_credits": [25, 25], "total_usage": [5, 6]})


def test_a_pipe_in_the_place_of_a_file_is_refused_and_not_waited_for(
    warehouse: Warehouse, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ImportRefused, match="is not a file"):
        import_readings(warehouse, tmp_path / "pipe", "default", tz=None, run_id="r")


def test_a_broken_parquet_file_is_refused(load: Callable[..., ImportResult]) -> None:
    with pytest.raises(ImportRefused, match="no readable Parquet file"):
        load(b"PAR1" + b"junk" * 100)


# -- files that are refused ----------------------------------------------------------------

BAD_ROWS = {
    "a time without an offset": (
        "2026-06-03 00:05:00,25,7",
        "without a UTC offset: add its zone, as in TZ=Europe/Paris",
    ),
    "a day without a time": ("2026-06-03,25,7", "a day without a time"),
    "a day and a zone without a time": ("2026-06-03 UTC,25,7", "a day without a time"),
    "a day and an offset without a time": ("2026-06-03+01:00,25,7", "a day without a time"),
    "just below what can be stored, if it were not rounded": (
        "2026-06-03T00:05:00Z,999999999.9999999999,7",
        "beyond",
    ),
    "a week's day without a time": ("2026-W23-3,25,7", "a day without a time"),
    "no time": (",25,7", "has the time ''"),
    "an American date": ("6/3/2026 0:05,25,7", "write it as 2026-01-05T00:05:00Z or as Unix time"),
    "a spreadsheet's serial number": ("46176.0034,25,7", "write it as"),
    "a time to come": ("2026-06-17T12:00:01Z,25,7", "which has not come yet"),
    "a year with a slip of the pen": ("0026-06-03T00:05:00Z,25,7", "before there was anything to read"),
    "the year one": ("0001-01-01T00:00:00+14:00,25,7", "write it as"),
    "a negative counter": ("2026-06-03T00:05:00Z,25,-7", "no number from 0 up"),
    "not a number": ("2026-06-03T00:05:00Z,25,NaN", "no number from 0 up"),
    "infinity": ("2026-06-03T00:05:00Z,Infinity,7", "no number from 0 up"),
    "an empty amount": ("2026-06-03T00:05:00Z,25,", "has the total_usage ''"),
    "a currency": ("2026-06-03T00:05:00Z,$25,7", "no number from 0 up"),
    "a formula": ("2026-06-03T00:05:00Z,=A1+1,7", "no number from 0 up"),
    "Python's underscores": ("2026-06-03T00:05:00Z,2_5,7", "no number from 0 up"),
    "other scripts' digits": ("2026-06-03T00:05:00Z,٢٥,7", "no number from 0 up"),
    "a decimal comma": ('2026-06-03T00:05:00Z,"25,5",7', "with a decimal point and no separators"),
    "a thousands separator": ('2026-06-03T00:05:00Z,"1,025.5",7', "no number from 0 up"),
    "beyond what can be stored": ("2026-06-03T00:05:00Z,1000000000,7", "beyond 999999999.999999999"),
    "absurd": ("2026-06-03T00:05:00Z,1e999,7", "beyond 999999999.999999999"),
    "too few cells": ("2026-06-03T00:05:00Z,25", "2 cells where the header has 3"),
    "too many cells": ("2026-06-03T00:05:00Z,25,7,8", "4 cells where the header has 3"),
    "an unclosed quote": ('2026-06-03T00:05:00Z,"25,7', "is no CSV"),
    "two zeros after credits": ("2026-06-03T00:05:00Z,0,0", "two zeros after credits were seen"),
    "the same time and another amount": (
        "2026-06-02T00:05:00Z,25,7",
        "have the same time and different amounts",
    ),
    "a terminal's escape": ("2026-06-03T00:05:00Z,\x1b[31m25,7", r"'\\x1b\[31m25'"),
}


@pytest.mark.parametrize("row", BAD_ROWS)
def test_one_impossible_row_refuses_the_whole_file_and_names_its_line(
    load: Callable[..., ImportResult], warehouse: Warehouse, row: str
) -> None:
    text, why = BAD_ROWS[row]
    with pytest.raises(ImportRefused, match=why) as caught:
        load(GOOD + text + "\n2026-06-04T00:05:00Z,25,8\n")
    message = str(caught.value)
    assert "line 4" in message or row == "an unclosed quote"
    assert message.endswith("Nothing was imported.")
    assert "\x1b" not in message
    assert not warehouse.path.exists() or stored(warehouse) == []


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("", r"must have the columns time, total_credits, total_usage, each once, not \[\]"),
        ("when,credits,usage\n", r"not \['when', 'credits', 'usage'\]"),
        ("time;total_credits\n", r"not \['time', 'total_credits'\]"),
        ("time,time,total_credits,total_usage\n", "each once"),
        ("2026-06-01T00:05:00Z,25,5\n", "must have the columns"),
        (b"PK\x03\x04" + b"x" * 100, "it is a spreadsheet: save the sheet as CSV UTF-8"),
        (GOOD.encode() + "2026-06-03T00:05:00Z,25,7 €\n".encode("cp1252"), "line 4 is not UTF-8"),
        (b"\x00\x01\x02\xff" * 100, "not UTF-8"),
        (
            HEADER.replace(",", ";") + "2026-06-01T00:05:00Z;25,5;5\n2026-06-02T00:05:00Z;25,5;6.5\n",
            "line 3 .*the file mixes decimal points and commas",
        ),
        (
            HEADER.replace(",", ";") + "2026-06-01T00:05:00Z;1.025,5;5\n",
            "line 2 .*the file mixes",
        ),
    ],
)
def test_a_file_that_is_no_table_of_readings_is_refused(
    load: Callable[..., ImportResult], warehouse: Warehouse, content: str | bytes, why: str
) -> None:
    with pytest.raises(ImportRefused, match=why):
        load(content)
    assert not warehouse.path.exists()


def test_times_that_the_clock_change_skipped_or_repeated_are_refused(
    load: Callable[..., ImportResult],
) -> None:
    with pytest.raises(ImportRefused, match=r"line 2 .*was skipped in Europe/Paris"):
        load(HEADER + "2026-03-29 02:30:00,25,5\n", tz="Europe/Paris")
    with pytest.raises(ImportRefused, match=r"line 2 .*came twice in Europe/Paris"):
        load(HEADER + "2025-10-26 02:30:00,25,5\n", tz="Europe/Paris")
    assert load(HEADER + "2025-10-26 02:30:00+02:00,25,5\n2025-10-26 02:30:00+01:00,25,5\n").appended == 2


@pytest.mark.parametrize("tz", ["Europe/Pariz", "../../etc/passwd", "/etc/localtime", "", "Europe"])
def test_an_unknown_time_zone_is_refused(load: Callable[..., ImportResult], tz: str) -> None:
    with pytest.raises(ImportRefused, match="is no time zone: name one as in TZ=Europe/Paris"):
        load(GOOD, tz=tz)


def test_a_file_that_is_not_there_is_refused(warehouse: Warehouse, tmp_path: Path) -> None:
    with pytest.raises(ImportRefused, match=r"nowhere\.csv: it cannot be read \(No such file"):
        import_readings(warehouse, tmp_path / "nowhere.csv", "default", run_id="run")
    with pytest.raises(ImportRefused, match="is not a file"):
        import_readings(warehouse, tmp_path, "default", run_id="run")


def test_a_row_that_contradicts_what_is_stored_refuses_the_file(
    load: Callable[..., ImportResult], warehouse: Warehouse
) -> None:
    load(GOOD)
    with pytest.raises(
        ImportRefused, match="line 3 and the reading that is stored have the same time and different"
    ):
        load(HEADER + "2026-06-05T00:05:00Z,25,9\n2026-06-02T00:05:00Z,25,6.6\n")
    assert stored(warehouse) == [FIRST, SECOND]


@pytest.mark.parametrize("usage", ["1", "0.00000001", "999.5"])
def test_a_reading_that_its_neighbours_deny_refuses_the_file_and_names_its_line(
    load: Callable[..., ImportResult], warehouse: Warehouse, usage: str
) -> None:
    load(GOOD)
    before = stored(warehouse)
    with pytest.raises(ImportRefused, match=r"line 2 has the total_usage .* another account's reading"):
        load(f"{HEADER}2026-06-01T12:00:00Z,25,{usage}\n")
    assert stored(warehouse) == before
    with pytest.raises(ImportRefused, match="line 3 has the total_usage"):
        load(
            f"{HEADER}2026-05-01T00:05:00Z,25,2.9\n2026-05-02T00:05:00Z,25,{usage}\n2026-05-03T00:05:00Z,25,3\n"
        )
    assert stored(warehouse) == before


def test_a_correction_and_figures_that_are_a_minute_old_are_no_slips(
    load: Callable[..., ImportResult],
) -> None:
    load(GOOD)
    assert load(f"{HEADER}2026-06-01T00:05:10Z,25,4.99\n2026-06-01T12:00:00Z,25,7.1\n").appended == 2
    assert load(f"{HEADER}2026-06-03T00:05:00Z,25,3\n2026-06-04T00:05:00Z,25,4\n").appended == 2


def test_two_zeros_are_refused_where_earlier_credits_are_stored(load: Callable[..., ImportResult]) -> None:
    load(GOOD)
    with pytest.raises(ImportRefused, match="line 2 has two zeros after credits were seen"):
        load(HEADER + "2026-06-05T00:05:00Z,0,0\n")


def test_killed_in_the_middle_it_has_imported_nothing_and_can_be_repeated(
    load: Callable[..., ImportResult], warehouse: Warehouse, tmp_path: Path
) -> None:
    code = """
import os, sys
from pathlib import Path
from credits_pipeline.warehouse.importing import import_readings
from credits_pipeline.warehouse import Warehouse

class DiesBeforeTheEnd(Warehouse):
    def append_readings(self, readings, con=None):
        super().append_readings(readings, con)
        os.kill(os.getpid(), 9)

import_readings(DiesBeforeTheEnd(Path(sys.argv[1])), Path(sys.argv[2]), "default", run_id="run")
"""
    file = tmp_path / "readings.csv"
    file.write_text(GOOD, encoding="utf-8")
    done = subprocess.run([sys.executable, "-c", code, str(warehouse.path), str(file)], check=False)
    assert done.returncode == -9
    assert stored(warehouse) == []
    assert load(GOOD).appended == 2


def test_the_payload_is_the_row_as_it_stood_in_the_file(
    load: Callable[..., ImportResult], warehouse: Warehouse
) -> None:
    load(HEADER.replace(",", ";") + '2026-06-01 02:05:00;"25";5,10\n', tz="Europe/Paris")
    newest = warehouse.newest_reading("default")
    assert newest is not None
    assert json.loads(newest.payload or "") == {
        "time": "2026-06-01 02:05:00",
        "total_credits": "25",
        "total_usage": "5.10",
    }
