"""Composes what alerts say, in plain text: what happened, how sure that is, what to do, and the numbers.

The sentences stand in `messages.txt.j2`. Names and errors come from outside. In a chat they could mention people, post
a link or pretend to be another line, so they are shown on one line, without the characters that chats interpret.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from credits_pipeline import wording

TEMPLATE = Path(__file__).with_name("messages.txt.j2")

# Alerts shown in full in one message; of the rest only the titles, so that the message stays readable.
MOST_IN_FULL, MOST_TITLES = 3, 20

_MEANT_BY_CHATS = str.maketrans({"<": "‹", ">": "›", "@": "＠"})
# Links in our own sentences stay links.
_FOREIGN_LINK = re.compile(r"(?<!https)://|://(?!openrouter\.ai/)", re.IGNORECASE)


def message(kind: str, *facts: Any) -> tuple[str, str]:
    """Title and body of an alert of `kind`, one of the macros of `messages.txt.j2`, from what that macro takes."""
    text = str(getattr(wording.template(TEMPLATE, shown, sentence, capital).module, kind)(*facts))
    title, _, body = re.sub(r"\n+", "\n", re.sub(r"\n* +", " ", text).replace(" \n", "\n")).strip().partition("\n")
    return title, body


def together(alerts: Sequence[tuple[str, str]]) -> tuple[str, str]:
    """Several alerts as one message, the most urgent first: some in full, the others as titles."""
    (title, body), *others = alerts
    if not others:
        return title, body
    parts = [f"{title}\n{body}" for title, body in alerts[:MOST_IN_FULL]]
    titles = [f"- {title}" for title, _ in alerts[MOST_IN_FULL:][:MOST_TITLES]]
    unnamed = len(alerts) - MOST_IN_FULL - MOST_TITLES
    more = [f"- and {unnamed} more, listed on the asset alerts_sent in Dagster"] if unnamed > 0 else []
    parts += ["\n".join(["Also:", *titles, *more])] if titles else []
    return f"{title} (and {len(others)} more alert{'s' if len(others) > 1 else ''})", "\n\n".join(parts)


def shown(text: object, *, longest: int = wording.LONGEST_NAME) -> str:
    """A name or a sentence from outside, on one line, that mentions nobody and links nowhere."""
    return _FOREIGN_LINK.sub(": //", wording.name(text, longest=longest).translate(_MEANT_BY_CHATS))


def sentence(text: object) -> str:
    return shown(text, longest=wording.LONGEST_SENTENCE)


def capital(text: str) -> str:
    return text[:1].upper() + text[1:]
