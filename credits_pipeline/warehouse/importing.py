"""Import of earlier readings, as people have logged them in spreadsheets and cron jobs.

A file is CSV (comma, semicolon or tab; UTF-8 or UTF-16) or Parquet, with the two lifetime counters in USD and the
instant at which they were read. It is taken as a whole or, at the first row that cannot be true, not at all.
"""

import csv
import io
import json
import re
import zoneinfo
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

from credits_pipeline import clock
from credits_pipeline.config import LARGEST_TOTAL_USD
from credits_pipeline.errors import CreditsError
from credits_pipeline.text import literal
from credits_pipeline.warehouse import connection
from credits_pipeline.warehouse.file import naive
from credits_pipeline.warehouse.tables import Reading, Tables

COLUMNS: Final = ("time", "total_credits", "total_usage")

EARLIEST: Final = datetime(2023, 1, 1, tzinfo=UTC)
"""The vendor opened in 2023; an earlier time is a slip of the pen that would make centuries of empty days."""

_UNIX_SECONDS: Final = re.compile(r"\d{10}(\.\d+)?", re.ASCII)
_NUMBER: Final = re.compile(r"\+?\d+(\.\d+)?([eE][+-]?\d{1,3})?", re.ASCII)

_Lines = Iterator[tuple[str, Sequence[str]]]
"""Where each row is in the file, and its three cells."""


class ImportRefused(CreditsError):
    """The file was not imported, nothing was written; the message names the file, the line and the reason."""


def import_readings(warehouse: Tables, file: Path, account: str, tz: str | None = None) -> tuple[int, int]:
    """Append the readings in `file` to the account's, with `source = 'import'`; once more appends nothing.

    Returns how many readings were appended, and how many rows told a reading that was known already.
    Times are ISO 8601 or Unix seconds. One without an offset is refused unless `tz` names the zone it was
    written in (`Europe/Paris`), and even then where a change of the clocks skipped or repeated it.
    Amounts are taken digit by digit and rounded to a billionth of a dollar.
    Raises ImportRefused, or what `Warehouse.writing` raises.
    """
    try:
        zone = zoneinfo.ZoneInfo(tz) if tz is not None else None
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        raise ImportRefused(f"{tz!r} is no time zone: name one as in TZ=Europe/Paris or TZ=UTC.") from None
    try:
        rows = [(where, _reading(where, cells, zone, account)) for where, cells in _lines(file)]
        with warehouse.writing(f"importing {file.name}") as con:
            asked = {
                "account": account,
                "places": [where for where, _ in rows],
                "times": [naive(reading.observed_at) for _, reading in rows],
                "bought": [f"{reading.total_credits:f}" for _, reading in rows],
                "used": [f"{reading.total_usage:f}" for _, reading in rows],
            }
            [found] = connection.fetch_dicts(con, Path(__file__).with_suffix(".sql"), asked)
            if found["problem"]:
                raise ImportRefused(found["problem"])
            fresh = [rows[number][1] for number in found["fresh"] or []]
            warehouse.append_readings(fresh, con=con)
    except ImportRefused as error:
        raise ImportRefused(f"{file}: {error} Nothing was imported.") from None
    return len(fresh), len(rows) - len(fresh)


def _lines(file: Path) -> _Lines:
    if file.exists() and not file.is_file():  # reading from a pipe would wait
        raise ImportRefused("it is not a file: name the CSV or Parquet file itself.")
    try:
        content = file.read_bytes()
    except OSError as error:
        raise ImportRefused(f"it cannot be read ({error.strerror}).") from None
    if content.startswith((b"PK\x03\x04", b"\xd0\xcf\x11\xe0")):
        raise ImportRefused("it is a spreadsheet: save the sheet as CSV UTF-8 and import that.")
    return _parquet_lines(file) if content.startswith(b"PAR1") else _csv_lines(content)


def _csv_lines(content: bytes) -> _Lines:
    try:
        text = content.decode("utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except UnicodeDecodeError:
        raise ImportRefused("it is not UTF-8: save the file as CSV UTF-8.") from None
    delimiter = max(",;\t", key=text.partition("\n")[0].count)
    rows = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    marks: set[str] = set()
    try:
        rows.fieldnames = header = [name.strip().lower() for name in rows.fieldnames or []]
        _check(header)
        for row in rows:
            where, beyond = f"line {rows.line_num}", row.pop(None, [])
            if not any(cell and cell.strip() for cell in row.values()):
                continue  # spreadsheets pad with empty rows
            if None in row.values() or any(cell.strip() for cell in beyond):
                cells = sum(cell is not None for cell in row.values()) + len(beyond)
                raise ImportRefused(f"{where} has {cells} cells where the header has {len(header)}.")
            time, *amounts = (row[name].strip() for name in COLUMNS)
            if delimiter == ";":  # then a comma is the decimal mark; but a file has one mark, not two
                marks |= {",", "."} & set("".join(amounts))
                if len(marks) > 1:
                    raise ImportRefused(f"{where} has {amounts}: the file mixes decimal points and commas.")
                amounts = [amount.replace(",", ".") for amount in amounts]
            yield where, (time, *amounts)
    except csv.Error as error:
        raise ImportRefused(f"line {rows.line_num} is no CSV ({error}).") from None


def _parquet_lines(file: Path) -> _Lines:
    import duckdb

    relation = f"read_parquet({literal(str(file))})"
    columns = ", ".join(f"coalesce({name}::varchar, '')" for name in COLUMNS)
    try:
        with connection.connect(file) as con:
            _check([name for name, *_ in con.execute(f"describe from {relation}").fetchall()])
            rows = con.execute(f"select {columns} from {relation}").fetchall()
    except duckdb.Error as error:
        raise ImportRefused(f"it is no readable Parquet file ({_short(str(error))}).") from None
    yield from ((f"row {number}", row) for number, row in enumerate(rows, 1))


def _check(header: list[str]) -> None:
    if any(header.count(name) != 1 for name in COLUMNS):
        raise ImportRefused(f"it must have the columns {', '.join(COLUMNS)}, each once, not {_short(header)}.")


def _reading(where: str, cells: Sequence[str], zone: zoneinfo.ZoneInfo | None, account: str) -> Reading:
    values: list[Any] = []
    for name, cell in zip(COLUMNS, cells, strict=True):
        try:
            values.append(_instant(cell, zone) if name == "time" else _amount(cell))
        except ImportRefused as error:
            raise ImportRefused(f"{where} has the {name} {_short(cell)}, {error}") from None
    payload = json.dumps(dict(zip(COLUMNS, cells, strict=True)))
    at, bought, used = values
    return Reading(account, at.date(), at, bought, used, None, "import", "import", payload)


def _instant(time: str, zone: zoneinfo.ZoneInfo | None) -> datetime:
    # As `date` prints it: "2026-01-05 00:05:00 UTC", "2026-01-05 00:05:00 +0100".
    text = re.sub(r"\s*(UTC|GMT|Z)$", "+00:00", time, flags=re.IGNORECASE)
    text = re.sub(r"\s+([+-]\d\d:?\d\d)$", r"\1", text)
    is_unix = _UNIX_SECONDS.fullmatch(text)
    try:
        if not is_unix and not re.search(r"[T ]\d", text):  # Python would take a day alone for its midnight
            raise ValueError
        at = datetime.fromtimestamp(float(text), UTC) if is_unix else datetime.fromisoformat(text)
        if not at.tzinfo:
            if zone is None:
                raise ImportRefused("without a UTC offset: add its zone, as in TZ=Europe/Paris.")
            at = at.replace(tzinfo=zone)
            if at.utcoffset() != at.replace(fold=1).utcoffset():
                raise ImportRefused(
                    f"which was skipped or came twice in {zone.key} when the clocks changed: add its offset."
                )
        at = at.astimezone(UTC)
    except (ValueError, OverflowError):
        raise ImportRefused("no day and time: write it as 2026-01-05T00:05:00Z or as Unix time.") from None
    if at > clock.now():
        raise ImportRefused("which has not come yet.")
    if at < EARLIEST:
        raise ImportRefused("before there was anything to read.")
    return at


def _amount(text: str) -> Decimal:
    if not _NUMBER.fullmatch(text):
        raise ImportRefused("no number from 0 up such as 12.5, with a decimal point and no separators.")
    if (value := Decimal(text)) > LARGEST_TOTAL_USD:
        raise ImportRefused(f"beyond {LARGEST_TOTAL_USD:,} dollars.")
    return round(value, 9)  # halves to even


def _short(value: object) -> str:
    """As it stands in the file, short and with control characters made visible."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
