"""Pictures of the marts: DataFrame in, Vega-Lite chart out, drawn as SVG or PNG by vl-convert.

Why these tools: vl-convert draws Vega-Lite inside one wheel, with its own fonts, no browser and no network (plotly
needs a Chrome for a still picture; matplotlib took 0.84 s to import and 0.10 s a chart, vl-convert 0.65 s once and
0.02 s a chart, on 2 cores). The charts are written as Vega-Lite itself and not through Altair, whose import alone
costs 0.55 s in every daily run; Altair checks each chart against the Vega-Lite schema in the tests.

Every function takes the rows of ONE account, as a pandas DataFrame or as a list of dicts with the marts' columns,
in any order. Money is in USD, days are UTC days. With nothing to draw, a chart is one plain sentence.
Colours are named by role (`Ink`) and become colours only when drawn: `svg(chart)` leaves CSS variables in, so that one
drawing serves light and dark pages (see `css`); "light" and "dark" put fixed colours in.
What differs in meaning differs in shape, outline or dash as well as in colour.
"""

import base64
import hashlib
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from credits_pipeline import wording

if TYPE_CHECKING:
    import pandas as pd

Row: TypeAlias = Mapping[str, Any]
Frame: TypeAlias = "pd.DataFrame | Iterable[Row]"
Theme: TypeAlias = Literal["auto", "light", "dark"]
Spec: TypeAlias = dict[str, Any]

# 480 px with 13 px letters: readable at 1.1 times in two columns of a desktop page, at 0.75 times on a phone.
WIDTH, HEIGHT, FONT_PX = 480, 190, 13
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 12, 28, 38
_LEGEND_ROW = 20
# vl-convert carries Liberation Sans in its wheel, so a machine without any font draws the same picture.
FONT = "Liberation Sans, Arial, sans-serif"
# A letter of that font is 0.5 em wide on average; legends are laid out with a little more.
_LETTER_PX = 0.54 * FONT_PX

# A bar shorter than this share of the width has no room for its label inside.
_LABEL_SHARE = 0.3
# More days than this make bars thinner than 5 px at this width: hollow and filled ones look the same.
SPEND_DAYS = 60
BALANCE_DAYS = (90, 365)
# Six colours that stay apart for every common kind of colour blindness, and grey for the rest (Okabe and Ito's,
# darkened until they stand out from white; least CIE76 distance 13 under simulated deuteranopia, theirs 7).
MODELS_SHOWN = 6
OTHER = "other models"
_DAY_MS = 86_400_000


class Ink(str):
    """The role of a colour. A type of its own, so that a model that is called "ink" stays a name."""

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


# ---------------------------------------------------------------- drawing


def svg(chart: Chart, theme: Theme = "auto", *, name: str = "chart") -> str:
    """The chart as an SVG element of some 10 to 40 kB; `name` (letters, digits, -) keeps its ids apart on a page.

    It carries no title of its own: whoever embeds it says `role="img"` and `aria-label` with `chart.words`.
    """
    import vl_convert

    drawn: str = vl_convert.vegalite_to_svg(_coloured(chart.spec, theme), allowed_base_urls=[])
    ids = {
        found: f"{name}-{number}"
        for number, found in enumerate(dict.fromkeys(re.findall(r' id="(\w+)"', drawn)))
    }

    def tidied(tag: re.Match[str]) -> str:
        lean = re.sub(r' (?:role|aria-[a-z]+|pointer-events|class)="[^"]*"', "", tag.group())
        lean = re.sub(
            r' (?:d|transform)="[^"]*"', lambda found: re.sub(r"(\.\d\d)\d+", r"\1", found.group()), lean
        )
        return re.sub(r'(id="|url\(#)(\w+)', lambda found: found[1] + ids.get(found[2], found[2]), lean)

    # Only tags are touched: in the text between them "<" is escaped, so no name can look like one.
    return re.sub(r"<[^>]*>", tidied, drawn)


def png(chart: Chart, theme: Literal["light", "dark"] = "light", scale: float = 2) -> bytes:
    """The chart as a PNG picture, `scale` times 480 px wide, on the theme's background."""
    import vl_convert

    spec = chart.spec | {"background": Ink("paper")}
    drawn: bytes = vl_convert.vegalite_to_png(_coloured(spec, theme), scale=scale, allowed_base_urls=[])
    return drawn


def data_uri(chart: Chart, theme: Literal["light", "dark"] = "light", scale: float = 2) -> str:
    """The PNG as a `data:` URI, for Markdown: `![…](data:image/png;base64,…)`."""
    return "data:image/png;base64," + base64.b64encode(png(chart, theme, scale)).decode("ascii")


def css(theme: Literal["light", "dark"]) -> str:
    """The custom properties that an "auto" SVG reads: `--c-ink: #1b1f24; …`."""
    return " ".join(f"--c-{role}: {colour};" for role, colour in PALETTES[theme].items())


def _coloured(node: Any, theme: Theme) -> Any:
    if isinstance(node, Ink):
        return f"var(--c-{node})" if theme == "auto" else PALETTES[theme][node]
    if isinstance(node, dict):
        return {key: _coloured(value, theme) for key, value in node.items()}
    if isinstance(node, list):
        return [_coloured(value, theme) for value in node]
    return node


# ---------------------------------------------------------------- the charts


def empty(sentence: str) -> Chart:
    """No plot: one sentence."""
    spec = _view(
        [_text([(WIDTH - _LEFT - _RIGHT) / 2 - _LEFT / 2, 30], sentence, align="center")],
        height=60,
        top=0,
        bottom=0,
    )
    return Chart(spec, sentence)


def daily_spend(spend: Frame, events: Frame = (), *, days: int = SPEND_DAYS) -> Chart:
    """Spend per UTC day from `daily_spend`, the newest `days` of it, with `credit_events` marked above.

    Measured days are filled, billed ones filled in a lighter blue, estimates hollow and dashed, the running day
    hollow. A correction of the counter points down.
    """
    rows = _by_day(spend, "spend_date")[-days:]
    known = [row for row in rows if _number(row["spend_usd"]) is not None]
    if not known:
        return empty("No spend is known yet.")
    running = rows[-1]["spend_date"] if not rows[-1].get("is_complete", True) else None
    first, last = rows[0]["spend_date"], rows[-1]["spend_date"]
    styles = {
        "observed": ("Measured", _bar("spend")),
        "billed": ("As billed", _bar("billed")),
        "interpolated": ("Estimate", _hollow("estimate", [2.5, 1.5])),
        "running": ("Running day, so far", _hollow("spend")),
    }
    bars: dict[str, list[Row]] = {kind: [] for kind in styles}
    for row in known:
        kind = "running" if row["spend_date"] == running else row["method"]
        start = _ms(row["spend_date"])
        bars[kind if kind in bars else "observed"].append(
            {"x": start + 0.1 * _DAY_MS, "x2": start + 0.9 * _DAY_MS, "y": _number(row["spend_usd"]), "y2": 0}
        )
    marks = _events(events, first, last)
    y = _Scale.over(
        [value["y"] for group in bars.values() for value in group] + [0], headroom=0.14 if marks else 0
    )
    plot = _Plot(first, last + timedelta(days=1), y)
    layers = plot.axes("USD per UTC day")
    layers += [plot.rects(group, styles[kind][1]) for kind, group in bars.items() if group]
    layers += [plot.zero(), *_event_layers(plot, marks)]
    legend = [("bar", style, label) for kind, (label, style) in styles.items() if bars[kind]]
    legend += [
        ("point", _EVENTS[kind][1], _EVENTS[kind][0])
        for kind in _EVENTS
        if any(m["kind"] == kind for m in marks)
    ]
    top = max(known, key=lambda row: row["spend_usd"])
    estimates = len(bars["interpolated"])
    words = (
        f"Spend per UTC day from {wording.day(first)} to {wording.day(last)}, in USD. "
        f"The highest day was {wording.day(top['spend_date'])} with {wording.usd(top['spend_usd'])}."
        + (f" {_days(estimates)} estimated." if estimates else "")
        + (f" Marked: {len(marks)} top-up{_s(len(marks))} or correction{_s(len(marks))}." if marks else "")
    )
    return Chart(plot.view(layers, legend), words)


def balance(history: Frame, forecast: Frame = (), runway: Row | None = None) -> Chart:
    """The balance at the close of each UTC day (`daily_balance`) running into the fan of `balance_forecast`.

    `runway` is the account's row of `credits_runway`: its run-out interval is marked on the zero line. Days with an
    unknown balance are gaps, estimated stretches dashed. The fan ends at zero: past it there is nothing to spend.
    """
    past = [(row["balance_date"] + timedelta(days=1), row) for row in _by_day(history, "balance_date")]
    known = [(at, row) for at, row in past if _number(row["balance_usd"]) is not None]
    if not known:
        return empty("No balance is known yet.")
    fan = _fan(forecast, runway)
    ahead = (fan[-1]["forecast_date"] - known[-1][0]).days if fan else 0
    back = min(max(2 * ahead, BALANCE_DAYS[0]), BALANCE_DAYS[1])
    newest = past[-1][0]
    past = [(at, row) for at, row in past if at > newest - timedelta(days=back)]
    known = [(at, row) for at, row in past if _number(row["balance_usd"]) is not None]
    start, end = past[0][0], max([past[-1][0]] + [row["forecast_date"] + timedelta(days=1) for row in fan])
    values = [_number(row["balance_usd"]) or 0.0 for _, row in known]
    spread = [_number(row[key]) or 0.0 for row in fan for key in ("balance_p10", "balance_p90")]
    low = min([0.0, *values])
    y = _Scale.over([0.0, low, *values, *(max(value, low) for value in spread)], floor_room=0.2 if fan else 0)
    plot = _Plot(start, end, y)
    layers = plot.axes("USD at the close of each UTC day")
    layers += _fan_layers(plot, fan)
    layers += _history_layers(plot, past)
    layers.append(plot.zero(strong=True))
    interval = _interval(plot, runway) if fan and runway else []
    layers += interval
    legend: list[_Entry] = [("line", {"stroke": Ink("ink")}, "Balance")]
    if any(row.get("is_estimated") for _, row in known):
        legend.append(("line", {"stroke": Ink("ink"), "strokeDash": [2, 2]}, "Estimate"))
    if fan:
        legend.append(("bar", {"fill": Ink("band")}, "Forecast, 80 % sure"))
        legend.append(("line", {"stroke": Ink("spend"), "strokeDash": [6, 3]}, "Middle of the forecast"))
    if interval:
        legend.append(("span", {"stroke": Ink("warn")}, "Runs out, 80 % sure"))
    words = (
        f"Balance in USD at the close of each UTC day from {wording.day(start - timedelta(days=1))}: "
        f"{wording.usd(known[-1][1]['balance_usd'])} at the end of {wording.day(known[-1][1]['balance_date'])}."
        + (
            f" The forecast runs on from there. {wording.answer(runway).headline} {wording.answer(runway).detail}"
            if fan and runway
            else ""
        )
    )
    return Chart(plot.view(layers, legend), words)


def spend_by_model(rows: Frame) -> Chart:
    """Spend by model from `daily_spend_by_model`, stacked: the six largest of the span, the rest as "other models".

    Per day up to 60 days, per week (from Monday) up to two years, per month beyond. A model keeps its colour as long
    as no other shown model asks for the same one.
    """
    spent = [row for row in _by_day(rows, "spend_date") if _number(row["spend_usd"])]
    if not spent:
        return empty("No spend by model is known yet.")
    first, last = spent[0]["spend_date"], spent[-1]["spend_date"]
    unit, start_of, next_of = _calendar((last - first).days + 1)
    totals: dict[str, float] = {}
    for row in spent:
        totals[row["model"]] = totals.get(row["model"], 0.0) + (_number(row["spend_usd"]) or 0.0)
    shown = sorted(totals, key=lambda model: (-totals[model], model))[:MODELS_SHOWN]
    colours = _model_colours(shown)
    stacks: dict[tuple[date, str | None], float] = {}
    for row in spent:
        place = (start_of(row["spend_date"]), row["model"] if row["model"] in colours else None)
        stacks[place] = stacks.get(place, 0.0) + (_number(row["spend_usd"]) or 0.0)
    order: list[str | None] = [*shown, *([None] if len(totals) > len(shown) else [])]
    bars: dict[str | None, list[Row]] = {model: [] for model in order}
    edges: list[float] = [0.0]
    for begin in sorted({begin for begin, _ in stacks}):
        up = down = 0.0
        width = _ms(next_of(begin)) - _ms(begin)
        for model in order:
            amount = stacks.get((begin, model), 0.0)
            if not amount:
                continue
            base = up if amount > 0 else down
            up, down = (up + amount, down) if amount > 0 else (up, down + amount)
            span = {"x": _ms(begin) + 0.08 * width, "x2": _ms(begin) + 0.92 * width}
            bars[model].append({**span, "y": base + amount, "y2": base})
        edges += [up, down]
    plot = _Plot(start_of(first), next_of(start_of(last)), _Scale.over(edges))
    paints = {model: Ink(colours[model]) if model is not None else Ink("other") for model in order}
    edge = {"stroke": Ink("paper"), "strokeWidth": 0.6}
    running = last < next_of(start_of(last)) - timedelta(days=1)
    layers = plot.axes(f"USD per {unit}" + (", the last one so far" if running else ""))
    layers += [plot.rects(bars[model], {"fill": paints[model], **edge}) for model in order if bars[model]]
    layers.append(plot.zero())
    labels = _names(shown)
    legend = [("bar", {"fill": paints[m]}, labels[m] if m is not None else OTHER) for m in order if bars[m]]
    whole = sum(totals.values())
    largest = f"The largest is {labels[shown[0]]}" + (
        f" with {wording.percent(totals[shown[0]] / whole)} of it." if whole > 0 else "."
    )
    words = (
        f"Spend in USD per {unit}, by model, from {wording.day(first)} to {wording.day(last)}. {largest}"
        + (f" {len(totals) - len(shown)} smaller models are drawn together." if len(totals) > len(shown) else "")
    )  # fmt: skip
    return Chart(plot.view(layers, legend), words)


def run_out_history(history: Frame, spend: Frame = ()) -> Chart:
    """Which run-out date was predicted on which day (`runway_history`), beside what came true (from `daily_spend`).

    What came true is the day by which spend had used up the balance of the day of the prediction. It is known with
    top-ups as well, and, for the newest days, not yet.
    """
    nights = [row for row in _by_day(history, "as_of_date") if row.get("run_out_p50") is not None]
    if not nights:
        return empty("No run-out date was predicted yet.")
    came_true = _came_true(nights, _by_day(spend, "spend_date"))
    middles = [_ms(row["run_out_p50"]) for row in nights]
    dates = [*middles, *(point["y"] for point in came_true)]
    dates += [
        _ms(row[key]) for row in nights for key in ("run_out_p10", "run_out_p90") if row.get(key) is not None
    ]
    y = _DateScale.over(min(dates), max(dates) + _DAY_MS)
    plot = _Plot(nights[0]["as_of_date"], nights[-1]["as_of_date"] + timedelta(days=1), y)
    runs = _runs([(row["as_of_date"], row) for row in nights])
    band = [
        {
            "run": number,
            "x": _noon(row["as_of_date"]),
            "y": _ms(row["run_out_p90"]) if row.get("run_out_p90") is not None else y.high,
            "y2": _ms(row["run_out_p10"]) if row.get("run_out_p10") is not None else y.low,
        }
        for number, run in enumerate(runs)
        for _, row in run
    ]
    middle = [
        {"run": number, "x": _noon(row["as_of_date"]), "y": _ms(row["run_out_p50"])}
        for number, run in enumerate(runs)
        for _, row in run
    ]
    line = {"type": "line", "stroke": Ink("spend"), "strokeWidth": 1.8, "strokeDash": [6, 3]}
    layers = plot.axes("Run-out date (UTC day), as predicted on each day below")
    layers.append(plot.layer(band, {"type": "area", **_BAND}, "x", "y", "y2", detail="run"))
    layers.append(plot.layer(middle, line, "x", "y", detail="run"))
    legend: list[_Entry] = [
        ("bar", {"fill": Ink("band")}, "Predicted, 80 % sure"),
        ("line", {"stroke": Ink("spend"), "strokeDash": [6, 3]}, "Predicted, middle"),
    ]
    if len(nights) == 1:
        layers.append(plot.layer(middle, {"type": "point", **_POINT, "fill": Ink("spend")}, "x", "y"))
        ends = [{"x": band[0]["x"], "x2": band[0]["x"], "y": band[0]["y"], "y2": band[0]["y2"]}]
        layers.insert(
            2, plot.layer(ends, {"type": "rule", "stroke": Ink("band"), "strokeWidth": 8}, "x", "y", "y2")
        )
    if came_true:
        dot = {"shape": "circle", "fill": Ink("ink")}
        layers.append(plot.layer(came_true, {"type": "point", **_POINT, **dot, "size": 16}, "x", "y"))
        legend.append(("point", {**dot, "size": 30}, "That balance was spent by"))
    newest = nights[-1]
    words = (
        f"Run-out dates as predicted from {wording.day(nights[0]['as_of_date'])} to "
        f"{wording.day(newest['as_of_date'])}; the newest says {wording.day(newest['run_out_p50'])}. "
    ) + _how_true(nights, came_true)
    return Chart(plot.view(layers, legend), words)


def interval_coverage(accuracy: Frame) -> Chart:
    """How often actual spend fell inside the 80 % interval (`forecast_accuracy`), per horizon, beside the aim."""
    rows = sorted(_rows(accuracy), key=lambda row: row["horizon_days"])
    rows = [row for row in rows if row["replays"] and _number(row["coverage_80"]) is not None]
    if not rows:
        return empty("No forecast could be checked against what happened yet.")
    bars: list[Row] = [
        {
            "row": f"{row['horizon_days']} days",
            "x": float(row["coverage_80"]),
            "x2": 0.0,
            "t": f"{wording.percent(row['coverage_80'])} of {wording.count(row['replays'])}",
        }
        for row in rows
    ]
    rungs = _Rungs([bar["row"] for bar in bars], 1.04, (0.0, 0.2, 0.4, 0.6, 0.8, 1.0))
    inside = [{**bar, "x": 0.0} for bar in bars if bar["x"] >= _LABEL_SHARE]
    layers = [
        rungs.bars(bars, _bar("spend"), room=0.55),
        rungs.labels(inside, ink="paper"),
        rungs.labels([bar for bar in bars if bar["x"] < _LABEL_SHARE]),
        rungs.rule(0.8, {"stroke": Ink("warn"), "strokeWidth": 2, "strokeDash": [5, 3]}),
        _text([-_LEFT + 6, -14], "Share of past forecasts (%) with actual spend inside the interval"),
    ]
    legend: list[_Entry] = [
        ("bar", _bar("spend"), "Right, of replayed forecasts"),
        ("line", {"stroke": Ink("warn"), "strokeDash": [5, 3]}, "Aim: 80 %"),
    ]
    words = "How often actual spend fell inside the 80 % interval. " + " ".join(
        f"Over {row['horizon_days']} days: {wording.percent(row['coverage_80'])} of {row['replays']} replayed forecasts."
        for row in rows
    )
    return Chart(rungs.view(layers, legend), words)


def forecast_loss(accuracy: Frame) -> Chart:
    """Mean pinball loss in USD per horizon (`forecast_accuracy`), beside that of the plain 7-day mean."""
    keys = ("pinball_loss_usd", "flat_7d_pinball_loss_usd")
    rows = sorted(_rows(accuracy), key=lambda row: row["horizon_days"])
    rows = [row for row in rows if row["replays"] and all(_number(row[key]) is not None for key in keys)]
    if not rows:
        return empty("No forecast could be checked against what happened yet.")
    losses = [(_number(row[key]) or 0.0, wording.usd(row[key])) for row in rows for key in keys]
    most = max(loss for loss, _ in losses)
    room = max(len(label) * _LETTER_PX + 10 for loss, label in losses if loss > most / 2 or not most)
    scale = _Scale.over([0.0, most], headroom=room / (_Plot.width - room))
    rungs = _Rungs([f"{row['horizon_days']} days" for row in rows], scale.high, scale.ticks, scale.labels)
    layers = [_text([-_LEFT + 6, -14], "Mean pinball loss in USD, over the days ahead: less is better")]
    styles = {keys[0]: _bar("spend"), keys[1]: _hollow("estimate", [2.5, 1.5])}
    for key, shift in zip(keys, (-0.5, 0.5), strict=True):
        bars = [
            {
                "row": f"{row['horizon_days']} days",
                "x": _number(row[key]),
                "x2": 0.0,
                "t": wording.usd(row[key]),
            }
            for row in rows
        ]
        layers += [rungs.bars(bars, styles[key], room=0.3, shift=shift), rungs.labels(bars, shift=shift)]
    legend: list[_Entry] = [
        ("bar", styles[keys[0]], "This forecast"),
        ("bar", styles[keys[1]], "Last 7 days go on"),
    ]
    words = "Mean pinball loss of the forecast, beside the rule that the last 7 days go on. " + " ".join(
        f"Over {row['horizon_days']} days: {wording.usd(row[keys[0]])} beside {wording.usd(row[keys[1]])}."
        for row in rows
    )
    return Chart(rungs.view(layers, legend), words)


# ---------------------------------------------------------------- parts of the charts

_EVENTS: Mapping[str, tuple[str, Spec]] = {
    "top_up": ("Top-up", {"shape": "triangle-up", "fill": Ink("event")}),
    "credit_decrease": ("Refund, transfer or expiry", {"shape": "triangle-down", "fill": Ink("warn")}),
    "usage_correction": ("Correction", {"shape": "diamond", "fill": Ink("warn")}),
}
_BAND: Spec = {"fill": Ink("band"), "opacity": 0.75}
_POINT: Spec = {"size": 75, "filled": True, "opacity": 1}


def _bar(ink: str) -> Spec:
    return {"fill": Ink(ink)}


def _hollow(ink: str, dash: Sequence[float] = ()) -> Spec:
    return {"fill": Ink("paper"), "stroke": Ink(ink), "strokeWidth": 1.2, "strokeDash": list(dash)}


def _events(events: Frame, first: date, last: date) -> list[Row]:
    """The events between the two days, each in the middle of the time in which it happened."""
    low, high = _ms(first), _ms(last) + _DAY_MS
    found = []
    for row in _rows(events):
        at = (_instant_ms(row["event_at_earliest"]) + _instant_ms(row["event_at_latest"])) / 2
        if low <= at <= high and row["kind"] in _EVENTS:
            found.append({"x": at, "kind": row["kind"], "label": _short(row["amount_usd"])})
    return sorted(found, key=lambda row: (row["x"], row["kind"]))


def _event_layers(plot: "_Plot", marks: Sequence[Row]) -> list[Spec]:
    """A shape above the bars and a thread down to its day, with the amount beside it where there is room."""
    layers = []
    for kind, (_, style) in _EVENTS.items():
        values = [{"x": row["x"]} for row in marks if row["kind"] == kind]
        if values:
            thread = {"type": "rule", "stroke": style["fill"], "strokeDash": [1, 2], "y": 12, "y2": HEIGHT}
            layers.append(plot.layer(values, thread, "x"))
            layers.append(plot.layer(values, {"type": "point", "y": 7, **_POINT, **style}, "x"))
    places = [plot.share(row["x"]) * plot.width for row in marks]
    taken = [(px - 8, px + 8) for px in places]
    for px, row in zip(places, marks, strict=True):
        wide = len(row["label"]) * _LETTER_PX + 4
        for left, align in ((px + 9, "left"), (px - 9 - wide, "right")):
            free = all(left + wide < start or end < left for start, end in taken)
            if free and left >= 0 and left + wide <= plot.width:
                taken.append((left, left + wide))
                layers.append(
                    _text([px + (9 if align == "left" else -9), 8], row["label"], align=align, ink="ink")
                )
                break
    return layers


def _fan(forecast: Frame, runway: Row | None) -> list[Row]:
    """The forecast up to a little past the late end of the run-out interval, a year at most."""
    rows = [row for row in _by_day(forecast, "forecast_date") if _number(row["balance_p50"]) is not None]
    late = (runway or {}).get("run_out_p90")
    if not rows or late is None:
        return rows
    room = max(3, (late - rows[0]["forecast_date"]).days // 8)
    return [row for row in rows if row["forecast_date"] <= late + timedelta(days=room)]


def _fan_layers(plot: "_Plot", fan: Sequence[Row]) -> list[Spec]:
    if not fan:
        return []
    first = fan[0]
    start = max(0.0, (_number(first["balance_p50"]) or 0.0) + (_number(first.get("spend_p50")) or 0.0))
    values = [{"x": _ms(first["forecast_date"]), "y": start, "y2": start, "m": start}]
    values += [
        {
            "x": _ms(row["forecast_date"]) + _DAY_MS,
            "y": max(0.0, _number(row["balance_p90"]) or 0.0),
            "y2": max(0.0, _number(row["balance_p10"]) or 0.0),
            "m": max(0.0, _number(row["balance_p50"]) or 0.0),
        }
        for row in fan
    ]
    for value in values:
        value["y"], value["y2"] = max(value["y"], value["y2"]), min(value["y"], value["y2"])
    middle = [{"x": value["x"], "y": value["m"]} for value in values]
    line = {"type": "line", "stroke": Ink("spend"), "strokeWidth": 1.8, "strokeDash": [6, 3], "clip": True}
    return [
        plot.layer(values, {"type": "area", **_BAND, "clip": True}, "x", "y", "y2"),
        plot.layer(middle, line, "x", "y"),
    ]


def _history_layers(plot: "_Plot", past: Sequence[tuple[date, Row]]) -> list[Spec]:
    """Lines between neighbouring known closes, dashed where either is an estimate; a lone close is a dot."""
    dot = {"type": "point", "shape": "circle", **_POINT, "size": 30, "fill": Ink("ink")}
    runs: list[tuple[bool, list[Row]]] = []
    before: tuple[date, Row] | None = None
    for at, row in past:
        if _number(row["balance_usd"]) is None:
            before = None
            continue
        here = {"x": _ms(at), "y": _number(row["balance_usd"])}
        if before is None or at - before[0] != timedelta(days=1):
            runs.append((bool(row.get("is_estimated")), [here]))
        else:
            dashed = bool(row.get("is_estimated")) or bool(before[1].get("is_estimated"))
            if len(runs[-1][1]) > 1 and runs[-1][0] != dashed:
                runs.append((dashed, [runs[-1][1][-1]]))
            runs[-1] = (dashed, [*runs[-1][1], here])
        before = (at, row)
    layers = []
    for dashed in (False, True):
        values = [
            {**point, "run": i}
            for i, (d, run) in enumerate(runs)
            if d == dashed and len(run) > 1
            for point in run
        ]
        style = {
            "type": "line",
            "stroke": Ink("ink"),
            "strokeWidth": 2,
            "strokeDash": [2, 2] if dashed else [],
        }
        if values:
            layers.append(plot.layer(values, style, "x", "y", detail="run"))
    alone = [run[0] for _, run in runs if len(run) == 1]
    return [*layers, *([plot.layer(alone, dot, "x", "y")] if alone else [])]


def _runs(rows: Sequence[tuple[date, Row]]) -> list[list[tuple[date, Row]]]:
    """Rows of consecutive days; a missing day begins another run."""
    runs: list[list[tuple[date, Row]]] = []
    for at, row in rows:
        if runs and at - runs[-1][-1][0] == timedelta(days=1):
            runs[-1].append((at, row))
        else:
            runs.append([(at, row)])
    return runs


def _came_true(nights: Sequence[Row], spend: Sequence[Row]) -> list[Row]:
    """For each night whose balance has been spent since: the day by which it was."""
    points: list[Row] = []
    days = [
        (row["spend_date"], _number(row["spend_usd"]) or 0.0) for row in spend if row.get("is_complete", True)
    ]
    for night in nights:
        left = _number(night["balance_usd"]) or 0.0
        for day, amount in days:
            if day <= night["as_of_date"]:
                continue
            left -= amount
            if left <= 0:
                inside = _within(day, night)
                points.append({"x": _noon(night["as_of_date"]), "y": _ms(day), "inside": inside})
                break
    return points


def _within(day: date, night: Row) -> bool:
    early, late = night.get("run_out_p10"), night.get("run_out_p90")
    return (early is None or early <= day) and (late is None or day <= late)


def _how_true(nights: Sequence[Row], came_true: Sequence[Row]) -> str:
    if not came_true:
        return "None of these balances is spent yet, so none can be checked."
    inside = sum(point["inside"] for point in came_true)
    return (
        f"Of {len(nights)} predictions {len(came_true)} can be checked by now: "
        f"{inside} had the day on which that balance was spent inside their interval."
    )


def _interval(plot: "_Plot", runway: Row) -> list[Spec]:
    """The run-out interval as a bar on the zero line with its dates below; open at the right when beyond a year."""
    early, middle, late = (runway.get(f"run_out_p{p}") for p in (10, 50, 90))
    if early is None:
        return []
    left, right = _ms(early), _ms(late) + _DAY_MS if late is not None else plot.right
    span = {"x": left, "x2": right, "y": 0}
    ends = [{"x": left, "y": 0}] + ([{"x": right, "y": 0}] if late is not None else [])
    layers = [
        plot.layer(
            [span],
            {"type": "rule", "stroke": Ink("warn"), "strokeWidth": 5, "opacity": 0.85},
            "x",
            "y",
            x2="x2",
        ),
        plot.layer(
            ends,
            {"type": "tick", "orient": "vertical", "color": Ink("warn"), "thickness": 2, "size": 14},
            "x",
            "y",
        ),
    ]
    if middle is not None:
        point = {"type": "point", "shape": "diamond", **_POINT, "size": 110}
        style = {**point, "fill": Ink("paper"), "stroke": Ink("warn"), "strokeWidth": 2}
        layers.append(plot.layer([{"x": _ms(middle) + _DAY_MS / 2, "y": 0}], style, "x", "y"))
    label = f"{wording.day(early, year=False)} – {wording.day(late) if late is not None else 'beyond a year'}"
    if middle is not None:
        label = f"about {wording.day(middle, year=False)} ({label})"
    if late is not None and early == late:
        label = wording.day(late)
    share = plot.share((left + right) / 2)
    room = len(label) * _LETTER_PX / 2 / plot.width
    align = "right" if share + room > 1 else "left" if share < room else "center"
    at = {"right": plot.right, "left": plot.left, "center": (left + right) / 2}[align]
    mark = {"type": "text", "align": align, "baseline": "top", "dy": 10, **_LETTERS, "fontWeight": "bold"}
    value = {"x": at, "y": 0, "t": label}
    for paint in ({"fill": Ink("paper"), "stroke": Ink("paper"), "strokeWidth": 4}, {"fill": Ink("warn")}):
        layers.append(plot.layer([value], {**mark, **paint}, "x", "y", words="t"))
    return layers


def _calendar(days: int) -> tuple[str, Any, Any]:
    """How to sum that many days into readable bars: the unit's name, the unit's first day, the next unit's."""
    if days <= SPEND_DAYS:
        return "UTC day", lambda day: day, lambda day: day + timedelta(days=1)
    if days <= 2 * 366:
        return (
            "UTC week",
            lambda day: day - timedelta(days=day.weekday()),
            lambda day: day + timedelta(days=7),
        )
    return (
        "UTC month",
        lambda day: day.replace(day=1),
        lambda day: (day.replace(day=1) + timedelta(days=32)).replace(day=1),
    )


def _model_colours(models: Iterable[str]) -> dict[str, str]:
    """A colour slot per model from its name alone; where two ask for the same, the later name takes the next one."""
    taken: dict[str, str] = {}
    for model in sorted(models):
        wanted = hashlib.sha256(model.encode("utf-8", "replace")).digest()[0]
        slots = (f"m{(wanted + step) % MODELS_SHOWN}" for step in range(MODELS_SHOWN))
        taken[model] = next(slot for slot in slots if slot not in taken.values())
    return taken


def _names(models: Iterable[str]) -> dict[str, str]:
    """Names to show; two that look alike once made harmless get a number."""
    shown: dict[str, str] = {}
    for model in models:
        name, number = wording.name(model, longest=36), 1
        while name in shown.values():
            number += 1
            name = f"{wording.name(model, longest=36)} ({number})"
        shown[model] = name
    return shown


# ---------------------------------------------------------------- geometry

_Entry: TypeAlias = tuple[str, Spec, str]
_LETTERS: Spec = {"font": FONT, "fontSize": FONT_PX}


# Four to six grid lines can be read off at this height; more crowd it.
_MOST_STEPS = 5


@dataclass(frozen=True)
class _Scale:
    """An axis in USD: its ends, its ticks, the expression of their labels."""

    low: float
    high: float
    ticks: tuple[float, ...]
    labels: str

    @classmethod
    def over(cls, values: Iterable[float], *, headroom: float = 0.0, floor_room: float = 0.0) -> "_Scale":
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
class _DateScale:
    """A vertical axis of UTC days."""

    low: float
    high: float

    @classmethod
    def over(cls, low: float, high: float) -> "_DateScale":
        room = max(0.06 * (high - low), _DAY_MS)
        return cls(low - room, high + room)

    def axis(self) -> Spec:
        first, end = (date(1970, 1, 1) + timedelta(milliseconds=at) for at in (self.low, self.high))
        return {**_AXIS, **_day_axis(first, end, margin=0.1), "domain": False, "ticks": False}


def _day_axis(first: date, end: date, *, margin: float = 0.05) -> Spec:
    """Ticks and labels of an axis of days: "12 Mar", "Mar" or "2026", the year once where it is not said already.

    No label stands within `margin` (a share of the axis) of either end, where the unit or the edge of the picture is.
    """
    span = (end - first).days
    ticks = _day_ticks(first, end)
    whole_months = ticks[0].day == 1 and len(ticks) > 1 and span > 6 * 14
    whole_years = span > 8 * 31 * 6
    place = _ms if whole_months or whole_years else _noon
    ticks = [
        day for day in ticks if margin <= (place(day) - _ms(first)) / (span * _DAY_MS) <= 1 - margin
    ] or [first]
    values = [place(day) for day in ticks]
    if whole_years:
        return {"values": values, "labelExpr": "utcFormat(datum.value, '%Y')"}
    years = [place(day) for i, day in enumerate(ticks) if i == 0 or day.year != ticks[i - 1].year]
    label, year = (
        f"utcFormat(datum.value, '{'%b' if whole_months else '%-d %b'}')",
        "utcFormat(datum.value, '%Y')",
    )
    return {
        "values": values,
        "labelExpr": f"indexof({years}, datum.value) >= 0 ? [{label}, {year}] : {label}",
    }


def _day_ticks(first: date, end: date) -> list[date]:
    """Some 4 to 6 days to label between the two: Mondays, firsts of months, Januaries, as the span asks."""
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
class _Plot:
    """Days along the bottom (a day spans midnight to midnight, UTC), USD up the side."""

    first: date
    end: date
    y: _Scale | _DateScale

    left = property(lambda self: _ms(self.first))
    right = property(lambda self: max(_ms(self.end), _ms(self.first) + _DAY_MS))
    width = WIDTH - _LEFT - _RIGHT

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
        return [_text([-_LEFT + 6, -14], y_title), _text([-_LEFT + 6, HEIGHT + 17], "UTC day")]

    def view(self, layers: Sequence[Spec], legend: Sequence[_Entry]) -> Spec:
        return _view(layers, legend=legend)

    def _x(self) -> Spec:
        scale = {"domain": [self.left, self.right], "nice": False, "zero": False}
        return {"scale": scale, "axis": {**_AXIS, "grid": False, **_day_axis(self.first, self.end)}}

    def _y(self) -> Spec:
        scale = {"domain": [self.y.low, self.y.high], "nice": False, "zero": False}
        return {"scale": scale, "axis": self.y.axis()}


@dataclass(frozen=True)
class _Rungs:
    """Bars to the right from zero, one rung per row from the top; the scale is in per cent unless labelled otherwise."""

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
        """Each row's words right of its x."""
        spec = self._layer(
            values, {"type": "text", "baseline": "middle", "align": "left", "dx": 7, **_LETTERS}
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

    def view(self, layers: Sequence[Spec], legend: Sequence["_Entry"]) -> Spec:
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


def _text(at: Sequence[float], words: str, *, align: str = "left", ink: str = "muted") -> Spec:
    """Words at a place in pixels from the plot's upper left corner."""
    mark = {"type": "text", "align": align, "baseline": "middle", "fill": Ink(ink), **_LETTERS}
    value = {"px": at[0], "py": at[1], "t": words}
    return {
        "data": {"values": [value]},
        "mark": {**mark, "x": {"expr": "datum.px"}, "y": {"expr": "datum.py"}},
        "encoding": {"text": {"field": "t", "type": "nominal"}},
    }


def _legend(entries: Sequence[_Entry], top: float) -> tuple[list[Spec], int]:
    """Swatches and labels from `top` on, in as many columns as fit; their layers and their height in px."""
    if not entries:
        return [], 0
    room = WIDTH - 14
    column = 28 + max(len(label) for _, _, label in entries) * _LETTER_PX
    columns = max(1, min(len(entries), int(room // column)))
    layers = []
    for number, (kind, style, label) in enumerate(entries):
        px = number % columns * room / columns + 8 - _LEFT
        py = top + 10 + number // columns * _LEGEND_ROW
        layers += [_swatch(kind, style, px, py), _text([px + 22, py], label, ink="ink")]
    return layers, math.ceil(len(entries) / columns) * _LEGEND_ROW + 4


def _swatch(kind: str, style: Spec, px: float, py: float) -> Spec:
    marks: dict[str, tuple[Spec, dict[str, float]]] = {
        "bar": ({"type": "rect"}, {"x": px + 2, "x2": px + 14, "y": py - 6, "y2": py + 6}),
        "line": ({"type": "rule", "strokeWidth": 2}, {"x": px, "x2": px + 16, "y": py}),
        "span": ({"type": "rule", "strokeWidth": 5}, {"x": px, "x2": px + 16, "y": py}),
        "point": ({"type": "point", **_POINT}, {"x": px + 8, "y": py}),
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
    legend: Sequence[_Entry] = (),
) -> Spec:
    """All layers in one plot of a fixed place, so that charts beside each other line up."""
    below, legend_px = _legend(legend, height + bottom)
    return {
        "$schema": "https://vega.github.io/schema/vega-lite/v6.json",
        "width": WIDTH - _LEFT - _RIGHT,
        "height": height,
        "autosize": {"type": "none"},
        "padding": {"left": _LEFT, "right": _RIGHT, "top": top, "bottom": bottom + legend_px},
        "background": None,
        "config": {"aria": False, "view": {"stroke": None}},
        "layer": [*layers, *below],
    }


# ---------------------------------------------------------------- values


def _rows(frame: Frame) -> list[Row]:
    records = frame.to_dict("records") if hasattr(frame, "to_dict") else frame
    return [{str(key): _value(value) for key, value in row.items()} for row in records]


def _value(value: Any) -> Any:
    """What DuckDB and pandas hand over, as date, naive UTC datetime, number, text or None."""
    if value is None or value != value or type(value).__name__ in ("NaTType", "NAType"):
        return None
    return value.to_pydatetime() if hasattr(value, "to_pydatetime") else value


def _by_day(frame: Frame, column: str) -> list[Row]:
    """The rows with a day in `column`, as dates, oldest first."""
    rows = []
    for row in _rows(frame):
        day = row.get(column)
        if isinstance(day, datetime):
            row = {**row, column: day.date()}
        if day is not None:
            rows.append(row)
    return sorted(rows, key=lambda row: row[column])


def _number(value: Any) -> float | None:
    """Drawing needs no more than a float; null, NaN and infinity are nothing to draw."""
    number = None if value is None else float(value)
    return number if number is not None and math.isfinite(number) else None


def _noon(day: date) -> float:
    return _ms(day) + _DAY_MS / 2


def _ms(day: date) -> int:
    return (day - date(1970, 1, 1)).days * _DAY_MS


def _instant_ms(at: datetime) -> float:
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1000


def _short(amount: Decimal) -> str:
    return wording.usd(amount, signed=True).removesuffix(".00")


def _s(number: int) -> str:
    return "" if number == 1 else "s"


def _days(number: int) -> str:
    return f"{number} day is" if number == 1 else f"{number} days are"
