"""Readings that people logged before they had this program: honest files go in once, others not at all."""

import os
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from credits_pipeline import clock
from credits_pipeline.warehouse import Reading, Warehouse
from credits_pipeline.warehouse.importing import ImportRefused, import_readings
from credits_pipeline_tests.warehouse.stored import newest_reading

Load = Callable[..., tuple[int, int]]

NOW = datetime(2026, 6, 17, 12, tzinfo=UTC)
HEADER = "time,total_credits,total_usage\n"
GOOD = HEADER + "2026-06-01T00:05:00Z,25,5.00000001\n2026-06-02T00:05:00Z,25,6.5\n"
OTHER_COLUMNS = """\
Note, Total_Usage ,balance,TIME,total_credits
late,6.5,18.5,2026-06-02T00:05:00Z,25
"first, really",5.00000001,,2026-06-01T00:05:00Z,25
"""
FIRST = (datetime(2026, 6, 1, 0, 5, tzinfo=UTC), Decimal(25), Decimal("5.00000001"))
SECOND = (datetime(2026, 6, 2, 0, 5, tzinfo=UTC), Decimal(25), Decimal("6.5"))


@pytest.fixture(autouse=True)
def _midday() -> Iterator[None]:
    with clock.frozen(NOW):
        yield


@pytest.fixture
def load(warehouse: Warehouse, tmp_path: Path) -> Load:
    """Import a text, bytes or the columns of a table as a file."""

    def load(
        content: str | bytes | dict[str, object], tz: str | None = None, account: str = "default"
    ) -> tuple[int, int]:
        file = tmp_path / "readings"
        if isinstance(content, dict):
            pq.write_table(pa.table(content), file)
        else:
            file.write_bytes(content.encode() if isinstance(content, str) else content)
        return import_readings(warehouse, file, account, tz)

    return load


def stored(warehouse: Warehouse) -> list[tuple[datetime, Decimal, Decimal]]:
    query = "select observed_at, total_credits, total_usage from raw.credits_snapshots order by observed_at"
    with warehouse.reading() as con:
        return [(at.replace(tzinfo=UTC), *counters) for at, *counters in con.execute(query).fetchall()]


def test_a_file_becomes_readings_that_say_where_they_came_from(load, warehouse):
    assert load(GOOD) == (2, 0)
    payload = '{"time": "2026-06-02T00:05:00Z", "total_credits": "25", "total_usage": "6.5"}'
    assert newest_reading(warehouse, "default") == Reading(
        "default", date(2026, 6, 2), *SECOND, None, "import", "import", payload
    )
    assert stored(warehouse) == [FIRST, SECOND]
    assert load(GOOD + "2026-06-03T00:05:00Z,25,7\n") == (1, 2)
    assert load(GOOD, account="acme") == (2, 0)


def test_what_is_said_twice_counts_once(load, warehouse):
    """By a reading of ours, or by another row of the file."""
    at, credits, usage = FIRST
    warehouse.append_readings([Reading("default", at.date(), at, credits, usage, "ab12", "run")])
    again = "2026-06-02T02:05:00+02:00,25.0,6.50\n"
    assert load(GOOD + again) == (1, 2)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(GOOD.replace("\n", "\r\n"), id="Windows line ends"),
        pytest.param(GOOD.encode("utf-8-sig"), id="UTF-8 with a mark, as Excel saves it"),
        pytest.param(GOOD.replace(",", "\t").encode("utf-16"), id="Unicode text, as Excel saves it"),
        pytest.param(GOOD.replace(",", ";").replace(".", ","), id="semicolons and decimal commas"),
        pytest.param(GOOD + ",,\n\n , ,\n", id="padding rows"),
        pytest.param(GOOD.replace("\n", ",,\n"), id="padding columns"),
        pytest.param(OTHER_COLUMNS, id="further columns, in another order"),
    ],
)
def test_files_as_spreadsheets_save_them(load, warehouse, content):
    assert load(content) == (2, 0)
    assert stored(warehouse) == [FIRST, SECOND]


@pytest.mark.parametrize(
    ("written", "tz"),
    [
        *((time, None) for time in ("2026-06-01T00:05:00Z", "2026-06-01 02:05:00 +0200", "1780272300")),
        ("2026-06-01 02:05:00", "Europe/Paris"),
        ("2026-05-31T17:05:00-07:00", "Europe/Paris"),  # its own offset counts, not the file's zone
    ],
)
def test_every_usual_way_of_writing_an_instant(load, warehouse, written, tz):
    load(f"{HEADER}{written},25,5.00000001\n", tz)
    assert stored(warehouse) == [FIRST]


TIMES = [FIRST[0], SECOND[0]]


@pytest.mark.parametrize(
    ("times", "amounts", "tz"),
    [
        pytest.param(pa.array(TIMES, pa.timestamp("us", "UTC")), pa.decimal128(18, 9), None, id="exact"),
        pytest.param(pa.array(TIMES, pa.timestamp("ns", "Asia/Tokyo")), pa.float64(), None, id="as pandas"),
        pytest.param(pa.array([t.replace(tzinfo=None, hour=2) for t in TIMES], pa.timestamp("s")),
                     pa.decimal128(38, 12), "Europe/Paris", id="no zone"),
        pytest.param(pa.array([int(t.timestamp()) for t in TIMES]), pa.string(), None, id="Unix seconds"),
    ],
)  # fmt: skip
def test_parquet_of_every_usual_type(load, warehouse, times, amounts, tz):
    usage = pa.array([Decimal("5.00000001"), Decimal("6.5")], pa.decimal128(18, 9))
    columns = {"time": times, "total_credits": pa.array([25, 25], pa.int64()), "total_usage": usage.cast(amounts)}
    assert load(columns | {"more": pa.array([["not"], ["read"]])}, tz) == (2, 0)
    assert stored(warehouse) == [FIRST, SECOND]


def test_parquet_that_cannot_be_true_is_refused(load, warehouse):
    with pytest.raises(ImportRefused, match=r"row 2 .*'nan'"):
        load({"time": TIMES, "total_credits": [25.0, float("nan")], "total_usage": [5, 6]})
    with pytest.raises(ImportRefused, match="no readable Parquet file"):
        load(b"PAR1" + b"junk" * 100)
    assert not warehouse.path.exists()


AT = "2026-06-03T00:05:00Z"
BAD_ROWS = [
    ("2026-06-03 00:05:00,25,7", "without a UTC offset: add its zone, as in TZ=Europe/Paris"),
    *((f"{day},25,7", "no day and time: write") for day in ("2026-06-03", "2026-06-03 UTC", "6/3/2026 0:05")),
    ("2026-06-17T12:00:01Z,25,7", "which has not come yet"),
    ("0026-06-03T00:05:00Z,25,7", "before there was anything to read"),
    *((f"{AT},{usd},7", "has the total_credits .*, no number from 0 up") for usd in ("-7", "NaN", "٢٥", '"1,025.5"')),
    (f"{AT},1e999,7", "beyond"),
    (f"{AT},25,7,8", "4 cells where the header has 3"),
    (f'{AT},"25,7', "is no CSV"),
    (f"{AT},0,0", "two zeros after credits were seen"),
    ("2026-06-02T00:05:00Z,25,7", "have the same time and different amounts"),
    (f"{AT},\x1b[31m25,7", r"'\\x1b\[31m25'"),
]


@pytest.mark.parametrize(("row", "why"), BAD_ROWS)
def test_one_impossible_row_refuses_the_whole_file_and_names_its_line(load, warehouse, row, why):
    with pytest.raises(ImportRefused, match=why) as caught:
        load(GOOD + row + "\n2026-06-04T00:05:00Z,25,8\n")
    message = str(caught.value)
    assert "line 4" in message or "no CSV" in message
    assert message.endswith("Nothing was imported.")
    assert "\x1b" not in message
    assert not warehouse.path.exists() or stored(warehouse) == []


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("", r"must have the columns time, total_credits, total_usage, each once, not \[\]"),
        ("time,time,total_credits,total_usage\n", "each once"),
        (b"PK\x03\x04" + b"x" * 100, "it is a spreadsheet: save the sheet as CSV UTF-8"),
        (GOOD.encode() + "2026-06-03T00:05:00Z,25,7 €\n".encode("cp1252"), "it is not UTF-8"),
        (HEADER.replace(",", ";") + f"{AT};25,5;5\n{AT};25,5;6.5\n", "line 3 .*mixes decimal points and commas"),
    ],
)
def test_a_file_that_is_no_table_of_readings_is_refused(load, warehouse, content, why):
    with pytest.raises(ImportRefused, match=why):
        load(content)
    assert not warehouse.path.exists()


def test_times_that_the_clock_change_skipped_or_repeated_are_refused(load):
    for time in ("2026-03-29 02:30:00", "2025-10-26 02:30:00"):
        with pytest.raises(ImportRefused, match=r"line 2 .*was skipped or came twice in Europe/Paris"):
            load(f"{HEADER}{time},25,5\n", tz="Europe/Paris")
    assert load(HEADER + "2025-10-26 02:30:00+02:00,25,5\n2025-10-26 02:30:00+01:00,25,5\n") == (2, 0)
    with pytest.raises(ImportRefused, match="is no time zone: name one as in TZ=Europe/Paris"):
        load(GOOD, tz="Europe/Pariz")


def test_a_file_that_is_not_there_is_refused(warehouse, tmp_path):
    with pytest.raises(ImportRefused, match=r"nowhere\.csv: it cannot be read \(No such file"):
        import_readings(warehouse, tmp_path / "nowhere.csv", "default")
    os.mkfifo(tmp_path / "pipe")  # which would be waited for
    for place in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(ImportRefused, match="is not a file"):
            import_readings(warehouse, place, "default")


@pytest.mark.parametrize("usage", ["0.00000001", "999.5"])
def test_a_reading_that_its_neighbours_deny_refuses_the_file_and_names_its_line(load, warehouse, usage):
    load(GOOD)
    before = stored(warehouse)
    with pytest.raises(ImportRefused, match="line 2 and the reading that is stored have the same time and different"):
        load(f"{HEADER}2026-06-02T00:05:00Z,25,{usage}\n")
    with pytest.raises(ImportRefused, match=r"line 2 has the total_usage .* another account's reading"):
        load(f"{HEADER}2026-06-01T12:00:00Z,25,{usage}\n")
    assert stored(warehouse) == before
    with pytest.raises(ImportRefused, match="line 3 has the total_usage"):
        load(f"{HEADER}2026-05-01T00:05:00Z,25,2.9\n2026-05-02T00:05:00Z,25,{usage}\n2026-05-03T00:05:00Z,25,3\n")
    assert stored(warehouse) == before


def test_a_correction_and_figures_that_are_a_minute_old_are_no_slips(load):
    load(GOOD)
    assert load(f"{HEADER}2026-06-01T00:05:10Z,25,4.99\n2026-06-01T12:00:00Z,25,7.1\n") == (2, 0)
    assert load(f"{HEADER}2026-06-03T00:05:00Z,25,3\n2026-06-04T00:05:00Z,25,4\n") == (2, 0)
