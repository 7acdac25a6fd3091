"""Text from outside, made safe to show: account names, model names and error messages are hostile until proven not."""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Any

# Cc: control characters (terminal escapes among them); Cf: invisible ones, which can turn the reading direction.
_HIDDEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}

# Everything that Markdown, or HTML inside it, gives a meaning to.
_MARKDOWN = re.compile(r"([\\`*_{}\[\]()#+\-.!|<>&~:/@])")


def plain(text: str) -> str:
    """`text` on one line, with every control or invisible character shown as U+FFFD."""
    return "".join("\ufffd" if unicodedata.category(c) in _HIDDEN else c for c in text)


def markdown(text: str) -> str:
    """`text` as Markdown that shows exactly these characters and nothing else."""
    return (
        _MARKDOWN.sub(r"\\\1", plain(text))
        .replace("\\<", "&lt;")
        .replace("\\>", "&gt;")
        .replace("\\&", "&amp;")
    )


# A cell of a table that people skim: a reply's JSON fits, an attacker's novel does not.
LONGEST_CELL = 120


def cell(value: Any) -> str:
    """A value as people write it: a null is empty, and no amount in the notation of powers of ten ("0E-9")."""
    return "" if value is None else f"{value:f}" if isinstance(value, Decimal) else str(value)


def shortened(text: str) -> str:
    return text if len(text) <= LONGEST_CELL else text[: LONGEST_CELL - 1] + "…"


def markdown_table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A Markdown table, numbers to the right, nulls as an empty cell."""
    rows = list(rows)
    numbers = [any(isinstance(row[at], int | float | Decimal) for row in rows) for at in range(len(columns))]
    rule = ["---:" if is_number else "---" for is_number in numbers]
    lines = [[markdown(name) for name in columns], rule]
    lines += [[markdown(shortened(cell(value))) for value in row] for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
