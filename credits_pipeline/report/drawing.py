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
from collections.abc import Mapping, Sequence
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
PALETTES: Mapping[str, Mapping[str, str]] = json.loads((FOLDER / "colours.json").read_text(encoding="utf-8"))


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

    Without the parts that a page does not need, ids numbered, the plot always at the same place. It has no title: the
    page that embeds it sets `role="img"` and `aria-label` to `chart.words`. Raises DrawingFailed.
    """
    drawn, colours = draw(specification(chart)), {} if theme == "auto" else PALETTES[theme]
    ids = {found: f"{name}-{n}" for n, found in enumerate(dict.fromkeys(re.findall(r' id="(\w+)"', drawn)), 1)}

    def tidied(found: re.Match[str]) -> str:
        """Only tags are touched: in the text between them "<" is escaped, so no name can look like one."""
        tag = re.sub(r' (?:role|aria-[a-z]+|pointer-events|class)="[^"]*"', "", found[0])
        tag = re.sub(r' (?:d|transform)="[^"]*"', lambda at: re.sub(r"(\.\d\d)\d+", r"\1", at[0]), tag)
        tag = re.sub(r'( id="|url\(#)(\w+)', lambda at: at[1] + ids.get(at[2], at[2]), tag)
        return re.sub(r"var\(--c-(\w+)\)", lambda at: colours.get(at[1], at[0]), tag)

    width, height = (float(at) for at in re.findall(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', drawn)[0])
    plot = float(re.findall(r"translate\(([\d.]+),", drawn)[0])
    left = LEFT if plot <= LEFT else 1.2 * plot  # room for another font, whose digits are wider
    box = f'viewBox="{plot - left:.0f} 0 {left - plot + max(plot + WIDTH - LEFT, width):.0f} {height + 4:.0f}"'
    return re.sub(r'width="[\d.]+" height="[\d.]+" viewBox="[^"]*"', box, re.sub("<[^>]*>", tidied, drawn), count=1)


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
    return json.dumps(spec, default=plain, allow_nan=False)


@cache
def _file(name: str) -> dict[str, Any]:
    text = (FOLDER / name).read_text(encoding="utf-8")
    for role, colour in PALETTES["light"].items():
        text = text.replace(f'"{colour}"', f'"var(--c-{role})"')
    content: dict[str, Any] = json.loads(text)
    return content


def plain(value: Decimal | date) -> float | str:
    """A value as JSON has it: amounts as numbers, days and instants (UTC) as ISO 8601."""
    if isinstance(value, Decimal):
        return float(value)
    return value.isoformat() + ("Z" if isinstance(value, datetime) else "")


@lru_cache(maxsize=32)
def draw(spec: str) -> str:
    """Vega-Lite as the drawing program's SVG. Raises DrawingFailed."""
    try:
        program = start()
        print(spec, file=program.stdin, flush=True)
        reply = json.loads(program.stdout.readline() if program.stdout else "")
    except (OSError, ValueError):
        raise DrawingFailed("the drawing program ended before the picture was drawn") from None
    if "error" in reply:
        raise DrawingFailed(f"the drawing library said: {reply['error']}")
    return str(reply["svg"])


@cache
def start() -> "subprocess.Popen[str]":
    """The drawing program, which is ready after 1 s of one core; it ends with this process."""
    command = [sys.executable, str(Path(__file__).with_name("drawer.py"))]
    pipe, nowhere = subprocess.PIPE, subprocess.DEVNULL
    program = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=nowhere, encoding="utf-8")  # noqa: S603
    atexit.register(program.communicate)
    return program
