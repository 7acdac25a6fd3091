"""Charts of the marts: which rows, dates and words each one shows. How it looks is in `charts/<name>.vl.json`.

Every function takes the rows of ONE account as dicts with the marts' columns, in any order. Money is in USD, days are
UTC days. With nothing to draw, a chart is one plain sentence.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date, datetime, time
from typing import Any, TypeAlias

from credits_pipeline import wording
from credits_pipeline.report.axes import DAY, LETTER_PX, day_axis, legend
from credits_pipeline.report.drawing import PLOT_WIDTH, Chart

Row: TypeAlias = Mapping[str, Any]

# More days than this make bars thinner than 5 px: hollow and filled ones look the same.
SPEND_DAYS = 60
BALANCE_DAYS = (45, 365)
OTHER = "other models"
MODEL_COLOURS = ("m0", "m1", "m2", "m3", "billed", "m5")
QUANTILES = ("run_out_p10", "run_out_p50", "run_out_p90")

KINDS = {"observed": "Measured", "billed": "As billed", "interpolated": "Estimate"}
RUNNING, UNKNOWN_DAY = "Latest day, so far", "Unknown"
EVENTS = {
    "top_up": "Top-up",
    "credit_decrease": "Refund, transfer or expiry",
    "usage_correction": "Correction",
}


def daily_spend(spend: Iterable[Row], events: Iterable[Row] = ()) -> Chart:
    """Spend per UTC day from `daily_spend`, the newest 60 of it, with `credit_events` marked above.

    Measured days are filled, billed ones filled in a lighter blue, estimates hollow and dashed, the day that is not
    over hollow, unknown ones a grey band. What lowers the balance points down.
    """
    rows = _by_day(spend, "spend_date")[-SPEND_DAYS:]
    known = [row for row in rows if row["spend_usd"] is not None]
    if not known:
        return Chart("No spend is known yet.")
    first, last = rows[0]["spend_date"], rows[-1]["spend_date"]

    def kind(row: Row) -> str:
        if row["spend_usd"] is None:
            return UNKNOWN_DAY
        return RUNNING if row["spend_date"] == last and not row["is_complete"] else KINDS[row["method"]]

    days = [{**_only(row, "spend_date", "spend_usd"), "kind": kind(row)} for row in rows]
    marks = _marks(events, first, last + DAY)
    of_kind = Counter(row["kind"] for row in (*days, *marks))
    top = max(known, key=lambda row: row["spend_usd"])
    words = (
        f"Spend per UTC day from {wording.day(first)} to {wording.day(last)}, in USD. "
        f"The highest day was {wording.day(top['spend_date'])} with {wording.usd(top['spend_usd'])}."
        + _counted(of_kind[KINDS["interpolated"]], "day", "estimated")
        + _counted(of_kind[UNKNOWN_DAY], "day", "unknown")
        + _counted(len(marks), "top-up or correction", "marked", many="top-ups or corrections")
    )
    shown = [kind for kind in (*KINDS.values(), RUNNING, UNKNOWN_DAY, *EVENTS.values()) if of_kind[kind]]
    params = {"headroom": 26 if marks else 6, "top": None if any(row["spend_usd"] for row in known) else 1}
    params |= {**day_axis(first, last + DAY), **legend(shown)}
    return Chart(words, "daily_spend", {"spend": days, "events": marks}, params)


def balance(history: Iterable[Row], forecast: Iterable[Row] = (), runway: Row | None = None) -> Chart:
    """The balance at the close of each UTC day (`daily_balance`) running into the fan of `balance_forecast`.

    `runway` is the account's row of `credits_runway`: its run-out interval is marked on the zero line, and there is no
    fan where its status gives no date. Days with an unknown balance are gaps, estimated stretches dashed. The fan stops
    at zero: below it there is nothing to spend. On the first day, when no close is known, the newest reading is drawn.
    """
    runway, fan = runway or {}, _fan(forecast, runway or {})
    closes = past = _known_span(_by_day(history, "balance_date"))
    if not past and runway.get("balance_usd") is not None:
        at = fan[0]["forecast_date"] if fan else runway["as_of"].date() - DAY
        past = [{"balance_date": at, "balance_usd": fan[0]["balance_p50"] if fan else runway["balance_usd"]}]
    if not past:
        return Chart("No balance is known yet.")
    last: date = past[-1]["balance_date"]
    end = fan[-1]["forecast_date"] + DAY if fan else last + DAY
    back = min(max(2 * (end - last - DAY).days, BALANCE_DAYS[0]), BALANCE_DAYS[1])
    past = _known_span([row for row in past if row["balance_date"] > last - back * DAY])
    first = past[0]["balance_date"]
    interval = _interval(runway) if fan else []
    words = f"Balance in USD: {wording.usd(runway.get('balance_usd'))} at the latest reading."
    if closes:
        words = (
            f"Balance in USD at the end of each UTC day from {wording.day(first)}: "
            f"{wording.usd(past[-1]['balance_usd'])} at the end of {wording.day(last)}."
        )
    if fan:
        answer = wording.answer(runway)
        words += f" The forecast continues from there. {answer.headline} {answer.detail}"
    estimates = [row for row in past if row.get("is_estimated") and row["balance_usd"] is not None]
    shown = [
        "Balance",
        *["Estimate"] * bool(estimates),
        *["Forecast, 80 % sure", "Forecast, median"] * bool(fan),
    ]
    rows: dict[str, list[Row]] = {
        "past": [_only(row, "balance_date", "balance_usd", "is_estimated") for row in past],
        "fan": [_only(row, "forecast_date", "balance_p10", "balance_p50", "balance_p90") for row in fan],
        "interval": interval,
    }
    shown += ["Runs out, 80 % sure"] * len(interval)
    params = {"room": 28 if interval else 0, "top": None if any(row["balance_usd"] for row in past) else 1}
    params |= {**day_axis(first, end), **legend(shown)}
    return Chart(words, "balance", rows, params)


def spend_by_model(rows: Iterable[Row]) -> Chart:
    """Spend by model from `daily_spend_by_model`, stacked: the six largest of the span, the rest as "other models".

    Per day up to 60 days, per week (from Monday) up to two years, per month beyond. A model keeps its colour as long
    as no other model on the chart has the same one.
    """
    spent = [row for row in _by_day(rows, "spend_date") if row["spend_usd"]]
    if not spent:
        return Chart("No spend by model is known yet.")
    first, last = spent[0]["spend_date"], spent[-1]["spend_date"]
    totals: Counter[str] = Counter()
    for row in spent:
        totals[row["model"]] += row["spend_usd"]
    largest = sorted(totals, key=lambda model: (-totals[model], model))[: len(MODEL_COLOURS)]
    names, colours, rest = _names(largest), _model_colours(largest), len(totals) - len(largest)
    unit, period = _period((last - first).days + 1)
    parts = []
    for row in spent:
        start, stop = period(row["spend_date"])
        kind = names.get(row["model"], OTHER)
        place = list(names).index(row["model"]) if row["model"] in names else len(names)
        parts.append({"from": start, "to": stop, "kind": kind, "place": place, "spend_usd": row["spend_usd"]})
    whole = sum(totals.values())
    share = f" with {wording.percent(totals[largest[0]] / whole)} of it" if whole > 0 else ""
    words = (
        f"Spend in USD per {unit}, by model, from {wording.day(first)} to {wording.day(last)}. "
        f"The largest is {names[largest[0]]}{share}.{_counted(rest, 'smaller model', 'grouped together')}"
    )
    end, others = period(last)[1], [OTHER] * bool(rest)
    params = {
        "unit": f"USD per {unit}" + (", the latest one not over" if end - last > DAY else ""),
        "colours": [f"var(--c-{colour})" for colour in (*colours.values(), *["other"] * len(others))],
    }
    params |= {**day_axis(period(first)[0], end), **legend([*names.values(), *others])}
    return Chart(words, "spend_by_model", {"parts": parts}, params)


def run_out_history(history: Iterable[Row], runway: Row | None = None) -> Chart:
    """Which run-out date was predicted on which day (`runway_history`), beside what happened (`used_up_date`).

    What happened is the day by which spend had used up the balance as it was on the day of the prediction: later
    top-ups do not matter to it. A night that began with nothing left predicted nothing.
    """
    nights = [row for row in _by_day(history, "as_of_date") if row["balance_usd"] > 0]
    if not any(row["run_out_p10"] for row in nights):
        beyond = nights and runway and runway["status"] == "ok"
        every = "Every prediction so far: longer than a year."
        return Chart(every if beyond else "No earlier predictions yet: each night adds one.")
    rows = [_only(row, "as_of_date", *QUANTILES, "used_up_date") for row in nights if row["run_out_p10"]]
    for before, row in zip([None, *rows], rows, strict=False):
        follows = before and row["as_of_date"] - before["as_of_date"] == DAY
        row["run"] = (before["run"] if before else 0) + (not follows)
    dates = [row[key] for row in rows for key in (*QUANTILES, "used_up_date") if row[key] is not None]
    room = max((max(dates) - min(dates)) * 0.06, DAY)
    side = day_axis(min(dates) - room, max(dates) + DAY + room, margin=0.1, most=3)
    first, last = rows[0]["as_of_date"], rows[-1]["as_of_date"]
    shown = ["Predicted, 80 % sure", "Predicted, median"]
    shown += ["Actually used up"] * any(row["used_up_date"] for row in rows)
    params = {"dates": side["span"], "dates_shown": side["days"], "dates_labels": side["labels"]}
    params |= {**day_axis(first, last + DAY), **legend(shown)}
    latest = wording.dated({**nights[-1], "days_left_p50": 0}).brief
    words = f"Run-out dates as predicted from {wording.day(first)} to {wording.day(last)}; the latest: {latest}. "
    return Chart(words + _how_true(rows), "run_out_history", {"nights": rows}, params)


def interval_coverage(accuracy: Iterable[Row]) -> Chart:
    """How often actual spend fell inside the 80 % interval (`forecast_accuracy`), per horizon, beside the target."""
    rows = [row for row in sorted(accuracy, key=lambda row: row["horizon_days"]) if row["coverage_80"] is not None]
    if not rows:
        return Chart("No forecast could be checked against what happened yet.")
    checks = [
        {"horizon": f"{row['horizon_days']} days", "coverage_80": row["coverage_80"],
         "label": f"{wording.percent(row['coverage_80'])} of {wording.count(row['replays'])}"}
        for row in rows
    ]  # fmt: skip
    words = " ".join(f"Over {check['horizon']}: {check['label']} replays." for check in checks)
    words = f"How often actual spend fell inside the 80 % interval. {words}"
    return Chart(words, "interval_coverage", {"checks": checks})


def forecast_loss(accuracy: Iterable[Row]) -> Chart:
    """Mean pinball loss in USD per horizon (`forecast_accuracy`), beside that of the plain 7-day mean."""
    kinds = {"pinball_loss_usd": "This forecast", "flat_7d_pinball_loss_usd": "7-day average"}
    losses = [
        {
            "horizon": f"{row['horizon_days']} days",
            "kind": kind,
            "loss_usd": row[key],
            "label": wording.usd(row[key]),
        }
        for row in sorted(accuracy, key=lambda row: row["horizon_days"])
        if all(row[key] is not None for key in kinds)
        for key, kind in kinds.items()
    ]
    if not losses:
        return Chart("No forecast could be checked against what happened yet.")
    most = float(max(loss["loss_usd"] for loss in losses))
    room = max(len(loss["label"]) * LETTER_PX + 10 for loss in losses)
    words = "Mean pinball loss of the forecast, compared with simply repeating the 7-day average. " + " ".join(
        f"Over {one['horizon']}: {one['label']} against {other['label']}."
        for one, other in zip(losses[::2], losses[1::2], strict=True)
    )
    return Chart(words, "forecast_loss", {"losses": losses}, {"most": (most or 1) * PLOT_WIDTH / (PLOT_WIDTH - room)})


# ---------------------------------------------------------------- parts of the charts


def _marks(events: Iterable[Row], first: date, end: date) -> list[dict[str, Any]]:
    """The events between the two midnights, each in the middle of the time in which it happened.

    Its amount stands beside it on the side where there is room, or not at all.
    """
    marks = []
    for row in events:
        at = row["event_at_earliest"] + (row["event_at_latest"] - row["event_at_earliest"]) / 2
        if first <= at.date() < end:
            marks.append({"at": at, "kind": EVENTS[row["kind"]], "label": wording.effect(row).removesuffix(".00")})
    marks.sort(key=lambda mark: (mark["at"], mark["kind"]))
    midnight = datetime.combine(first, time())
    places = [(mark["at"] - midnight) / (end - first) * PLOT_WIDTH for mark in marks]
    free = 0.0
    for mark, px, following in zip(marks, places, [*places[1:], PLOT_WIDTH + 8], strict=False):
        wide = len(mark["label"]) * LETTER_PX + 13
        mark["align"] = "left" if px + wide <= following - 8 else "right"
        if mark["align"] == "right" and px - wide < free:
            mark["label"] = ""
        free = px + (wide if mark["align"] == "left" else 8)
    return marks


def _fan(forecast: Iterable[Row], runway: Row) -> list[Row]:
    """The forecast up to a little past the late end of the run-out interval, from the balance where it starts.

    None where the account has no date: a fan would suggest one all the same.
    """
    rows = _by_day(forecast, "forecast_date")
    if not rows or runway.get("status", "ok") != "ok":
        return []
    start = rows[0]["balance_p50"] + rows[0]["spend_p50"]
    here = {"forecast_date": rows[0]["forecast_date"] - DAY, **{f"balance_p{p}": start for p in (10, 50, 90)}}
    if late := runway.get("run_out_p90"):
        late += max(3, (late - rows[0]["forecast_date"]).days // 8) * DAY
    return [here, *(row for row in rows if late is None or row["forecast_date"] <= late)]


def _interval(runway: Row) -> list[Row]:
    """The run-out interval with its dates in words; it ends beyond a year where its late end is null."""
    early, middle, late = (runway.get(key) for key in QUANTILES)
    if early is None:
        return []
    label = f"{wording.day(early, year=False)} – {wording.day(late) if late else 'beyond a year'}"
    label = f"about {wording.day(middle, year=False)} ({label})" if middle else label
    return [{**_only(runway, *QUANTILES), "label": wording.day(late) if early == late else label}]


def _how_true(nights: Sequence[Row]) -> str:
    checked = [row for row in nights if row["used_up_date"] is not None]
    if not checked:
        return "None of these balances has been used up yet, so none can be checked."
    ends = [(row["run_out_p10"], row["used_up_date"], row["run_out_p90"] or date.max) for row in checked]
    return (
        f"Of {len(nights)} predictions, {len(checked)} can be checked by now; "
        f"for {sum(a <= b <= c for a, b, c in ends)} of them the actual day was inside the interval."
    )


def _period(days: int) -> tuple[str, Callable[[date], tuple[date, date]]]:
    """What to sum that many days by, so that bars stay wide enough: its name; a day's first day and the next one's."""
    if days <= SPEND_DAYS:
        return "UTC day", lambda day: (day, day + DAY)
    if days <= 2 * 366:
        return "UTC week", lambda day: (day - day.weekday() * DAY, day + (7 - day.weekday()) * DAY)
    return "UTC month", lambda day: (day.replace(day=1), (day.replace(day=1) + 32 * DAY).replace(day=1))


def _model_colours(models: Iterable[str]) -> dict[str, str]:
    """A colour per model from its name alone; where two collide, the later name takes the next free one."""
    taken: dict[str, str] = {}
    for model in sorted(models):
        wanted = hashlib.sha256(model.encode("utf-8", "replace")).digest()[0] % len(MODEL_COLOURS)
        colours = (*MODEL_COLOURS[wanted:], *MODEL_COLOURS[:wanted])
        taken[model] = next(colour for colour in colours if colour not in taken.values())
    return {model: taken[model] for model in models}


def _names(models: Iterable[str]) -> dict[str, str]:
    """Names to show; two that look the same after cleaning get a number."""
    shown: dict[str, str] = {}
    for model in models:
        name = wording.name(model, longest=36)
        numbered = (name, *(f"{name} ({number})" for number in range(2, 9)))
        shown[model] = next(one for one in numbered if one not in (*shown.values(), OTHER))
    return shown


def _by_day(rows: Iterable[Row], column: str) -> list[Row]:
    return sorted(rows, key=lambda row: row[column])


def _known_span(past: Sequence[Row]) -> list[Row]:
    """Without the days before the first known balance and after the last one."""
    known = [number for number, row in enumerate(past) if row["balance_usd"] is not None]
    return list(past[known[0] : known[-1] + 1]) if known else []


def _only(row: Row, *columns: str) -> dict[str, Any]:
    return {column: row.get(column) for column in columns}


def _counted(number: int, one: str, what: str, *, many: str | None = None) -> str:
    return f" {number} {one} is {what}." if number == 1 else f" {number} {many or one + 's'} are {what}." * bool(number)
