"""Import of earlier readings, as people have logged them in spreadsheets and cron jobs.

A file is CSV (comma, semicolon or tab; UTF-8 or UTF-16, as spreadsheets save it) or Parquet, with the
columns `time`, `total_credits` and `total_usage`: the two lifetime counters in USD and the instant at which
they were read. It is taken as a whole or, at the first row that cannot be true, not at all.
"""

import csv
import io
import json
import re
import zoneinfo
from bisect import bisect
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Final, NamedTuple

from credits_pipeline import clock
from credits_pipeline.config import LARGEST_TOTAL_USD
from credits_pipeline.errors import CreditsError
from credits_pipeline.text import literal
from credits_pipeline.warehouse import connection
from credits_pipeline.warehouse.tables import Reading, Tables

COLUMNS: Final = ("time", "total_credits", "total_usage")

EARLIEST: Final = datetime(2023, 1, 1, tzinfo=UTC)
"""The vendor opened in 2023; an earlier time is a slip of the pen that would make centuries of empty days."""

_DENIED_BEYOND: Final = Decimal("0.01")
"""Share of a counter by which a reading may lie outside what the readings around it say."""

_UNIX_SECONDS: Final = re.compile(r"\d{10}(\.\d+)?", re.ASCII)
_NUMBER: Final = re.compile(r"\+?\d+(\.\d+)?([eE][+-]?\d{1,3})?", re.ASCII)

_Lines = Iterator[tuple[str, tuple[str, ...]]]
"""Where each row is in the file, and its three cells."""


class ImportRefused(CreditsError):
    """The file was not imported, nothing was written; the message names the file, the line and the reason."""


@dataclass(frozen=True)
class ImportResult:
    """How many readings were appended, and how many rows told a reading that was known already."""

    appended: int
    already_there: int


class _Row(NamedTuple):
    where: str
    text: tuple[str, ...]
    at: datetime
    counters: tuple[Decimal, Decimal]  # USD ever bought, USD ever used


def import_readings(warehouse: Tables, file: Path, account: str, *, tz: str | None = None, run_id: str) -> ImportResult:
    """Append the readings in `file` to the account's, with `source = 'import'`; once more appends nothing.

    Times are ISO 8601 or Unix seconds. One without an offset is refused unless `tz` names the zone it was
    written in (`Europe/Paris`), and even then where a change of the clocks skipped or repeated it.
    Amounts are taken digit by digit and rounded to a billionth of a dollar.
    Raises ImportRefused, or what `Warehouse.writing` raises.
    """
    try:
        zone = zoneinfo.ZoneInfo(tz) if tz is not None else None
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        raise ImportRefused(f"{tz!r} is no time zone: name one as in TZ=Europe/Paris or TZ=UTC.") from None
    query = "select observed_at, total_credits, total_usage from raw.credits_snapshots where account = ?"
    try:
        rows = [_row(where, text, zone) for where, text in _lines(file)]
        with warehouse.writing(f"importing {file.name}") as con:
            stored = con.execute(query, [account]).fetchall()
            fresh = _fresh(rows, {at.replace(tzinfo=UTC): counters for at, *counters in stored})
            warehouse.append_readings((_reading(row, account, run_id) for row in fresh), con=con)
    except ImportRefused as error:
        raise ImportRefused(f"{file}: {error} Nothing was imported.") from None
    return ImportResult(appended=len(fresh), already_there=len(rows) - len(fresh))


def _reading(row: _Row, account: str, run_id: str) -> Reading:
    payload = json.dumps(dict(zip(COLUMNS, row.text, strict=True)))
    return Reading(account, row.at.date(), row.at, *row.counters, None, run_id, "import", payload)


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
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    marks: set[str] = set()
    try:
        header = [name.strip().lower() for name in next(lines, [])]
        places = _places(header)
        for cells in lines:
            if not any(cell.strip() for cell in cells):
                continue  # spreadsheets pad with empty rows
            where = f"line {lines.line_num}"
            if len(cells) < len(header) or any(cell.strip() for cell in cells[len(header) :]):
                raise ImportRefused(f"{where} has {len(cells)} cells where the header has {len(header)}.")
            time, *amounts = (cells[place].strip() for place in places)
            if delimiter == ";":  # then a comma is the decimal mark; but a file has one mark, not two
                marks |= {",", "."} & set("".join(amounts))
                if len(marks) > 1:
                    raise ImportRefused(f"{where} has {amounts}: the file mixes decimal points and commas.")
                amounts = [amount.replace(",", ".") for amount in amounts]
            yield where, (time, *amounts)
    except csv.Error as error:
        raise ImportRefused(f"line {lines.line_num} is no CSV ({error}).") from None


def _parquet_lines(file: Path) -> _Lines:
    import duckdb

    relation = f"read_parquet({literal(str(file))})"
    columns = ", ".join(f"coalesce({name}::varchar, '')" for name in COLUMNS)
    try:
        with connection.connect(file) as con:
            _places([name for name, *_ in con.execute(f"describe from {relation}").fetchall()])
            rows = con.execute(f"select {columns} from {relation}").fetchall()
    except duckdb.Error as error:
        raise ImportRefused(f"it is no readable Parquet file ({_short(str(error))}).") from None
    yield from ((f"row {number}", row) for number, row in enumerate(rows, 1))


def _places(header: list[str]) -> list[int]:
    if any(header.count(name) != 1 for name in COLUMNS):
        raise ImportRefused(f"it must have the columns {', '.join(COLUMNS)}, each once, not {_short(header)}.")
    return [header.index(name) for name in COLUMNS]


def _row(where: str, text: tuple[str, ...], zone: zoneinfo.ZoneInfo | None) -> _Row:
    values: list[Any] = []
    for name, cell in zip(COLUMNS, text, strict=True):
        try:
            values.append(_instant(cell, zone) if name == "time" else _amount(cell))
        except ImportRefused as error:
            raise ImportRefused(f"{where} has the {name} {_short(cell)}, {error}") from None
    return _Row(where, text, values[0], (values[1], values[2]))


def _instant(time: str, zone: zoneinfo.ZoneInfo | None) -> datetime:
    # As `date` prints it: "2026-01-05 00:05:00 UTC", "2026-01-05 00:05:00 +0100".
    text = re.sub(r"\s*(UTC|GMT|Z)$", "+00:00", time, flags=re.IGNORECASE)
    text = re.sub(r"\s+([+-]\d\d:?\d\d)$", r"\1", text)
    is_unix = _UNIX_SECONDS.fullmatch(text)
    try:
        if not is_unix and not re.search(r"[T ]\d", text):  # Python would take a day alone for its midnight
            raise ValueError
        moment = datetime.fromtimestamp(float(text), UTC) if is_unix else datetime.fromisoformat(text)
        at = _in_zone(moment, zone).astimezone(UTC)
    except (ValueError, OverflowError):
        raise ImportRefused("no day and time: write it as 2026-01-05T00:05:00Z or as Unix time.") from None
    if at > clock.now():
        raise ImportRefused("which has not come yet.")
    if at < EARLIEST:
        raise ImportRefused("before there was anything to read.")
    return at


def _in_zone(moment: datetime, zone: zoneinfo.ZoneInfo | None) -> datetime:
    if moment.tzinfo:
        return moment
    if zone is None:
        raise ImportRefused("without a UTC offset: add its zone, as in TZ=Europe/Paris.")
    first, second = (moment.replace(tzinfo=zone, fold=fold) for fold in (0, 1))
    if first.utcoffset() != second.utcoffset():
        raise ImportRefused(f"which was skipped or came twice in {zone.key} when the clocks changed: add its offset.")
    return first


def _amount(text: str) -> Decimal:
    if not _NUMBER.fullmatch(text):
        raise ImportRefused("no number from 0 up such as 12.5, with a decimal point and no separators.")
    value = Decimal(text)
    if value > LARGEST_TOTAL_USD:
        raise ImportRefused(f"beyond {LARGEST_TOTAL_USD:,} dollars.")
    return round(value, 9)  # halves to even


def _short(value: object) -> str:
    """As it stands in the file, short and with control characters made visible."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _fresh(rows: list[_Row], stored: dict[datetime, Any]) -> list[_Row]:
    """The rows that say something new, in order of time.

    A lifetime counter must lie between the readings before and after it, and does not fall to zero. Small differences
    are allowed: figures can be a minute old, and corrections happen. A large one is a typo or another account's
    reading and, once stored, would show as a huge correction and a huge spend.
    """
    known = {at: (tuple(counters), "the reading that is stored") for at, counters in stored.items()}
    fresh = []
    for row in sorted(rows, key=lambda row: row.at):
        if row.at not in known:
            known[row.at] = row.counters, row.where
            fresh.append(row)
        elif known[row.at][0] != row.counters:
            raise ImportRefused(f"{row.where} and {known[row.at][1]} have the same time and different amounts.")
    instants = sorted(known)
    funded = next((at for at in instants if any(known[at][0])), None)
    for row in fresh:
        if funded and funded < row.at and not any(row.counters):
            raise ImportRefused(f"{row.where} has two zeros after credits were seen: no real reading, remove it.")
        place = bisect(instants, row.at)
        if not 1 < place < len(instants):
            continue
        before, after = (known[instants[neighbour]][0][1] for neighbour in (place - 2, place))
        tolerance = max(after - before, after * _DENIED_BEYOND)
        if before <= after and not before - tolerance <= row.counters[1] <= after + tolerance:
            raise ImportRefused(
                f"{row.where} has the total_usage {row.text[2]} between readings of {before:f} and {after:f}:"
                " a mistake, or another account's reading. Correct it or take it out."
            )
    return fresh
