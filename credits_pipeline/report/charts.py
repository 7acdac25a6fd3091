"""Charts of the marts: rows in, chart out (`drawing` turns it into SVG or PNG).

Every function takes the rows of ONE account, as a pandas DataFrame or as a list of dicts with the marts' columns, in
any order. Money is in USD, days are UTC days. With nothing to draw, a chart is one plain sentence. Things that differ
in meaning differ in shape, outline or dash as well as in colour.
"""

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any, TypeAlias

from credits_pipeline import wording
from credits_pipeline.report.drawing import (
    BAND,
    DAY_MS,
    HEIGHT,
    LETTER_PX,
    LETTERS,
    PLOT_WIDTH,
    POINT,
    Chart,
    DateScale,
    Entry,
    Ink,
    Plot,
    Row,
    Rungs,
    Scale,
    Spec,
    bar,
    css,
    data_uri,
    empty,
    hollow,
    ms,
    noon,
    svg,
    text,
    unit,
)

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "Chart",
    "balance",
    "css",
    "daily_spend",
    "data_uri",
    "empty",
    "forecast_loss",
    "interval_coverage",
    "run_out_history",
    "spend_by_model",
    "svg",
]

Frame: TypeAlias = "pd.DataFrame | Iterable[Row]"

# A bar shorter than this share of the width has no room for its label inside.
_LABEL_SHARE = 0.3
# More days than this make bars thinner than 5 px at this width: hollow and filled ones look the same.
SPEND_DAYS = 60
BALANCE_DAYS = (45, 365)
# Six colours that stay distinct under every common kind of colour blindness, and grey for the rest (Okabe and Ito's,
# darkened until they stand out from white; least CIE76 distance 13 under simulated deuteranopia, theirs 7).
MODELS_SHOWN = 6
OTHER = "other models"


def daily_spend(spend: Frame, events: Frame = (), *, days: int = SPEND_DAYS) -> Chart:
    """Spend per UTC day from `daily_spend`, the newest `days` of it, with `credit_events` marked above.

    Measured days are filled, billed ones filled in a lighter blue, estimates hollow and dashed, the day that is not
    over hollow. A correction of the counter points down.
    """
    rows = _by_day(spend, "spend_date")[-days:]
    known = [row for row in rows if _number(row["spend_usd"]) is not None]
    if not known:
        return empty("No spend is known yet.")
    first, last = rows[0]["spend_date"], rows[-1]["spend_date"]
    bars: dict[str, list[Row]] = {kind: [] for kind in _DAYS}
    for row in known:
        is_running = row["spend_date"] == last and not row.get("is_complete", True)
        bars["running" if is_running else row["method"]].append(_day_bar(row))
    marks = _events(events, first, last)
    heights = [value["y"] for group in bars.values() for value in group]
    plot = Plot(first, last + timedelta(days=1), Scale.over([0.0, *heights], headroom=0.14 if marks else 0))
    layers = plot.axes("USD per UTC day")
    layers += [plot.rects(group, _DAYS[kind][1]) for kind, group in bars.items() if group]
    layers += [plot.zero(), *_event_layers(plot, marks)]
    happened = {mark["kind"] for mark in marks}
    legend: list[Entry] = [("bar", style, label) for kind, (label, style) in _DAYS.items() if bars[kind]]
    legend += [("point", style, label) for kind, (label, style) in _EVENTS.items() if kind in happened]
    top = max(known, key=lambda row: row["spend_usd"])
    estimates = len(bars["interpolated"])
    words = (
        f"Spend per UTC day from {wording.day(first)} to {wording.day(last)}, in USD. "
        f"The highest day was {wording.day(top['spend_date'])} with {wording.usd(top['spend_usd'])}."
        + (f" {_counted(estimates, 'day')} estimated." if estimates else "")
        + (
            f" {_counted(len(marks), 'top-up or correction', 'top-ups or corrections')} marked."
            if marks
            else ""
        )
    )
    return Chart(plot.view(layers, legend), words)


def balance(history: Frame, forecast: Frame = (), runway: Row | None = None) -> Chart:
    """The balance at the close of each UTC day (`daily_balance`) running into the fan of `balance_forecast`.

    `runway` is the account's row of `credits_runway`: its run-out interval is marked on the zero line, and there is no
    fan where its status gives no date. Days with an unknown balance are gaps, estimated stretches dashed. The fan stops
    at zero: below it there is nothing to spend. On the first day, when no close is known, the newest reading is drawn.
    """
    runway = _rows([runway])[0] if runway is not None else None
    fan = _fan(forecast, runway)
    closes = _known_from(
        [(row["balance_date"] + timedelta(days=1), row) for row in _by_day(history, "balance_date")]
    )
    past = closes or _newest_reading(runway, fan)
    if not past:
        return empty("No balance is known yet.")
    ahead = (fan[-1]["forecast_date"] - past[-1][0]).days if fan else 0
    back = min(max(2 * ahead, BALANCE_DAYS[0]), BALANCE_DAYS[1])
    past = _known_from([(at, row) for at, row in past if at > past[-1][0] - timedelta(days=back)])
    known = [row for _, row in past if _number(row["balance_usd"]) is not None]
    values = [_number(row["balance_usd"]) or 0.0 for row in known]
    spread = [max(0.0, _number(row["balance_p90"]) or 0.0) for row in fan]
    end = max([past[-1][0], *(row["forecast_date"] + timedelta(days=1) for row in fan)])
    plot = Plot(
        past[0][1]["balance_date"], end, Scale.over([0.0, *values, *spread], floor_room=0.2 if fan else 0)
    )
    interval = _interval(plot, runway) if fan and runway else []
    layers = plot.axes("USD at the end of each UTC day")
    layers += [*_fan_layers(plot, fan), *_history_layers(plot, past), plot.zero(strong=True), *interval]
    legend: list[Entry] = [("line", {"stroke": Ink("ink")}, "Balance")]
    if any(row.get("is_estimated") for row in known):
        legend.append(("line", {"stroke": Ink("ink"), "strokeDash": [2, 2]}, "Estimate"))
    if fan:
        legend.append(("bar", {"fill": Ink("band")}, "Forecast, 80 % sure"))
        legend.append(("line", _MIDDLE, "Forecast, median"))
    if interval:
        legend.append(("span", {"stroke": Ink("warn")}, "Runs out, 80 % sure"))
    words = (
        f"Balance in USD at the end of each UTC day from {wording.day(known[0]['balance_date'])}: "
        f"{wording.usd(known[-1]['balance_usd'])} at the end of {wording.day(known[-1]['balance_date'])}."
        if closes
        else f"Balance in USD: {wording.usd((runway or {}).get('balance_usd'))} at the latest reading."
    )
    if fan and runway:
        answer = wording.answer(runway)
        words += f" The forecast continues from there. {answer.headline} {answer.detail}"
    return Chart(plot.view(layers, legend), words)


def spend_by_model(rows: Frame) -> Chart:
    """Spend by model from `daily_spend_by_model`, stacked: the six largest of the span, the rest as "other models".

    Per day up to 60 days, per week (from Monday) up to two years, per month beyond. A model keeps its colour as long
    as no other model on the chart has the same one.
    """
    spent = [row for row in _by_day(rows, "spend_date") if _number(row["spend_usd"])]
    if not spent:
        return empty("No spend by model is known yet.")
    first, last = spent[0]["spend_date"], spent[-1]["spend_date"]
    period = _period((last - first).days + 1)
    totals: dict[str, float] = {}
    for row in spent:
        totals[row["model"]] = totals.get(row["model"], 0.0) + float(row["spend_usd"])
    shown = sorted(totals, key=lambda model: (-totals[model], model))[:MODELS_SHOWN]
    colours, names = _model_colours(shown), _names(shown)
    bars, edges = _stacked(spent, [*shown, None], period)
    layered = [
        (
            values,
            {"fill": Ink("other" if model is None else colours[model])},
            OTHER if model is None else names[model],
        )
        for model, values in bars.items()
        if values
    ]
    plot = Plot(period.start(first), period.next(last), Scale.over([0.0, *edges]))
    is_running = period.next(last) - last > timedelta(days=1)
    layers = plot.axes(f"USD per {period.name}" + (", the latest one not over" if is_running else ""))
    layers += [plot.rects(values, {**paint, **_EDGE}) for values, paint, _ in layered]
    legend: list[Entry] = [("bar", paint, label) for _, paint, label in layered]
    whole, rest = sum(totals.values()), len(totals) - len(shown)
    share = f" with {wording.percent(totals[shown[0]] / whole)} of it" if whole > 0 else ""
    words = (
        f"Spend in USD per {period.name}, by model, from {wording.day(first)} to {wording.day(last)}. "
        f"The largest is {names[shown[0]]}{share}."
    ) + (f" {_counted(rest, 'smaller model')} grouped together." if rest else "")
    return Chart(plot.view([*layers, plot.zero()], legend), words)


def run_out_history(history: Frame, spend: Frame = ()) -> Chart:
    """Which run-out date was predicted on which day (`runway_history`), beside what happened (from `daily_spend`).

    What happened is the day by which spend had used up the balance as it was on the day of the prediction: later
    top-ups do not matter to it. For the latest days it is not known yet.
    """
    nights = [row for row in _by_day(history, "as_of_date") if row.get("run_out_p50") is not None]
    if not nights:
        return empty("No earlier predictions yet: each night adds one.")
    came_true = _came_true(nights, _by_day(spend, "spend_date"))
    keys = ("run_out_p10", "run_out_p50", "run_out_p90")
    dates = [ms(row[key]) for row in nights for key in keys if row.get(key) is not None]
    dates += [point["y"] for point in came_true]
    plot = Plot(
        nights[0]["as_of_date"],
        nights[-1]["as_of_date"] + timedelta(days=1),
        DateScale.over(min(dates), max(dates) + DAY_MS),
    )
    layers = plot.axes("Run-out date (UTC day), as predicted on each day below")
    layers += _prediction_layers(plot, nights)
    legend: list[Entry] = [
        ("bar", {"fill": Ink("band")}, "Predicted, 80 % sure"),
        ("line", _MIDDLE, "Predicted, median"),
    ]
    if came_true:
        dot = {"shape": "circle", "fill": Ink("ink")}
        layers.append(plot.layer(came_true, {"type": "point", **POINT, **dot, "size": 16}, "x", "y"))
        legend.append(("point", {**dot, "size": 30}, "Actually used up"))
    newest = nights[-1]
    words = (
        f"Run-out dates as predicted from {wording.day(nights[0]['as_of_date'])} to "
        f"{wording.day(newest['as_of_date'])}; the latest says {wording.day(newest['run_out_p50'])}. "
    ) + _how_true(nights, came_true)
    return Chart(plot.view(layers, legend), words)


def interval_coverage(accuracy: Frame) -> Chart:
    """How often actual spend fell inside the 80 % interval (`forecast_accuracy`), per horizon, beside the target."""
    rows = sorted(_rows(accuracy), key=lambda row: row["horizon_days"])
    rows = [row for row in rows if row["replays"] and _number(row["coverage_80"]) is not None]
    if not rows:
        return empty("No forecast could be checked against what happened yet.")
    values: list[Row] = [
        {
            "row": f"{row['horizon_days']} days",
            "x": float(row["coverage_80"]),
            "x2": 0.0,
            "t": f"{wording.percent(row['coverage_80'])} of {wording.count(row['replays'])}",
        }
        for row in rows
    ]
    rungs = Rungs([value["row"] for value in values], 1.04, (0.0, 0.2, 0.4, 0.6, 0.8, 1.0))
    inside = [{**value, "x": 0.0} for value in values if value["x"] >= _LABEL_SHARE]
    layers = [
        rungs.bars(values, bar("spend"), room=0.55),
        rungs.labels(inside, ink="paper"),
        rungs.labels([value for value in values if value["x"] < _LABEL_SHARE]),
        rungs.rule(0.8, {"stroke": Ink("warn"), "strokeWidth": 2, "strokeDash": [5, 3]}),
        unit("Past forecasts that were right (%)"),
    ]
    legend: list[Entry] = [
        ("bar", bar("spend"), "Replayed forecasts"),
        ("line", {"stroke": Ink("warn"), "strokeDash": [5, 3]}, "Target: 80 %"),
    ]
    words = "How often actual spend fell inside the 80 % interval. " + " ".join(
        f"Over {row['horizon_days']} days: {wording.percent(row['coverage_80'])} of {row['replays']} replays."
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
    room = max(len(label) * LETTER_PX + 10 for loss, label in losses if loss > most / 2 or not most)
    scale = Scale.over([0.0, most], headroom=room / (PLOT_WIDTH - room))
    rungs = Rungs([f"{row['horizon_days']} days" for row in rows], scale.high, scale.ticks, scale.labels)
    layers = [unit("Mean pinball loss in USD: lower is better")]
    styles = {keys[0]: bar("spend"), keys[1]: hollow("estimate", [2.5, 1.5])}
    for key, shift in zip(keys, (-0.5, 0.5), strict=True):
        values = [
            {
                "row": f"{row['horizon_days']} days",
                "x": _number(row[key]),
                "x2": 0.0,
                "t": wording.usd(row[key]),
            }
            for row in rows
        ]
        layers += [rungs.bars(values, styles[key], room=0.3, shift=shift), rungs.labels(values, shift=shift)]
    legend: list[Entry] = [
        ("bar", styles[keys[0]], "This forecast"),
        ("bar", styles[keys[1]], "7-day average"),
    ]
    words = (
        "Mean pinball loss of the forecast, compared with simply repeating the 7-day average. "
        + " ".join(
            f"Over {row['horizon_days']} days: {wording.usd(row[keys[0]])} against {wording.usd(row[keys[1]])}."
            for row in rows
        )
    )
    return Chart(rungs.view(layers, legend), words)


# ---------------------------------------------------------------- parts of the charts

_DAYS: Mapping[str, tuple[str, Spec]] = {
    "observed": ("Measured", bar("spend")),
    "billed": ("As billed", bar("billed")),
    "interpolated": ("Estimate", hollow("estimate", [2.5, 1.5])),
    "running": ("Latest day, so far", hollow("spend")),
}
_EVENTS: Mapping[str, tuple[str, Spec]] = {
    "top_up": ("Top-up", {"shape": "triangle-up", "fill": Ink("event")}),
    "credit_decrease": ("Refund, transfer or expiry", {"shape": "triangle-down", "fill": Ink("warn")}),
    "usage_correction": ("Correction", {"shape": "diamond", "fill": Ink("warn")}),
}


_MIDDLE: Spec = {"stroke": Ink("spend"), "strokeDash": [6, 3]}
_EDGE: Spec = {"stroke": Ink("paper"), "strokeWidth": 0.6}


def _day_bar(row: Row) -> Row:
    start = ms(row["spend_date"])
    return {"x": start + 0.1 * DAY_MS, "x2": start + 0.9 * DAY_MS, "y": _number(row["spend_usd"]), "y2": 0}


def _events(events: Frame, first: date, last: date) -> list[Row]:
    """The events between the two days, each in the middle of the time in which it happened."""
    low, high = ms(first), ms(last) + DAY_MS
    found = []
    for row in _rows(events):
        at = (_instant_ms(row["event_at_earliest"]) + _instant_ms(row["event_at_latest"])) / 2
        if low <= at <= high and row["kind"] in _EVENTS:
            found.append({"x": at, "kind": row["kind"], "label": _short(row["amount_usd"])})
    return sorted(found, key=lambda row: (row["x"], row["kind"]))


def _event_layers(plot: Plot, marks: Sequence[Row]) -> list[Spec]:
    """A shape above the bars and a thin line down to its day, with the amount beside it where there is room."""
    layers = []
    for kind, (_, style) in _EVENTS.items():
        values = [{"x": row["x"]} for row in marks if row["kind"] == kind]
        if values:
            thread = {"type": "rule", "stroke": style["fill"], "strokeDash": [1, 2], "y": 12, "y2": HEIGHT}
            layers.append(plot.layer(values, thread, "x"))
            layers.append(plot.layer(values, {"type": "point", "y": 7, **POINT, **style}, "x"))
    places = [plot.share(row["x"]) * PLOT_WIDTH for row in marks]
    taken = [(px - 8, px + 8) for px in places]
    for px, row in zip(places, marks, strict=True):
        wide = len(row["label"]) * LETTER_PX + 4
        for left, align in ((px + 9, "left"), (px - 9 - wide, "right")):
            free = all(left + wide < start or end < left for start, end in taken)
            if free and left >= 0 and left + wide <= PLOT_WIDTH:
                taken.append((left, left + wide))
                layers.append(
                    text((px + (9 if align == "left" else -9), 8), row["label"], align=align, ink="ink")
                )
                break
    return layers


def _fan(forecast: Frame, runway: Row | None) -> list[Row]:
    """The forecast up to a little past the late end of the run-out interval, a year at most.

    None where the account has no date: a fan would suggest one all the same.
    """
    if runway is not None and runway.get("status", "ok") != "ok":
        return []
    rows = [row for row in _by_day(forecast, "forecast_date") if _number(row["balance_p50"]) is not None]
    late = (runway or {}).get("run_out_p90")
    if not rows or late is None:
        return rows
    room = max(3, (late - rows[0]["forecast_date"]).days // 8)
    return [row for row in rows if row["forecast_date"] <= late + timedelta(days=room)]


def _fan_layers(plot: Plot, fan: Sequence[Row]) -> list[Spec]:
    if not fan:
        return []
    start = _start(fan)
    values = [{"x": ms(fan[0]["forecast_date"]), "y": start, "y2": start, "m": start}]
    values += [
        {
            "x": ms(row["forecast_date"]) + DAY_MS,
            "y": max(0.0, _number(row["balance_p90"]) or 0.0),
            "y2": max(0.0, _number(row["balance_p10"]) or 0.0),
            "m": max(0.0, _number(row["balance_p50"]) or 0.0),
        }
        for row in fan
    ]
    for value in values:
        value["y"], value["y2"] = max(value["y"], value["y2"]), min(value["y"], value["y2"])
    middle = [{"x": value["x"], "y": value["m"]} for value in values]
    return [
        plot.layer(values, {"type": "area", **BAND, "clip": True}, "x", "y", "y2"),
        plot.layer(middle, {"type": "line", **_MIDDLE, "strokeWidth": 1.8, "clip": True}, "x", "y"),
    ]


def _known_from(past: Sequence[tuple[date, Row]]) -> list[tuple[date, Row]]:
    """Without the days before the first known balance and after the last one."""
    known = [number for number, (_, row) in enumerate(past) if _number(row["balance_usd"]) is not None]
    return list(past[known[0] : known[-1] + 1]) if known else []


def _newest_reading(runway: Row | None, fan: Sequence[Row]) -> list[tuple[date, Row]]:
    """What the balance must have been at the close before the newest reading: where the fan begins, if there is one."""
    if runway is None or _number(runway["balance_usd"]) is None:
        return []
    today = runway["as_of"].date()
    at, balance = (fan[0]["forecast_date"], _start(fan)) if fan else (today, runway["balance_usd"])
    return [(at, {"balance_date": at - timedelta(days=1), "balance_usd": balance})]


def _start(fan: Sequence[Row]) -> float:
    """The balance from which the fan starts."""
    return max(0.0, (_number(fan[0]["balance_p50"]) or 0.0) + (_number(fan[0].get("spend_p50")) or 0.0))


def _history_layers(plot: Plot, past: Sequence[tuple[date, Row]]) -> list[Spec]:
    """Lines between neighbouring known closes, dashed where either is an estimate; a lone close is a dot."""
    dot = {"type": "point", "shape": "circle", **POINT, "size": 30, "fill": Ink("ink")}
    runs: list[tuple[bool, list[Row]]] = []
    before: tuple[date, Row] | None = None
    for at, row in past:
        if _number(row["balance_usd"]) is None:
            before = None
            continue
        here = {"x": ms(at), "y": _number(row["balance_usd"])}
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


def _prediction_layers(plot: Plot, nights: Sequence[Row]) -> list[Spec]:
    """Band and median of the predicted dates; what lies beyond the forecast's horizon ends at the edge of the plot."""
    band: list[Row] = []
    middle: list[Row] = []
    runs = _runs([(row["as_of_date"], row) for row in nights])
    for number, run in enumerate(runs):
        for day, row in run:
            early, late = row.get("run_out_p10"), row.get("run_out_p90")
            ends = {"y": ms(late) if late else plot.y.high, "y2": ms(early) if early else plot.y.low}
            band.append({"run": number, "x": noon(day), **ends})
            middle.append({"run": number, "x": noon(day), "y": ms(row["run_out_p50"])})
    alone = {number for number, run in enumerate(runs) if len(run) == 1}
    bars = [value for value in band if value["run"] in alone]
    dots = [value for value in middle if value["run"] in alone]
    layers = [
        plot.layer(band, {"type": "area", **BAND}, "x", "y", "y2", detail="run"),
        plot.layer(middle, {"type": "line", **_MIDDLE, "strokeWidth": 1.8}, "x", "y", detail="run"),
    ]
    if alone:
        thick = {"type": "rule", "stroke": Ink("band"), "strokeWidth": 6}
        layers.append(plot.layer(bars, thick, "x", "y", "y2"))
        layers.append(
            plot.layer(dots, {"type": "point", **POINT, "size": 30, "fill": Ink("spend")}, "x", "y")
        )
    return layers


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
    """For each night whose balance has been used up since: the day on which it was."""
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
                points.append({"x": noon(night["as_of_date"]), "y": ms(day), "inside": inside})
                break
    return points


def _within(day: date, night: Row) -> bool:
    early, late = night.get("run_out_p10"), night.get("run_out_p90")
    return (early is None or early <= day) and (late is None or day <= late)


def _how_true(nights: Sequence[Row], came_true: Sequence[Row]) -> str:
    if not came_true:
        return "None of these balances has been used up yet, so none can be checked."
    inside = sum(point["inside"] for point in came_true)
    return (
        f"Of {len(nights)} predictions, {len(came_true)} can be checked by now; "
        f"for {inside} of them the actual day was inside the interval."
    )


def _interval(plot: Plot, runway: Row) -> list[Spec]:
    """The run-out interval as a bar on the zero line with its dates below; open at the right when beyond a year."""
    early, middle, late = (runway.get(f"run_out_p{p}") for p in (10, 50, 90))
    if early is None:
        return []
    left, right = ms(early), ms(late) + DAY_MS if late is not None else plot.right
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
        point = {"type": "point", "shape": "diamond", **POINT, "size": 110}
        style = {**point, "fill": Ink("paper"), "stroke": Ink("warn"), "strokeWidth": 2}
        layers.append(plot.layer([{"x": ms(middle) + DAY_MS / 2, "y": 0}], style, "x", "y"))
    label = f"{wording.day(early, year=False)} – {wording.day(late) if late is not None else 'beyond a year'}"
    if middle is not None:
        label = f"about {wording.day(middle, year=False)} ({label})"
    if late is not None and early == late:
        label = wording.day(late)
    share = plot.share((left + right) / 2)
    room = len(label) * LETTER_PX / 2 / PLOT_WIDTH
    align = "right" if share + room > 1 else "left" if share < room else "center"
    at = {"right": plot.right, "left": plot.left, "center": (left + right) / 2}[align]
    mark = {"type": "text", "align": align, "baseline": "top", "dy": 10, **LETTERS, "fontWeight": "bold"}
    value = {"x": at, "y": 0, "t": label}
    for paint in ({"fill": Ink("paper"), "stroke": Ink("paper"), "strokeWidth": 4}, {"fill": Ink("warn")}):
        layers.append(plot.layer([value], {**mark, **paint}, "x", "y", words="t"))
    return layers


@dataclass(frozen=True)
class _Period:
    """A calendar unit of UTC days: its name, its first day, the first day of the next one."""

    name: str
    start: Callable[[date], date]
    next: Callable[[date], date]


_BY_DAY = _Period("UTC day", lambda day: day, lambda day: day + timedelta(days=1))
_BY_WEEK = _Period(
    "UTC week",
    lambda day: day - timedelta(days=day.weekday()),
    lambda day: day + timedelta(days=7 - day.weekday()),
)
_BY_MONTH = _Period(
    "UTC month",
    lambda day: day.replace(day=1),
    lambda day: (day.replace(day=1) + timedelta(days=32)).replace(day=1),
)


def _period(days: int) -> _Period:
    """What to sum that many days by, so that the bars stay wide enough for their parts to be seen."""
    return _BY_DAY if days <= SPEND_DAYS else _BY_WEEK if days <= 2 * 366 else _BY_MONTH


def _stacked(
    spent: Sequence[Row], order: Sequence[str | None], period: _Period
) -> tuple[dict[str | None, list[Row]], list[float]]:
    """Bars by model, stacked in that order within each period (None: all others), and where the stacks end."""
    amounts: dict[date, dict[str | None, float]] = {}
    for row in spent:
        part = amounts.setdefault(period.start(row["spend_date"]), {})
        model = row["model"] if row["model"] in order else None
        part[model] = part.get(model, 0.0) + float(row["spend_usd"])
    bars: dict[str | None, list[Row]] = {model: [] for model in order}
    edges: list[float] = []
    for begin, part in amounts.items():
        # Corrections stack downwards.
        ends = {True: 0.0, False: 0.0}
        left, width = ms(begin), ms(period.next(begin)) - ms(begin)
        for model in order:
            amount = part.get(model, 0.0)
            base = ends[amount > 0]
            ends[amount > 0] = base + amount
            span = {"x": left + 0.08 * width, "x2": left + 0.92 * width}
            if amount:
                bars[model].append({**span, "y": base + amount, "y2": base})
        edges += ends.values()
    return bars, edges


def _model_colours(models: Iterable[str]) -> dict[str, str]:
    """A colour slot per model from its name alone; where two collide, the later name takes the next free one."""
    taken: dict[str, str] = {}
    for model in sorted(models):
        wanted = hashlib.sha256(model.encode("utf-8", "replace")).digest()[0]
        slots = (f"m{(wanted + step) % MODELS_SHOWN}" for step in range(MODELS_SHOWN))
        taken[model] = next(slot for slot in slots if slot not in taken.values())
    return taken


def _names(models: Iterable[str]) -> dict[str, str]:
    """Names to show; two that look the same after cleaning get a number."""
    shown: dict[str, str] = {}
    for model in models:
        name, number = wording.name(model, longest=36), 1
        while name in shown.values():
            number += 1
            name = f"{wording.name(model, longest=36)} ({number})"
        shown[model] = name
    return shown


# ---------------------------------------------------------------- values


def _rows(frame: Frame) -> list[Row]:
    records = frame.to_dict("records") if hasattr(frame, "to_dict") else frame
    return [{str(key): _value(str(key), value) for key, value in row.items()} for row in records]


def _value(column: str, value: Any) -> Any:
    """What DuckDB and pandas hand over, as date, datetime, number, text or None."""
    if (
        value is None
        or type(value).__name__ in ("NaTType", "NAType")
        or (isinstance(value, float) and value != value)
    ):
        return None
    if isinstance(value, datetime):
        is_day = column.endswith("_date") or column.startswith("run_out_")
        return value.date() if is_day else value
    return value


def _by_day(frame: Frame, column: str) -> list[Row]:
    """The rows with a day in `column`, as dates, oldest first."""
    return sorted((row for row in _rows(frame) if row.get(column) is not None), key=lambda row: row[column])


def _number(value: Any) -> float | None:
    """A float is enough for drawing; null, NaN and infinity cannot be drawn."""
    number = None if value is None else float(value)
    return number if number is not None and math.isfinite(number) else None


def _instant_ms(at: datetime) -> float:
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1000


def _short(amount: Decimal) -> str:
    return wording.usd(amount, signed=True).removesuffix(".00")


def _counted(number: int, one: str, many: str | None = None) -> str:
    return f"{number} {one} is" if number == 1 else f"{number} {many or one + 's'} are"
