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
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

from credits_pipeline import clock
from credits_pipeline.warehouse.file import Reading, Warehouse, money

COLUMNS: Final = ("time", "total_credits", "total_usage")

EARLIEST: Final = datetime(2023, 1, 1, tzinfo=UTC)
"""The vendor opened in 2023; an earlier time is a slip of the pen that would make centuries of empty days."""

_DENIED_BEYOND: Final = Decimal("0.01")
"""Share of a counter by which a reading may lie outside what the readings around it say."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_DAY_ALONE: Final = re.compile(r"\d{4}-?(\d\d-?\d\d|W\d\d(-?\d)?)([+-]\d\d:?\d\d)?", re.ASCII)
_UNIX_SECONDS: Final = re.compile(r"(\d{10})(?:\.(\d{1,6})\d*)?", re.ASCII)
_NUMBER: Final = re.compile(r"[+-]?\d+([.,]\d+)?([eE][+-]?\d{1,3})?", re.ASCII)
_SPREADSHEET: Final = b"PK\x03\x04"
_OLD_SPREADSHEET: Final = b"\xd0\xcf\x11\xe0"


class ImportRefused(Exception):
    """The file was not imported, nothing was written; the message names the file, the line and the reason."""


@dataclass(frozen=True)
class ImportResult:
    """How many readings were appended, and how many rows told a reading that was known already."""

    appended: int
    already_there: int


@dataclass(frozen=True)
class _Row:
    """One line of the file, as text."""

    where: str
    time: str
    total_credits: str
    total_usage: str


@dataclass(frozen=True)
class _Parsed:
    row: _Row
    observed_at: datetime
    total_credits: Decimal
    total_usage: Decimal

    @property
    def counters(self) -> tuple[Decimal, Decimal]:
        return self.total_credits, self.total_usage


def import_readings(
    warehouse: Warehouse, file: Path, account: str, *, tz: str | None = None, run_id: str
) -> ImportResult:
    """Append the readings in `file` to the account's, with `source = 'import'`; once more appends nothing.

    Times are ISO 8601 or Unix seconds. One without an offset is refused unless `tz` names the zone it was
    written in (`Europe/Paris`), and even then where a change of the clocks skipped or repeated it.
    Amounts are taken digit by digit and rounded to a billionth of a dollar.
    Raises ImportRefused, or what `Warehouse.writing` raises.
    """
    if not re.fullmatch(r"[a-z0-9_]{1,64}", account):
        raise ImportRefused(
            f"{account!r} is no account name: use lower-case letters, digits and _, as in ACCOUNT=default."
        )
    zone = _zone(tz)
    try:
        parsed = [_parsed(row, zone) for row in _rows(file)]
        fresh, already_there = _without_repeats(parsed)
        with warehouse.writing(f"importing {file.name}") as con:
            known = _known(con, account)
            _refuse_a_fall_to_zero(fresh, known)
            unknown = [p for p in fresh if not _is_known(p, known)]
            _refuse_what_the_neighbours_deny(unknown, known)
            readings = [_reading(p, account, run_id) for p in unknown]
            warehouse.append_readings(readings, con=con)
    except _Wrong as error:
        raise ImportRefused(f"{file}: {error} Nothing was imported.") from None
    return ImportResult(appended=len(readings), already_there=already_there + len(fresh) - len(unknown))


class _Wrong(Exception):
    """What is wrong with the file or a row of it, as a sentence without the file's name."""


# -- rows as text --------------------------------------------------------------------------


def _rows(file: Path) -> Iterator[_Row]:
    try:
        if file.exists() and not file.is_file():  # reading from a pipe would wait, and it is read twice
            raise _Wrong("it is not a file: name the CSV or Parquet file itself.")
        with file.open("rb") as stream:
            start = stream.read(4)
    except FileNotFoundError:
        raise _Wrong("there is no such file.") from None
    except OSError as error:
        raise _Wrong(f"it cannot be read ({error.strerror}).") from None
    if start in (_SPREADSHEET, _OLD_SPREADSHEET):
        raise _Wrong("it is a spreadsheet: save the sheet as CSV UTF-8 and import that.")
    return _parquet_rows(file) if start == b"PAR1" else _csv_rows(_text(file))


def _text(file: Path) -> str:
    content = file.read_bytes()
    encoding = "utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise _Wrong(f"line {line} is not UTF-8: save the file as CSV UTF-8.") from None


def _csv_rows(text: str) -> Iterator[_Row]:
    delimiter, header, lines = _header(text)
    places = [header.index(name) for name in COLUMNS]
    marks: dict[str, str] = {}
    try:
        for cells in lines:
            if not any(cell.strip() for cell in cells):
                continue  # spreadsheets pad with empty rows
            where = f"line {lines.line_num}"
            if len(cells) < len(header) or any(cell.strip() for cell in cells[len(header) :]):
                raise _Wrong(f"{where} has {len(cells)} cells where the header has {len(header)}.")
            time, *amounts = (cells[place].strip() for place in places)
            if delimiter == ";":
                amounts = [_with_point(amount, where, marks) for amount in amounts]
            yield _Row(where, time, *amounts)
    except csv.Error as error:
        raise _Wrong(f"line {lines.line_num} is no CSV ({error}).") from None


def _header(text: str) -> "tuple[str, list[str], Any]":
    """The delimiter, the names of the columns, and a reader that stands at the first row below them."""
    found: list[str] = []
    for delimiter in ",;\t":
        lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        try:
            header = next(lines, [])
            if len(header) <= 2 and "".join(header).strip().lower().startswith("sep="):
                header = next(lines, [])  # a hint for Excel, by Excel
        except csv.Error as error:
            raise _Wrong(f"line 1 is no CSV ({error}).") from None
        names = [name.strip().lower() for name in header]
        if all(names.count(name) == 1 for name in COLUMNS):
            return delimiter, names, lines
        found = max(found, names, key=len)
    raise _Wrong(
        f"its first line must name the columns {', '.join(COLUMNS)}, each once; it says {_shown(found)}."
    )


def _with_point(amount: str, where: str, marks: dict[str, str]) -> str:
    """Where cells are parted by semicolons, a comma is the decimal mark; but a file has one mark, not two."""
    for mark in ".,":
        if mark in amount and marks.setdefault("decimal", mark) != mark:
            raise _Wrong(f"{where} has {amount!r}: the file mixes decimal points and decimal commas.")
    return amount.replace(",", ".") if amount.count(",") == 1 else amount


def _parquet_rows(file: Path) -> Iterator[_Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(file) as parquet:
            schema = parquet.schema_arrow
            if any(schema.names.count(name) != 1 for name in COLUMNS):
                raise _Wrong(f"it must have the columns {', '.join(COLUMNS)}; it has {_shown(schema.names)}.")
            for name in COLUMNS[1:]:
                if pa.types.is_float16(schema.field(name).type) or pa.types.is_float32(
                    schema.field(name).type
                ):
                    raise _Wrong(
                        f"{name} is {schema.field(name).type}, too coarse for money: store decimals."
                    )
            number = 0
            for batch in parquet.iter_batches(columns=list(COLUMNS)):
                for values in zip(*(_as_python(batch.column(name)) for name in COLUMNS), strict=True):
                    number += 1
                    yield _Row(f"row {number}", *(_as_text(value) for value in values))
    except (pa.ArrowException, ValueError, OverflowError, LookupError) as error:
        # Times and zones that Python has not, text that is not UTF-8.
        said = next(iter(str(error).splitlines()), type(error).__name__)
        raise _Wrong(f"it is no readable Parquet file ({_shown(said)}).") from None


def _as_python(column: Any) -> list[Any]:
    import pyarrow as pa

    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.timestamp("us", column.type.tz), safe=False)  # Python knows no nanoseconds
    values: list[Any] = column.to_pylist()
    return values


def _as_text(value: Any) -> str:
    if value is None:
        return ""
    # A double's repr is the shortest text that gives it back: the digits that were once written.
    return repr(value) if isinstance(value, float) else str(value)


# -- text as values ------------------------------------------------------------------------


def _parsed(row: _Row, zone: zoneinfo.ZoneInfo | None) -> _Parsed:
    observed_at = _instant(row, zone)
    if observed_at > clock.now():
        raise _Wrong(f"{row.where} has the time {_shown(row.time)}, which has not come yet.")
    if observed_at < EARLIEST:
        raise _Wrong(f"{row.where} has the time {_shown(row.time)}, before there was anything to read.")
    return _Parsed(row, observed_at, _amount(row, "total_credits"), _amount(row, "total_usage"))


def _instant(row: _Row, zone: zoneinfo.ZoneInfo | None) -> datetime:
    if seconds := _UNIX_SECONDS.fullmatch(row.time):
        micros = int((seconds[2] or "").ljust(6, "0"))
        return _EPOCH + timedelta(seconds=int(seconds[1]), microseconds=micros)
    # As `date` prints it: "2026-01-05 00:05:00 UTC", "2026-01-05 00:05:00 +0100".
    text = re.sub(r"\s*(UTC|GMT|Z)$", "+00:00", row.time, flags=re.IGNORECASE)
    text = re.sub(r"\s+([+-]\d\d:?\d\d)$", r"\1", text)
    if _DAY_ALONE.fullmatch(text):
        raise _Wrong(
            f"{row.where} has a day without a time ({_shown(row.time)}): add the time of the reading."
        )
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise _Wrong(
            f"{row.where} has the time {_shown(row.time)}: write it as 2026-01-05T00:05:00Z or as Unix time."
        ) from None
    if moment.tzinfo is None:
        moment = _in_zone(row, moment, zone)
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise _Wrong(f"{row.where} has the time {_shown(row.time)}, which is out of range.") from None


def _in_zone(row: _Row, moment: datetime, zone: zoneinfo.ZoneInfo | None) -> datetime:
    if zone is None:
        raise _Wrong(
            f"{row.where} has the time {_shown(row.time)} without a UTC offset: add its zone, as in TZ=Europe/Paris."
        )
    first, second = (moment.replace(tzinfo=zone, fold=fold) for fold in (0, 1))
    if first.utcoffset() == second.utcoffset():
        return first
    exists = first.astimezone(UTC).astimezone(zone).replace(tzinfo=None) == moment
    why = "came twice" if exists else "was skipped"
    raise _Wrong(
        f"{row.where} has the time {_shown(row.time)}, which {why} in {zone.key} when the clocks changed: "
        "add its offset."
    )


def _amount(row: _Row, name: str) -> Decimal:
    text: str = getattr(row, name)
    if not _NUMBER.fullmatch(text):
        raise _Wrong(f"{row.where} has the {name} {_shown(text)}, which is no plain number such as 12.5.")
    if "," in text:
        raise _Wrong(
            f"{row.where} has the {name} {_shown(text)}: write it with a decimal point and no separators."
        )
    value = Decimal(text)
    if value < 0:
        raise _Wrong(f"{row.where} has the {name} {_shown(text)}: a lifetime counter is never below zero.")
    try:
        return money(value)
    except ValueError:
        raise _Wrong(f"{row.where} has the {name} {_shown(text)}, beyond 999999999.999999999.") from None


def _zone(tz: str | None) -> zoneinfo.ZoneInfo | None:
    if tz is None:
        return None
    try:
        return zoneinfo.ZoneInfo(tz)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        raise ImportRefused(f"{tz!r} is no time zone: name one as in TZ=Europe/Paris or TZ=UTC.") from None


def _shown(value: object) -> str:
    """As it stands in the file, short and with control characters made visible."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


# -- what is known already -----------------------------------------------------------------


def _without_repeats(parsed: list[_Parsed]) -> tuple[list[_Parsed], int]:
    """The readings in order of time, and how many rows only said one of them again."""
    first: dict[datetime, _Parsed] = {}
    for p in parsed:
        other = first.setdefault(p.observed_at, p)
        if other.counters != p.counters:
            raise _Wrong(f"{p.row.where} and {other.row.where} have the same time and different amounts.")
    return sorted(first.values(), key=lambda p: p.observed_at), len(parsed) - len(first)


_Counters = dict[datetime, list[tuple[Decimal, Decimal]]]


def _known(con: Any, account: str) -> _Counters:
    """What is stored of the account, by instant."""
    known: _Counters = {}
    for at, credits, usage in con.execute(
        "select observed_at, total_credits, total_usage from raw.credits_snapshots where account = ?",
        [account],
    ).fetchall():
        known.setdefault(at.replace(tzinfo=UTC), []).append((credits, usage))
    return known


def _is_known(p: _Parsed, known: _Counters) -> bool:
    if p.observed_at not in known:
        return False
    if p.counters not in known[p.observed_at]:
        raise _Wrong(f"{p.row.where} contradicts the reading of {_shown(p.row.time)} that is stored already.")
    return True


def _refuse_a_fall_to_zero(fresh: list[_Parsed], known: _Counters) -> None:
    """Lifetime counters do not fall to zero, but a key that may not see them can get two zeros."""
    funded = [at for at, told in known.items() if any(map(any, told))]
    first_funded = min(funded + [p.observed_at for p in fresh if any(p.counters)], default=None)
    for p in fresh:
        if first_funded and first_funded < p.observed_at and not any(p.counters):
            raise _Wrong(
                f"{p.row.where} has two zeros after credits were seen: this is not a real reading, remove the row."
            )


def _refuse_what_the_neighbours_deny(unknown: list[_Parsed], known: _Counters) -> None:
    """A lifetime counter must lie between the readings before and after it.

    Small differences are allowed: figures can be a minute old, and corrections happen. A large one is a typo or
    another account's reading and, once stored, would show as a huge correction and a huge spend.
    """
    usage = {at: told[0][1] for at, told in known.items()} | {p.observed_at: p.total_usage for p in unknown}
    instants = sorted(usage)
    places = {at: place for place, at in enumerate(instants)}
    for p in unknown:
        place = places[p.observed_at]
        if not 0 < place < len(instants) - 1:
            continue
        before, after = usage[instants[place - 1]], usage[instants[place + 1]]
        tolerance = max(after - before, after * _DENIED_BEYOND)
        if before <= after and not before - tolerance <= p.total_usage <= after + tolerance:
            raise _Wrong(
                f"{p.row.where} has the total_usage {p.row.total_usage} between readings of {before:f} and {after:f}:"
                " a mistake, or another account's reading. Correct it or take it out."
            )


def _reading(p: _Parsed, account: str, run_id: str) -> Reading:
    payload = {name: getattr(p.row, name) for name in COLUMNS}
    return Reading(
        account=account,
        snapshot_date=p.observed_at.date(),
        observed_at=p.observed_at,
        total_credits=p.total_credits,
        total_usage=p.total_usage,
        key_fingerprint=None,
        run_id=run_id,
        source="import",
        payload=json.dumps(payload),
    )
