"""Charts of an account: how each looks is in `charts/<name>.vl.json`, its rows come from `charts/<name>.sql`, and what
it says in words, also where there is nothing to draw, from `charts/words.txt.j2`.

Here is what depends on the width of the picture. Money is in USD, days are UTC days.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date, datetime, time, timedelta
from typing import Any

from credits_pipeline import wording
from credits_pipeline.report.drawing import FOLDER, PLOT_WIDTH, WIDTH, Chart
from credits_pipeline.warehouse import Connection, fetch_dicts

Row = dict[str, Any]

WORDS = FOLDER / "words.txt.j2"
DAY, DAY_MS = timedelta(days=1), 86_400_000
LETTER_PX = 8  # on average, in the widest of the usual fonts
STACK_COLOURS = ("m0", "m1", "m2", "m3", "billed", "m5")
QUANTILES = ("run_out_p10", "run_out_p50", "run_out_p90")
# In the order of the legend.
KINDS = (
    "Measured", "As billed", "Estimate", "Latest day, so far", "Unknown", "Top-up", "Refund, transfer or expiry",
    "Correction",
)  # fmt: skip
# Which days an axis may label, from every day to every hundredth January: the first that labels few enough.
LABELLED: Sequence[Callable[[date], bool]] = (
    *(lambda day, step=step: day.toordinal() % step == 0 for step in (1, 2, 3)),
    *(lambda day, step=step: day.toordinal() % step == 1 for step in (7, 14)),  # Mondays
    *(lambda day, step=step: day.day == 1 and (day.month - 1) % step == 0 for step in (1, 2, 3, 6)),
    *(lambda day, step=step: day.day == day.month == 1 and day.year % step == 0 for step in (1, 2, 5, 10, 20, 100)),
)  # fmt: skip


def of_account(con: Connection, name: str, account: str) -> Chart:
    """The chart `name` of an account, from the marts of `con`."""
    (row,) = fetch_dicts(con, FOLDER / f"{name}.sql", {"account": account})
    found = {key: value if value is not None else [] for key, value in row.items()}
    file, needed, drawn = CHARTS[name]
    rows, params = drawn(found) if found[needed] else ({}, {})  # which adds what the words need
    words = wording.say(file, found, file=WORDS)
    return Chart(words, file, rows, params) if rows else Chart(words)


Drawn = tuple[Row, Row]
"""The rows of a Vega-Lite file (none: there is nothing to draw) and its parameters."""


def daily_spend(found: Row) -> Drawn:
    """Measured days are filled, billed ones filled in a lighter blue, estimates hollow and dashed, the day that is not
    over hollow, unknown ones a grey band. What lowers the balance points down.
    """
    days, end = found["spend"], found["spend"][-1]["spend_date"] + DAY
    events = _with_labels(found["events"], days[0]["spend_date"], end)
    kinds = {row["kind"] for row in (*days, *events)}
    params = {"headroom": 26 if events else 6, "top": None if any(row["spend_usd"] for row in days) else 1}
    params |= {**day_axis(days[0]["spend_date"], end), **legend([kind for kind in KINDS if kind in kinds])}
    return {"spend": days, "events": events}, params


def balance(found: Row) -> Drawn:
    """The run-out interval is marked on the zero line; days with an unknown balance are gaps, estimates dashed."""
    past, fan, runway = found["past"], found["fan"], found["runway"]
    interval = []
    if fan and runway["run_out_p10"]:
        label = wording.say("run_out_interval", runway, file=WORDS)
        interval = [{key: runway[key] for key in QUANTILES} | {"label": label}]
    is_estimated = any(row["is_estimated"] and row["balance_usd"] is not None for row in past)
    shown = ["Balance", *["Estimate"] * is_estimated, *["Forecast, 80 % sure", "Forecast, median"] * bool(fan)]
    shown += ["Runs out, 80 % sure"] * len(interval)
    params = {"room": 28 if interval else 0, "top": None if any(row["balance_usd"] for row in past) else 1}
    params |= {**day_axis(past[0]["balance_date"], found["end"]), **legend(shown)}
    return {"past": past, "fan": fan, "interval": interval}, params


def stacked(found: Row) -> Drawn:
    """Who or what spent; a name keeps its colour as long as no other on the chart has the same one."""
    parts, largest, rest, unit = found["parts"], found["largest"], found["others"], found["unit"]
    of = found["of"] = wording.member(found.get("dimension", "model") or "api_key")
    if not parts:
        return {}, {}
    kinds = found["kinds"] = [*_names(largest, f"other {of}s"), *[f"other {of}s"] * bool(rest)]
    end = parts[-1]["to"]
    params = {
        "unit": f"USD per UTC {unit}" + (", the latest one not over" if end - found["last"] > DAY else ""),
        "colours": [f"var(--c-{colour})" for colour in (*_colours(largest).values(), *["other"] * bool(rest))],
    }
    params |= {**day_axis(parts[0]["from"], end), **legend(kinds)}
    return {"parts": [part | {"kind": kinds[part["place"]]} for part in parts]}, params


def run_out_history(found: Row) -> Drawn:
    nights = found["nights"]
    dates = [night[key] for night in nights for key in (*QUANTILES, "used_up_date") if night[key] is not None]
    room = max((max(dates) - min(dates)) * 0.06, DAY)
    side = day_axis(min(dates) - room, max(dates) + DAY + room, margin=0.1, most=3)
    shown = ["Predicted, 80 % sure", "Predicted, median", *["Actually used up"] * bool(found["checked"])]
    params = {"dates": side["span"], "dates_shown": side["days"], "dates_labels": side["labels"]}
    params |= {**day_axis(nights[0]["as_of_date"], nights[-1]["as_of_date"] + DAY), **legend(shown)}
    return {"nights": nights}, params


def interval_coverage(found: Row) -> Drawn:
    for check in found["checks"]:
        check["label"] = f"{wording.percent(check['coverage_80'])} of {wording.count(check['replays'])}"
    return {"checks": found["checks"]}, {}


def forecast_loss(found: Row) -> Drawn:
    losses = found["losses"]
    for loss in losses:
        loss["label"] = wording.usd(loss["loss_usd"])
    most = float(max(loss["loss_usd"] for loss in losses)) or 1
    room = max(len(loss["label"]) * LETTER_PX + 10 for loss in losses)
    return {"losses": losses}, {"most": most * PLOT_WIDTH / (PLOT_WIDTH - room)}


# In the order of the page: the Vega-Lite file, without which of its query's columns there is nothing to draw, the rest.
CHARTS: Mapping[str, tuple[str, str, Callable[[Row], Drawn]]] = {
    "balance": ("balance", "past", balance),
    "daily_spend": ("daily_spend", "highest", daily_spend),
    "spend_by_member": ("stacked", "unit", stacked),
    "spend_by_model": ("stacked", "unit", stacked),
    "run_out_history": ("run_out_history", "nights", run_out_history),
    "interval_coverage": ("interval_coverage", "checks", interval_coverage),
    "forecast_loss": ("forecast_loss", "losses", forecast_loss),
}


# ---------------------------------------------------------------- parts of the charts


def legend(kinds: Sequence[str]) -> Row:
    columns = WIDTH // (36 + max(map(len, kinds)) * LETTER_PX)
    return {"kinds": kinds, "columns": max(1, min(len(kinds), columns))}


def day_axis(first: date, end: date, *, margin: float = 0.08, most: int = 5) -> Row:
    """An axis of days: its ends, and the days to label, "12 Mar", "Mar" or "2026", the year once where it is not said.

    There is no label in the `margin` at either end, where the unit or the edge of the picture is.
    """
    span = (end - first).days
    inner = [first + n * DAY for n in range(span) if margin <= (n + 0.5) / span <= 1 - margin] or [first]
    ticks = next(found for rule in LABELLED if 0 < len(found := [day for day in inner if rule(day)]) <= most)
    by_month = len(ticks) > 1 and all(day.day == 1 for day in ticks)
    by_year = by_month and all(day.month == 1 for day in ticks)
    labels: list[Any] = []
    for before, day in zip([None, *ticks], ticks, strict=False):
        label = wording.day(day, year=False).split()[-1] if by_month else wording.day(day, year=False)
        new = before is None or before.year != day.year
        labels.append(str(day.year) if by_year else [label, str(day.year)] if new else label)
    noon = 0 if by_month else DAY_MS // 2
    return {"span": [_ms(first), _ms(end)], "days": [_ms(day) + noon for day in ticks], "labels": labels}


def _ms(day: date) -> int:
    return (day - date(1970, 1, 1)).days * DAY_MS


def _with_labels(events: Sequence[Row], first: date, end: date) -> list[Row]:
    """The events with their amounts, each on the side where there is room between the two midnights, or nowhere."""
    midnight = datetime.combine(first, time())
    places = [(event["at"] - midnight) / (end - first) * PLOT_WIDTH for event in events]
    labelled, free = [], 0.0
    for event, px, following in zip(events, places, [*places[1:], PLOT_WIDTH + 8], strict=False):
        label = wording.usd(event["effect_usd"], signed=True).removesuffix(".00")
        wide = len(label) * LETTER_PX + 13
        align = "left" if px + wide <= following - 8 else "right"
        has_room = align == "left" or px - wide >= free
        labelled.append(event | {"align": align, "label": label if has_room else ""})
        free = px + (wide if align == "left" else 8)
    return labelled


def _colours(stacked: Iterable[str]) -> dict[str, str]:
    """A colour per name from that name alone; where two collide, the later name takes the next free one."""
    taken: dict[str, str] = {}
    for name in sorted(stacked):
        wanted = hashlib.sha256(name.encode("utf-8", "replace")).digest()[0] % len(STACK_COLOURS)
        colours = (*STACK_COLOURS[wanted:], *STACK_COLOURS[:wanted])
        taken[name] = next(colour for colour in colours if colour not in taken.values())
    return {name: taken[name] for name in stacked}


def _names(stacked: Iterable[str], other: str) -> list[str]:
    """Names to show; two that look the same after cleaning get a number."""
    shown: list[str] = []
    for one in stacked:
        name = wording.name(one, longest=36)
        numbered = (name, *(f"{name} ({number})" for number in range(2, 9)))
        shown.append(next(free for free in numbered if free not in (*shown, other)))
    return shown
