"""Makes outside text safe to show, or to put into SQL: names and messages are treated as hostile."""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Any

# Cc: control characters (terminal escapes among them); Cf: invisible ones, which can turn the reading direction.
_HIDDEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}

# Every character with a meaning in Markdown, or in HTML inside it.
_MARKDOWN = re.compile(r"[\\`*_{}\[\]()#+\-.!|<>&~:/@]")
_ENTITIES = {"<": "&lt;", ">": "&gt;", "&": "&amp;"}  # these mean something in HTML as well


def plain(text: str) -> str:
    """`text` on one line, with every control or invisible character shown as U+FFFD."""
    return "".join("\ufffd" if unicodedata.category(c) in _HIDDEN else c for c in text)


def one_line(text: str, longest: int = 0) -> str:
    """`text` with line breaks and other white space as single blanks, as `plain` shows it, of `longest` characters."""
    line = plain(" ".join(text.split()))
    return line if not longest or len(line) <= longest else line[: longest - 1] + "…"


def markdown(text: str) -> str:
    """`text` as Markdown that shows exactly these characters and nothing else."""
    return _MARKDOWN.sub(lambda found: _ENTITIES.get(found[0], f"\\{found[0]}"), plain(text))


# A table cell that people skim: the JSON of a reply fits, an attacker's essay does not.
LONGEST_CELL = 120


def cell(value: Any) -> str:
    """A value as people write it: a null is empty, and no number is in scientific notation ("0E-9", "3e-06")."""
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(cell, value))}]"
    if isinstance(value, float):
        value = Decimal(repr(value))
    return "" if value is None else f"{value:f}" if isinstance(value, Decimal) else str(value)


def markdown_table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A Markdown table, numbers to the right, nulls as an empty cell."""
    rows = list(rows)
    numbers = [any(isinstance(row[at], int | float | Decimal) for row in rows) for at in range(len(columns))]
    rule = ["---:" if is_number else "---" for is_number in numbers]
    lines = [[markdown(name) for name in columns], rule]
    lines += [[markdown(one_line(cell(value), LONGEST_CELL)) for value in row] for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def quoted(*parts: str) -> str:
    """A SQL identifier, such as "marts"."daily_spend"."""
    return ".".join('"' + part.replace('"', '""') + '"' for part in parts)


def literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
