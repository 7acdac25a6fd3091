"""Charts as SVG: a Vega-Lite file of `charts/`, with rows and parameters put in, in colours by role.

The files hold the colours of the light theme; here each becomes a CSS variable (`css`), so that one drawing serves
light and dark pages, or the colour of a fixed theme. Drawings are kept: a run needs some of them twice.
"""

import atexit
import base64
import json
import re
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, Literal

from credits_pipeline.errors import CreditsError

FOLDER = Path(__file__).parent / "charts"
# In px. Letters of 14 px are still 11 px high on a phone, at 0.84 times.
WIDTH, LEFT, PLOT_WIDTH = 420, 64, 344
# Its letters are then as large as those around it in a dialog of Dagster's UI, and it is not shrunk.
PICTURE_PX = 560

# The models' colours (m0 to m5, and "billed") stay distinct under every common kind of colour blindness: Okabe and
# Ito's, darkened until they stand out from white; least CIE76 distance 13 under simulated deuteranopia, theirs 7.
PALETTES: Mapping[str, Mapping[str, str]] = {
    "light": {
        "paper": "#ffffff", "ink": "#1b1f24", "muted": "#57606a", "grid": "#e4e7eb", "axis": "#6e7781",
        "spend": "#0067a8", "billed": "#4c9fd8", "band": "#9cc7e6", "warn": "#b93815", "event": "#00704f",
        "m0": "#0072b2", "m1": "#cc8400", "m2": "#007a5a", "m3": "#a8457f", "m5": "#d2452e", "other": "#8a939d",
    },
    "dark": {
        "paper": "#161b22", "ink": "#e6edf3", "muted": "#a3adb8", "grid": "#2b323b", "axis": "#8b949e",
        "spend": "#3d8fd1", "billed": "#a5daf8", "band": "#2f5f85", "warn": "#ff8a63", "event": "#3fc79d",
        "m0": "#3d8fd1", "m1": "#f0b429", "m2": "#1fae88", "m3": "#e79bc8", "m5": "#e0633a", "other": "#7d8793",
    },
}  # fmt: skip


class DrawingFailed(CreditsError):
    """A picture could not be drawn; the figures in it do not depend on that."""


@dataclass(frozen=True)
class Chart:
    """What a chart shows in words, its text alternative; and its file, rows and parameters, if there is a picture."""

    words: str
    name: str = ""
    rows: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    params: Mapping[str, Any] = field(default_factory=dict)


def svg(chart: Chart, theme: Literal["auto", "light", "dark"] = "auto", *, name: str = "chart") -> str:
    """The chart as an SVG element of 10 to 40 kB; `name` (letters, digits, -) keeps its ids apart on a page.

    It has no title: the page that embeds it sets `role="img"` and `aria-label` to `chart.words`. Raises DrawingFailed.
    """
    colours = {} if theme == "auto" else PALETTES[theme]

    def finished(tag: str) -> str:
        tag = re.sub(r'( id="|url\(#)', rf"\g<1>{name}-", tag)
        return re.sub(r"var\(--c-(\w+)\)", lambda found: colours.get(str(found[1]), str(found[0])), tag)

    return _in_tags(finished, _drawn(specification(chart)))


def data_uri(chart: Chart, theme: Literal["light", "dark"] = "light") -> str:
    """The SVG on the theme's background as a `data:` URI, for Markdown. Raises DrawingFailed."""
    size = f'width="{PICTURE_PX}" style="background:{PALETTES[theme]["paper"]}"'
    drawn = svg(chart, theme).replace("<svg ", f"<svg {size} ", 1)
    return "data:image/svg+xml;base64," + base64.b64encode(drawn.encode("utf-8")).decode("ascii")


def css(theme: Literal["light", "dark"]) -> str:
    """The custom properties that an "auto" SVG reads: `--c-ink: #1b1f24; …`."""
    return " ".join(f"--c-{role}: {colour};" for role, colour in PALETTES[theme].items())


def specification(chart: Chart) -> str:
    """The chart's Vega-Lite as one line of JSON, with its rows and parameters in place of the file's samples."""
    spec = {**_file(f"{chart.name}.vl.json"), "config": _file("config.json"), "datasets": chart.rows}
    spec["params"] = [{**p, "value": chart.params[p["name"]]} for p in spec.get("params", [])]
    return json.dumps(spec, default=_plain, allow_nan=False)


@cache
def _file(name: str) -> dict[str, Any]:
    text = (FOLDER / name).read_text(encoding="utf-8")
    for role, colour in PALETTES["light"].items():
        text = text.replace(f'"{colour}"', f'"var(--c-{role})"')
    content: dict[str, Any] = json.loads(text)
    return content


def _plain(value: Decimal | date) -> float | str:
    if isinstance(value, Decimal):
        return float(value)
    return value.isoformat() + ("Z" if isinstance(value, datetime) else "")


@lru_cache(maxsize=32)
def _drawn(spec: str) -> str:
    """An SVG element without the parts that a page does not need, ids numbered, the plot always at the same place."""
    drawn = draw(spec)
    numbers = {found: str(n) for n, found in enumerate(dict.fromkeys(re.findall(r' id="(\w+)"', drawn)), 1)}

    def tidied(tag: str) -> str:
        lean = re.sub(r' (?:role|aria-[a-z]+|pointer-events|class)="[^"]*"', "", tag)
        lean = re.sub(r' (?:d|transform)="[^"]*"', lambda at: re.sub(r"(\.\d\d)\d+", r"\1", at[0]), lean)
        return re.sub(r'( id="|url\(#)(\w+)', lambda found: found[1] + numbers.get(found[2], found[2]), lean)

    width, height = (float(at) for at in re.findall(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', drawn)[0])
    plot = float(re.findall(r"translate\(([\d.]+),", drawn)[0])
    left = LEFT if plot <= LEFT else 1.2 * plot  # room for another font, whose digits are wider
    box = f'viewBox="{plot - left:.0f} 0 {left - plot + max(plot + WIDTH - LEFT, width):.0f} {height + 4:.0f}"'
    return re.sub(r'width="[\d.]+" height="[\d.]+" viewBox="[^"]*"', box, _in_tags(tidied, drawn), count=1)


def _in_tags(change: Callable[[str], str], drawn: str) -> str:
    """Only tags are touched: in the text between them "<" is escaped, so no name can look like one."""
    return re.sub(r"<[^>]*>", lambda tag: change(tag[0]), drawn)


def draw(spec: str) -> str:
    """Vega-Lite as the drawing program's SVG. Raises DrawingFailed."""
    program = _program()
    try:
        print(spec, file=program.stdin, flush=True)
        reply = json.loads(program.stdout.readline() if program.stdout else "")
    except (OSError, ValueError):
        raise DrawingFailed("the drawing program ended before the picture was drawn") from None
    if "error" in reply:
        raise DrawingFailed(f"the drawing library said: {reply['error']}")
    return str(reply["svg"])


@cache
def _program() -> "subprocess.Popen[str]":
    """Started at the first chart, which takes 1 s of one quiet core; it ends with this process."""
    command = [sys.executable, str(Path(__file__).with_name("drawer.py"))]
    pipe, nowhere = subprocess.PIPE, subprocess.DEVNULL
    program = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=nowhere, encoding="utf-8")  # noqa: S603
    atexit.register(program.communicate)
    return program
