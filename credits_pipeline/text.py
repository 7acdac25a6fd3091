"""Text from outside, made safe to show: account names, model names and error messages are hostile until proven not."""

import re
import unicodedata
from collections.abc import Iterable, Sequence
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


def shortened(text: str) -> str:
    return text if len(text) <= LONGEST_CELL else text[: LONGEST_CELL - 1] + "…"


def markdown_table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A Markdown table, numbers to the right, nulls as an empty cell."""
    rows = list(rows)
    sample = rows[0] if rows else [None] * len(columns)
    rule = ["---" if isinstance(value, str) else "---:" for value in sample]
    lines = [[markdown(name) for name in columns], rule]
    lines += [["" if value is None else markdown(shortened(str(value))) for value in row] for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
