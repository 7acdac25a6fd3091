"""How a chart is drawn: Vega-Lite in colours by role, scales in USD and UTC days, legends; SVG by vl-convert.

Why these tools: vl-convert draws Vega-Lite inside one wheel, with its own fonts, no browser and no network (plotly
needs Chrome for a still picture; matplotlib took 0.84 s to import and 0.10 s a chart, vl-convert 0.60 s once and
0.05 s a chart, on 2 cores). The charts are written directly as Vega-Lite, not through Altair, whose import alone
costs 0.55 s in every daily run; Altair checks each chart against the Vega-Lite schema in the tests. The same chart as
a PNG took 0.04 s more and ten times the space.

Colours are named by role (`Ink`) and become colours only when drawn: `svg(chart)` keeps CSS variables, so that
one drawing serves light and dark pages (see `css`); "light" and "dark" put fixed colours in. Drawings are
cached, as a run needs some of them twice: the charts in Dagster's UI are in the report as well.
"""

import base64
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal
from functools import lru_cache
from typing import Any, Literal, TypeAlias

Row: TypeAlias = Mapping[str, Any]
Theme: TypeAlias = Literal["auto", "light", "dark"]
Spec: TypeAlias = dict[str, Any]

# Sized so that letters are still 11 px high on a phone, at 0.84 times; a wider page may make them smaller with CSS.
WIDTH, HEIGHT, FONT_PX = 420, 170, 14
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 12, 30, 40
PLOT_WIDTH = WIDTH - _LEFT - _RIGHT
_LEGEND_ROW = 20
# vl-convert carries Liberation Sans in its wheel, so a machine without any font draws the same picture.
FONT = "Liberation Sans, Arial, sans-serif"
# A letter of that font is 0.5 em wide on average; labels are laid out with a little more.
LETTER_PX = 0.54 * FONT_PX
LETTERS: Spec = {"font": FONT, "fontSize": FONT_PX}
DAY_MS = 86_400_000
# Four to six grid lines can be read off at this height; more crowd it.
_MOST_STEPS = 5
# Its letters are then as large as those around it in a dialog of Dagster's UI, and it is not shrunk.
_PICTURE_PX = 560
# The charts that a run draws twice, with room to spare.
_DRAWINGS_KEPT = 32


class Ink(str):
    """The role of a colour. A type of its own, so that a model called "ink" stays a name."""

    __slots__ = ()


PALETTES: Mapping[str, Mapping[str, str]] = {
    "light": {
        "paper": "#ffffff", "ink": "#1b1f24", "muted": "#57606a", "grid": "#e4e7eb", "axis": "#6e7781",
        "spend": "#0067a8", "billed": "#4c9fd8", "estimate": "#57606a", "band": "#9cc7e6", "warn": "#b93815",
        "event": "#00704f",
        "m0": "#0072b2", "m1": "#cc8400", "m2": "#007a5a", "m3": "#a8457f", "m4": "#4c9fd8", "m5": "#d2452e",
        "other": "#8a939d",
    },
    "dark": {
        "paper": "#161b22", "ink": "#e6edf3", "muted": "#a3adb8", "grid": "#2b323b", "axis": "#8b949e",
        "spend": "#3d8fd1", "billed": "#a5daf8", "estimate": "#a3adb8", "band": "#2f5f85", "warn": "#ff8a63",
        "event": "#3fc79d",
        "m0": "#3d8fd1", "m1": "#f0b429", "m2": "#1fae88", "m3": "#e79bc8", "m4": "#a5daf8", "m5": "#e0633a",
        "other": "#7d8793",
    },
}  # fmt: skip


@dataclass(frozen=True)
class Chart:
    """A Vega-Lite drawing and what it shows in words: its text alternative."""

    spec: Spec
    words: str


def empty(sentence: str) -> Chart:
    """No plot: one sentence."""
    spec = _view(
        [text(((WIDTH - _LEFT - _RIGHT) / 2 - _LEFT / 2, 30), sentence, align="center")],
        height=60,
        top=0,
        bottom=0,
    )
    return Chart(spec, sentence)


# ---------------------------------------------------------------- drawing


def svg(chart: Chart, theme: Theme = "auto", *, name: str = "chart") -> str:
    """The chart as an SVG element of some 10 to 40 kB; `name` (letters, digits, -) keeps its ids apart on a page.

    It has no title of its own: the page that embeds it sets `role="img"` and `aria-label` to `chart.words`.
    """
    drawn = _drawn(json.dumps(_with_variables(chart.spec)))
    colours = {} if theme == "auto" else PALETTES[theme]

    def finished(tag: str) -> str:
        tag = re.sub(r'( id="|url\(#)', rf"\g<1>{name}-", tag)
        return re.sub(r"var\(--c-(\w+)\)", lambda found: colours.get(found[1], found[0]), tag)

    return _in_tags(finished, drawn)


def data_uri(chart: Chart, theme: Literal["light", "dark"] = "light") -> str:
    """The SVG on the theme's background as a `data:` URI, for Markdown: `![…](data:image/svg+xml;base64,…)`."""
    scale = f'width="{_PICTURE_PX}" style="background:{PALETTES[theme]["paper"]}"'
    drawn = re.sub(r'width="\d+" height="\d+"', scale, svg(chart, theme), count=1)
    return "data:image/svg+xml;base64," + base64.b64encode(drawn.encode("utf-8")).decode("ascii")


def css(theme: Literal["light", "dark"]) -> str:
    """The custom properties that an "auto" SVG reads: `--c-ink: #1b1f24; …`."""
    return " ".join(f"--c-{role}: {colour};" for role, colour in PALETTES[theme].items())


@lru_cache(maxsize=_DRAWINGS_KEPT)
def _drawn(spec: str) -> str:
    """A Vega-Lite specification as an SVG element without the parts a page does not need; its ids are numbers."""
    import vl_convert

    try:
        drawn: str = vl_convert.vegalite_to_svg(spec, allowed_base_urls=[])
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # Rust's; not an Exception, and importable from nowhere
            raise
        raise RuntimeError(f"the drawing library failed: {error}") from None
    numbers = {found: str(n) for n, found in enumerate(dict.fromkeys(re.findall(r' id="(\w+)"', drawn)), 1)}

    def tidied(tag: str) -> str:
        lean = re.sub(r' (?:role|aria-[a-z]+|pointer-events|class)="[^"]*"', "", tag)
        lean = re.sub(
            r' (?:d|transform)="[^"]*"', lambda found: re.sub(r"(\.\d\d)\d+", r"\1", found[0]), lean
        )
        return re.sub(r'( id="|url\(#)(\w+)', lambda found: found[1] + numbers.get(found[2], found[2]), lean)

    return _in_tags(tidied, drawn)


def _in_tags(change: Callable[[str], str], drawn: str) -> str:
    """Only tags are touched: in the text between them "<" is escaped, so no name can look like one."""
    return re.sub(r"<[^>]*>", lambda tag: change(tag[0]), drawn)


def _with_variables(node: Any) -> Any:
    if isinstance(node, Ink):
        return f"var(--c-{node})"
    if isinstance(node, dict):
        return {key: _with_variables(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_with_variables(value) for value in node]
    return node


# ---------------------------------------------------------------- styles

BAND: Spec = {"fill": Ink("band"), "opacity": 0.75}
POINT: Spec = {"size": 75, "filled": True, "opacity": 1}


def bar(ink: str) -> Spec:
    return {"fill": Ink(ink)}


def hollow(ink: str, dash: Sequence[float] = ()) -> Spec:
    return {"fill": Ink("paper"), "stroke": Ink(ink), "strokeWidth": 1.2, "strokeDash": list(dash)}


# ---------------------------------------------------------------- geometry

Entry: TypeAlias = tuple[str, Spec, str]


@dataclass(frozen=True)
class Scale:
    """An axis in USD: its ends, its ticks, the expression of their labels."""

    low: float
    high: float
    ticks: tuple[float, ...]
    labels: str

    @classmethod
    def over(cls, values: Iterable[float], *, headroom: float = 0.0, floor_room: float = 0.0) -> "Scale":
        """Ends around the values, some 4 round ticks; `headroom` and `floor_room` are extra shares of the height."""
        values = list(values)
        low, high = min(values), max(values)
        if low == high:
            low, high = (low, low + 1.0) if low >= 0 else (low, 0.0)
        step = _round_step((high - low) / _MOST_STEPS)
        first, last = math.ceil(low / float(step)), math.floor(high / float(step))
        ticks = tuple(float(step * n) for n in range(first, last + 1))
        height = high - low
        bottom = low - max(floor_room, 0.04 if low < 0 else 0.0) * height
        return cls(bottom, high + max(headroom, 0.04) * height, ticks, _money_labels(step, ticks))

    def axis(self) -> Spec:
        return {
            **_AXIS,
            "values": list(self.ticks),
            "labelExpr": self.labels,
            "domain": False,
            "ticks": False,
        }


def _round_step(raw: float) -> Decimal:
    exponent = math.floor(math.log10(raw)) if raw > 0 else 0
    for factor in (1, 2, 5):
        step = Decimal(factor).scaleb(exponent)
        if float(step) >= raw:
            return step
    return Decimal(1).scaleb(exponent + 1)


def _money_labels(step: Decimal, ticks: Sequence[float]) -> str:
    places = max(0, -step.adjusted())
    if max(map(abs, ticks)) >= 10_000:
        shape = "$.4~s"
    elif places > 5:
        shape = "$.1~e"
    else:
        shape = f"$,.{max(places, 2) if places else 0}f"
    return f"datum.value == 0 ? '$0' : format(datum.value, '{shape}')"


@dataclass(frozen=True)
class DateScale:
    """A vertical axis of UTC days."""

    low: float
    high: float

    @classmethod
    def over(cls, low: float, high: float) -> "DateScale":
        room = max(0.06 * (high - low), DAY_MS)
        return cls(low - room, high + room)

    def axis(self) -> Spec:
        first, end = (date(1970, 1, 1) + timedelta(milliseconds=at) for at in (self.low, self.high))
        return {**_AXIS, **_day_axis(first, end, upright=True), "domain": False, "ticks": False}


def _day_axis(first: date, end: date, *, upright: bool = False) -> Spec:
    """Ticks and labels of an axis of days: "12 Mar", "Mar" or "2026", the year once where it is not shown already.

    There is no label at either end, where the unit or the edge of the picture is. An `upright` axis has room for
    fewer, as a label with its year takes two lines.
    """
    span, margin, most = (end - first).days, (0.1 if upright else 0.08), (3 if upright else 8)
    ticks = _day_ticks(first, end)
    whole_months = ticks[0].day == 1 and len(ticks) > 1 and span > 6 * 14
    whole_years = span > 8 * 31 * 6
    place = ms if whole_months or whole_years else noon
    ticks = [day for day in ticks if margin <= (place(day) - ms(first)) / (span * DAY_MS) <= 1 - margin] or [
        first
    ]
    ticks = ticks[:: math.ceil(len(ticks) / most)]
    values = [place(day) for day in ticks]
    if whole_years:
        return {"values": values, "labelExpr": "utcFormat(datum.value, '%Y')"}
    years = [place(day) for i, day in enumerate(ticks) if i == 0 or day.year != ticks[i - 1].year]
    shape = "%b" if whole_months else "%-d %b"
    label, year = f"utcFormat(datum.value, '{shape}')", "utcFormat(datum.value, '%Y')"
    return {
        "values": values,
        "labelExpr": f"indexof({years}, datum.value) >= 0 ? [{label}, {year}] : {label}",
    }


def _day_ticks(first: date, end: date) -> list[date]:
    """Some 4 to 6 days to label between the two: Mondays, firsts of months, Januaries, depending on the span."""
    span = (end - first).days
    for step in (1, 2, 3, 7, 14):
        if span <= 6 * step:
            start = first if step < 7 else first + timedelta(days=-first.weekday() % 7)
            return [start + timedelta(days=n) for n in range(0, (end - start).days, step)] or [first]
    months = next(step for step in (1, 2, 3, 6, 12, 24, 60, 120, 1200) if span <= 8 * 31 * step)
    ticks, month = [], first.year * 12 + first.month - 1
    for number in range(month, month + span // 28 + 2):
        day = date(number // 12, number % 12 + 1, 1) if number // 12 < 9999 else end
        if number % months == 0 and first <= day < end:
            ticks.append(day)
    return ticks or [first]


@dataclass(frozen=True)
class Plot:
    """Days along the bottom (each from midnight to midnight, UTC), USD or days up the side; `end` is after `first`."""

    first: date
    end: date
    y: Scale | DateScale

    left = property(lambda self: ms(self.first))
    right = property(lambda self: ms(self.end))

    def share(self, at: float) -> float:
        """Where an instant lies between the left end (0) and the right one (1)."""
        return float((at - self.left) / (self.right - self.left))

    def layer(
        self,
        values: Sequence[Row],
        mark: Spec,
        x: str,
        y: str | None = None,
        y2: str | None = None,
        *,
        x2: str | None = None,
        detail: str | None = None,
        words: str | None = None,
    ) -> Spec:
        encoding: Spec = {"x": {"field": x, "type": "quantitative", **self._x()}}
        if y:
            encoding["y"] = {"field": y, "type": "quantitative", **self._y()}
        for channel, field in (("x2", x2), ("y2", y2)):
            if field:
                encoding[channel] = {"field": field}
        if detail:
            encoding["detail"] = {"field": detail, "type": "nominal"}
        if words:
            encoding["text"] = {"field": words, "type": "nominal"}
        return {"data": {"values": list(values)}, "mark": mark, "encoding": encoding}

    def rects(self, values: Sequence[Row], style: Spec) -> Spec:
        return self.layer(values, {"type": "rect", **style}, "x", "y", "y2", x2="x2")

    def zero(self, *, strong: bool = False) -> Spec:
        mark = {"type": "rule", "stroke": Ink("axis"), "strokeWidth": 1.5 if strong else 1}
        return self.layer([{"x": self.left, "x2": self.right, "y": 0}], mark, "x", "y", x2="x2")

    def axes(self, y_title: str) -> list[Spec]:
        """The units in words: the one of the vertical axis above it, "UTC day" left of the days."""
        return [texts([((-_LEFT + 6, -14), y_title), ((-_LEFT + 6, HEIGHT + 17), "UTC day")])]

    def view(self, layers: Sequence[Spec], legend: Sequence[Entry]) -> Spec:
        return _view(layers, legend=legend)

    def _x(self) -> Spec:
        scale = {"domain": [self.left, self.right], "nice": False, "zero": False}
        return {"scale": scale, "axis": {**_AXIS, "grid": False, **_day_axis(self.first, self.end)}}

    def _y(self) -> Spec:
        scale = {"domain": [self.y.low, self.y.high], "nice": False, "zero": False}
        return {"scale": scale, "axis": self.y.axis()}


@dataclass(frozen=True)
class Rungs:
    """Bars to the right from zero, one rung per row from the top; in percent unless labelled otherwise."""

    rows: Sequence[str]
    high: float
    ticks: Sequence[float]
    tick_labels: str = "round(100 * datum.value) + '\u00a0%'"

    _RUNG_PX = 50

    @property
    def height(self) -> int:
        return self._RUNG_PX * len(self.rows)

    def bars(self, values: Sequence[Row], style: Spec, *, room: float, shift: float = 0.0) -> Spec:
        """Bars as thick as `room` of their rung, `shift` bars below its middle."""
        thick = room * self._RUNG_PX
        spec = self._layer(values, {"type": "bar", "height": thick, "yOffset": shift * thick * 1.15, **style})
        spec["encoding"]["x2"] = {"field": "x2"}
        return spec

    def labels(self, values: Sequence[Row], *, shift: float = 0.0, ink: str = "ink") -> Spec:
        """Each row's label, right of its x."""
        spec = self._layer(
            values, {"type": "text", "baseline": "middle", "align": "left", "dx": 7, **LETTERS}
        )
        spec["mark"] |= {"yOffset": shift * 0.3 * self._RUNG_PX * 1.15, "fill": Ink(ink)}
        spec["encoding"]["text"] = {"field": "t", "type": "nominal"}
        return spec

    def rule(self, at: float, style: Spec) -> Spec:
        return {
            "data": {"values": [{"x": at}]},
            "mark": {"type": "rule", "y": 0, "y2": self.height, **style},
            "encoding": {"x": {"field": "x", "type": "quantitative", **self._x()}},
        }

    def view(self, layers: Sequence[Spec], legend: Sequence["Entry"]) -> Spec:
        return _view(layers, legend=legend, height=self.height, bottom=_BOTTOM - 10)

    def _layer(self, values: Sequence[Row], mark: Spec) -> Spec:
        y_axis = {**_AXIS, "grid": False, "domain": False, "ticks": False, "labelColor": Ink("ink")}
        scale = {"domain": list(self.rows), "padding": 0}
        encoding = {
            "x": {"field": "x", "type": "quantitative", **self._x()},
            "y": {"field": "row", "type": "nominal", "sort": None, "scale": scale, "axis": y_axis},
        }
        return {"data": {"values": list(values)}, "mark": mark, "encoding": encoding}

    def _x(self) -> Spec:
        axis = {
            **_AXIS,
            "values": list(self.ticks),
            "domain": False,
            "ticks": False,
            "labelExpr": self.tick_labels,
        }
        return {"scale": {"domain": [0.0, self.high], "nice": False, "zero": False}, "axis": axis}


_AXIS: Spec = {
    "title": None, "labelOverlap": False, "labelBound": False, "labelFlush": False, "labelPadding": 6, "grid": True,
    "gridColor": Ink("grid"), "domainColor": Ink("axis"), "tickColor": Ink("axis"), "tickSize": 4,
    "labelColor": Ink("muted"), "labelFont": FONT, "labelFontSize": FONT_PX, "labelLimit": 0,
}  # fmt: skip


def unit(words: str) -> Spec:
    """The unit of the axis, in words above the plot."""
    return text((-_LEFT + 6, -14), words)


def text(at: tuple[float, float], words: str, *, align: str = "left", ink: str = "muted") -> Spec:
    """Words at a place in pixels from the plot's upper left corner."""
    return texts([(at, words)], align=align, ink=ink)


def texts(
    places: Iterable[tuple[tuple[float, float], str]], *, align: str = "left", ink: str = "muted"
) -> Spec:
    """Several words at their places: one layer, as each costs a millisecond or two to compile."""
    mark = {"type": "text", "align": align, "baseline": "middle", "fill": Ink(ink), **LETTERS}
    return {
        "data": {"values": [{"px": px, "py": py, "t": words} for (px, py), words in places]},
        "mark": {**mark, "x": {"expr": "datum.px"}, "y": {"expr": "datum.py"}},
        "encoding": {"text": {"field": "t", "type": "nominal"}},
    }


def _legend(entries: Sequence[Entry], top: float) -> tuple[list[Spec], int]:
    """Swatches and labels from `top` on, in as many columns as fit; their layers and their height in px."""
    if not entries:
        return [], 0
    room = WIDTH - 14
    column = 28 + max(len(label) for _, _, label in entries) * LETTER_PX
    columns = max(1, min(len(entries), int(room // column)))
    swatches, labels = [], []
    for number, (kind, style, label) in enumerate(entries):
        px = number % columns * room / columns + 8 - _LEFT
        py = top + 10 + number // columns * _LEGEND_ROW
        swatches.append(_swatch(kind, style, px, py))
        labels.append(((px + 22, py), label))
    return [*swatches, texts(labels, ink="ink")], math.ceil(len(entries) / columns) * _LEGEND_ROW + 4


def _swatch(kind: str, style: Spec, px: float, py: float) -> Spec:
    marks: dict[str, tuple[Spec, dict[str, float]]] = {
        "bar": ({"type": "rect"}, {"x": px + 2, "x2": px + 14, "y": py - 6, "y2": py + 6}),
        "line": ({"type": "rule", "strokeWidth": 2}, {"x": px, "x2": px + 16, "y": py}),
        "span": ({"type": "rule", "strokeWidth": 5}, {"x": px, "x2": px + 16, "y": py}),
        "point": ({"type": "point", **POINT}, {"x": px + 8, "y": py}),
    }
    mark, box = marks[kind]
    encoding = {channel: {"value": at} for channel, at in box.items()}
    return {"data": {"values": [{}]}, "mark": {**mark, **style}, "encoding": encoding}


def _view(
    layers: Sequence[Spec],
    *,
    height: int = HEIGHT,
    top: int = _TOP,
    bottom: int = _BOTTOM,
    legend: Sequence[Entry] = (),
) -> Spec:
    """All layers in one plot of a fixed place, so that charts beside each other line up."""
    below, legend_px = _legend(legend, height + bottom)
    return {
        "$schema": "https://vega.github.io/schema/vega-lite/v6.json",
        "width": PLOT_WIDTH,
        "height": height,
        "autosize": {"type": "none"},
        "padding": {"left": _LEFT, "right": _RIGHT, "top": top, "bottom": bottom + legend_px},
        "background": "transparent",
        "config": {"aria": False, "view": {"stroke": None}},
        "layer": [*layers, *below],
    }


def noon(day: date) -> float:
    return ms(day) + DAY_MS / 2


def ms(day: date) -> int:
    return (day - date(1970, 1, 1)).days * DAY_MS
