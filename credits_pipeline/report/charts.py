"""Charts of an account: how each looks is in `charts/<name>.vl.json`, its rows come from `charts/<name>.sql`.

Here is what depends on the width of the picture, and each chart in words. Money is in USD, days are UTC days. With
nothing to draw, a chart is one plain sentence.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date, datetime, time
from typing import TYPE_CHECKING, Any

from credits_pipeline import wording
from credits_pipeline.report.axes import DAY, LETTER_PX, day_axis, legend
from credits_pipeline.report.drawing import FOLDER, PLOT_WIDTH, Chart
from credits_pipeline.warehouse import fetch_dicts

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection as Connection

Row = dict[str, Any]

STACK_COLOURS = ("m0", "m1", "m2", "m3", "billed", "m5")
QUANTILES = ("run_out_p10", "run_out_p50", "run_out_p90")
# In the order of the legend.
KINDS = (
    "Measured", "As billed", "Estimate", "Latest day, so far", "Unknown", "Top-up", "Refund, transfer or expiry",
    "Correction",
)  # fmt: skip
NOT_CHECKED = "No forecast could be checked against what happened yet."


def of_account(con: "Connection", name: str, account: str) -> Chart:
    """The chart `name` of an account, from the marts of `con`."""
    (row,) = fetch_dicts(con, FOLDER / f"{name}.sql", {"account": account})
    return CHARTS[name]({key: value if value is not None else [] for key, value in row.items()})


def daily_spend(found: Row) -> Chart:
    """Measured days are filled, billed ones filled in a lighter blue, estimates hollow and dashed, the day that is not
    over hollow, unknown ones a grey band. What lowers the balance points down.
    """
    days, highest = found["spend"], found["highest"]
    if not highest:
        return Chart("No spend is known yet.")
    first, last = days[0]["spend_date"], days[-1]["spend_date"]
    events = _with_labels(found["events"], first, last + DAY)
    of_kind = Counter(row["kind"] for row in (*days, *events))
    words = (
        f"Spend per UTC day from {wording.day(first)} to {wording.day(last)}, in USD. "
        f"The highest day was {wording.day(highest['spend_date'])} with {wording.usd(highest['spend_usd'])}."
        + _counted(of_kind["Estimate"], "day", "estimated")
        + _counted(of_kind["Unknown"], "day", "unknown")
        + _counted(len(events), "top-up or correction", "marked", many="top-ups or corrections")
    )
    params = {"headroom": 26 if events else 6, "top": None if any(row["spend_usd"] for row in days) else 1}
    params |= {**day_axis(first, last + DAY), **legend([kind for kind in KINDS if of_kind[kind]])}
    return Chart(words, "daily_spend", {"spend": days, "events": events}, params)


def balance(found: Row) -> Chart:
    """The run-out interval is marked on the zero line; days with an unknown balance are gaps, estimates dashed."""
    past, fan, runway = found["past"], found["fan"], found["runway"]
    if not past:
        return Chart("No balance is known yet.")
    interval = _interval(runway) if fan else []
    words = f"Balance in USD: {wording.usd(runway['balance_usd'])} at the latest reading." if runway else ""
    if found["has_closes"]:
        words = (
            f"Balance in USD at the end of each UTC day from {wording.day(past[0]['balance_date'])}: "
            f"{wording.usd(past[-1]['balance_usd'])} at the end of {wording.day(past[-1]['balance_date'])}."
        )
    if fan:
        answer = wording.answer(runway)
        words += f" The forecast continues from there. {answer.headline} {answer.detail}"
    is_estimated = any(row["is_estimated"] and row["balance_usd"] is not None for row in past)
    shown = ["Balance", *["Estimate"] * is_estimated, *["Forecast, 80 % sure", "Forecast, median"] * bool(fan)]
    shown += ["Runs out, 80 % sure"] * len(interval)
    params = {"room": 28 if interval else 0, "top": None if any(row["balance_usd"] for row in past) else 1}
    params |= {**day_axis(past[0]["balance_date"], found["end"]), **legend(shown)}
    return Chart(words, "balance", {"past": past, "fan": fan, "interval": interval}, params)


def spend_by_model(found: Row) -> Chart:
    return _stacked(found, "model")


def spend_by_member(found: Row) -> Chart:
    return _stacked(found, wording.member(found["dimension"] or "api_key"))


def _stacked(found: Row, of: str) -> Chart:
    """Who or what spent; a name keeps its colour as long as no other on the chart has the same one."""
    parts, largest, rest, unit = found["parts"], found["largest"], found["others"], found["unit"]
    if not parts:
        return Chart(f"No spend by {of} is known yet.")
    other = f"other {of}s"
    names, colours = _names(largest, other), _colours(largest)
    kinds = [*names.values(), *[other] * bool(rest)]
    share = f" with {wording.percent(found['share'])} of it" if found["share"] else ""
    words = (
        f"Spend in USD per UTC {unit}, by {of}, from {wording.day(found['first'])} to {wording.day(found['last'])}. "
        f"The largest is {kinds[0]}{share}.{_counted(rest, f'smaller {of}', 'grouped together')}"
    )
    end = parts[-1]["to"]
    params = {
        "unit": f"USD per UTC {unit}" + (", the latest one not over" if end - found["last"] > DAY else ""),
        "colours": [f"var(--c-{colour})" for colour in (*colours.values(), *["other"] * bool(rest))],
    }
    params |= {**day_axis(parts[0]["from"], end), **legend(kinds)}
    return Chart(words, "stacked", {"parts": [part | {"kind": kinds[part["place"]]} for part in parts]}, params)


def run_out_history(found: Row) -> Chart:
    nights = found["nights"]
    if not nights:
        beyond = found["latest"] and found["is_dated"]
        every = "Every prediction so far: longer than a year."
        return Chart(every if beyond else "No earlier predictions yet: each night adds one.")
    dates = [night[key] for night in nights for key in (*QUANTILES, "used_up_date") if night[key] is not None]
    room = max((max(dates) - min(dates)) * 0.06, DAY)
    side = day_axis(min(dates) - room, max(dates) + DAY + room, margin=0.1, most=3)
    first, last, checked = nights[0]["as_of_date"], nights[-1]["as_of_date"], found["checked"]
    shown = ["Predicted, 80 % sure", "Predicted, median", *["Actually used up"] * bool(checked)]
    params = {"dates": side["span"], "dates_shown": side["days"], "dates_labels": side["labels"]}
    params |= {**day_axis(first, last + DAY), **legend(shown)}
    latest = wording.dated({**found["latest"], "days_left_p50": 0}).brief
    words = f"Run-out dates as predicted from {wording.day(first)} to {wording.day(last)}; the latest: {latest}. " + (
        f"Of {len(nights)} predictions, {checked} can be checked by now; "
        f"for {found['inside']} of them the actual day was inside the interval."
        if checked
        else "None of these balances has been used up yet, so none can be checked."
    )
    return Chart(words, "run_out_history", {"nights": nights}, params)


def interval_coverage(found: Row) -> Chart:
    checks = [
        check | {"label": f"{wording.percent(check['coverage_80'])} of {wording.count(check['replays'])}"}
        for check in found["checks"]
    ]
    if not checks:
        return Chart(NOT_CHECKED)
    words = " ".join(f"Over {check['horizon']}: {check['label']} replays." for check in checks)
    words = f"How often actual spend fell inside the 80 % interval. {words}"
    return Chart(words, "interval_coverage", {"checks": checks})


def forecast_loss(found: Row) -> Chart:
    losses = [loss | {"label": wording.usd(loss["loss_usd"])} for loss in found["losses"]]
    if not losses:
        return Chart(NOT_CHECKED)
    most = float(max(loss["loss_usd"] for loss in losses))
    room = max(len(loss["label"]) * LETTER_PX + 10 for loss in losses)
    words = "Mean pinball loss of the forecast, compared with simply repeating the 7-day average. " + " ".join(
        f"Over {one['horizon']}: {one['label']} against {other['label']}."
        for one, other in zip(losses[::2], losses[1::2], strict=True)
    )
    return Chart(words, "forecast_loss", {"losses": losses}, {"most": (most or 1) * PLOT_WIDTH / (PLOT_WIDTH - room)})


CHARTS: Mapping[str, Callable[[Row], Chart]] = {
    chart.__name__: chart
    for chart in (
        balance,
        daily_spend,
        spend_by_model,
        spend_by_member,
        run_out_history,
        interval_coverage,
        forecast_loss,
    )
}


# ---------------------------------------------------------------- parts of the charts


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


def _interval(runway: Row) -> list[Row]:
    """The run-out interval with its dates in words; it ends beyond a year where its late end is null."""
    early, middle, late = (runway[key] for key in QUANTILES)
    if early is None:
        return []
    label = f"{wording.day(early, year=False)} – {wording.day(late) if late else 'beyond a year'}"
    label = f"about {wording.day(middle, year=False)} ({label})" if middle else label
    return [{key: runway[key] for key in QUANTILES} | {"label": wording.day(late) if early == late else label}]


def _colours(stacked: Iterable[str]) -> dict[str, str]:
    """A colour per name from that name alone; where two collide, the later name takes the next free one."""
    taken: dict[str, str] = {}
    for name in sorted(stacked):
        wanted = hashlib.sha256(name.encode("utf-8", "replace")).digest()[0] % len(STACK_COLOURS)
        colours = (*STACK_COLOURS[wanted:], *STACK_COLOURS[:wanted])
        taken[name] = next(colour for colour in colours if colour not in taken.values())
    return {name: taken[name] for name in stacked}


def _names(stacked: Iterable[str], other: str) -> dict[str, str]:
    """Names to show; two that look the same after cleaning get a number."""
    shown: dict[str, str] = {}
    for one in stacked:
        name = wording.name(one, longest=36)
        numbered = (name, *(f"{name} ({number})" for number in range(2, 9)))
        shown[one] = next(free for free in numbered if free not in (*shown.values(), other))
    return shown


def _counted(number: int, one: str, what: str, *, many: str | None = None) -> str:
    return f" {number} {one} is {what}." if number == 1 else f" {number} {many or one + 's'} are {what}." * bool(number)
