"""The pictures: what each must tell apart, names that want to break out of them, and data at the edges."""

import base64
import json
import re
from datetime import date, datetime, timedelta
from typing import Any
from xml.etree import ElementTree as ET

import altair
import duckdb
import pytest

from credits_pipeline.report import charts, drawing
from credits_pipeline.report.charts import day_axis
from credits_pipeline.report.drawing import Chart, DrawingFailed
from credits_pipeline_tests.models import create_marts

DAY = date(2026, 11, 1)
SVG = "{http://www.w3.org/2000/svg}"

Rows = list[dict[str, Any]]
MARTS = (
    "credits_runway", "daily_spend", "daily_balance", "balance_forecast", "credit_events", "daily_spend_by_model",
    "runway_history", "forecast_accuracy", "spend_summary", "spend_summary_by_member",
    *(f"daily_spend_by_{of}" for of in ("key", "workspace", "user", "app")),
)  # fmt: skip


def chart(name: str, **marts: Rows) -> Chart:
    """The chart of an account over these rows of the marts, and nothing else in them."""
    with duckdb.connect() as con:
        for mart, types in create_marts(con, *MARTS).items():
            if rows := marts.get(mart):
                shape = json.dumps([{column: types[column] for column in ("account", *rows[0])}])
                values = json.dumps([{"account": "a", **row} for row in rows], default=str)
                con.execute(
                    f"insert into marts.{mart} by name select unnest(from_json(?, ?), recursive := true)",
                    [values, shape],
                )
        return charts.of_account(con, name, "a")


def spend_chart(spend: Rows, events: Rows | None = None) -> Chart:
    return chart("daily_spend", daily_spend=spend, credit_events=events or [])


def balance_chart(past: Rows, forecast: Rows | None = None, runway: dict[str, Any] | None = None) -> Chart:
    known = [runway] if runway else []
    return chart("balance", daily_balance=past, balance_forecast=forecast or [], credits_runway=known)


def model_chart(rows: Rows) -> Chart:
    return chart("spend_by_model", daily_spend_by_model=rows)


def member_chart(dimension: str, mart: str, *spent: float) -> Chart:
    """A member per amount, spent on a day each."""
    ranked = {"dimension": dimension, "dimension_rank": 1, "share": 0.5}
    members = [{**ranked, "place": n, "member": f"m{n}", "spend_30d_usd": usd} for n, usd in enumerate(spent, 1)]
    days = [{"spend_date": day(n % 3), "member": f"m{n}", "spend_usd": usd} for n, usd in enumerate(spent, 1)]
    summary = [{"close_date": day(3)}]
    return chart("spend_by_member", spend_summary=summary, spend_summary_by_member=members, **{mart: days})


def night_chart(rows: Rows, runway: dict[str, Any] | None = None) -> Chart:
    return chart("run_out_history", runway_history=rows, credits_runway=[runway] if runway else [])


def day(number: int) -> date:
    return DAY + timedelta(days=number)


def spend(*amounts: object, method: str = "observed", running: bool = False) -> Rows:
    rows = [
        {"spend_date": day(n), "spend_usd": amount, "method": method, "is_complete": True}
        for n, amount in enumerate(amounts)
    ]
    rows[-1]["is_complete"] = not running
    return rows


def closes(*balances: object) -> Rows:
    return [{"balance_date": day(n), "balance_usd": usd, "is_estimated": False} for n, usd in enumerate(balances)]


def fan(start: float, daily: float, *, days: int = 12, after: int = 0) -> Rows:
    return [
        {"forecast_date": day(after + n), "spend_p50": daily * n, "balance_p10": start - 1.5 * daily * n,
         "balance_p50": start - daily * n, "balance_p90": start - 0.6 * daily * n}
        for n in range(1, days + 1)
    ]  # fmt: skip


def runway(early: int | None, middle: int | None, late: int | None, status: str = "ok") -> dict[str, Any]:
    dates = {"run_out_p10": early, "run_out_p50": middle, "run_out_p90": late}
    return {
        "status": status, "as_of": datetime(2026, 11, 1, 23, 0), "balance_usd": 10, "is_early": False,
        "history_days": 40, "days_left_p50": middle, **{key: None if n is None else day(n) for key, n in dates.items()},
    }  # fmt: skip


def billed(days: int = 3, models: tuple[str, ...] = ("a/b", "c/d")) -> Rows:
    return [
        {"spend_date": day(n), "model": model, "spend_usd": 1 + place}
        for n in range(days)
        for place, model in enumerate(models)
    ]


def event(kind: str, amount: object, number: int = 1) -> dict[str, Any]:
    at = datetime(2026, 11, 1, 0, 5) + timedelta(days=number)
    between = {"event_at_earliest": at, "event_at_latest": at + timedelta(days=1)}
    return {**between, "kind": kind, "amount_usd": amount}


def nights(*middles: int, **columns: object) -> Rows:
    return [
        {"as_of_date": day(n), "balance_usd": 10, "run_out_p10": day(middle - 2), "run_out_p50": day(middle),
         "run_out_p90": day(middle + 3), "used_up_date": None, **columns}
        for n, middle in enumerate(middles)
    ]  # fmt: skip


def accuracy(*coverages: float, loss: float = 1.2, flat: float = 1.9) -> Rows:
    return [
        {"horizon_days": days, "replays": 40, "coverage_80": coverage, "pinball_loss_usd": loss,
         "flat_7d_pinball_loss_usd": flat}
        for days, coverage in zip((7, 14, 30), coverages, strict=False)
    ]  # fmt: skip


def drawn(chart: Chart) -> ET.Element:
    return ET.fromstring(drawing.svg(chart))


def texts(chart: Chart) -> list[str]:
    """The words in the picture, a line each."""
    return [part.text for part in drawn(chart).iter() if part.tag in (f"{SVG}text", f"{SVG}tspan") and part.text]


def shapes(chart: Chart, **attributes: str) -> list[ET.Element]:
    """The elements of the picture with these attributes."""
    return [
        element for element in drawn(chart).iter()
        if all(element.attrib.get(name.replace("_", "-")) == value for name, value in attributes.items())
    ]  # fmt: skip


EVERY_CHART = {
    "daily_spend": spend_chart(spend(1, 2, 3, running=True), [event("top_up", 50)]),
    "balance": balance_chart(closes(20, 15, 10), fan(10, 1, after=2), runway(9, 12, 13)),
    "stacked": model_chart(billed()),
    "run_out_history": night_chart(nights(10, 11, 12, used_up_date=day(9))),
    "interval_coverage": chart("interval_coverage", forecast_accuracy=accuracy(0.83, 0.2, 1.0)),
    "forecast_loss": chart("forecast_loss", forecast_accuracy=accuracy(0.83, 0.79)),
}

EDGES = {
    "one day": spend_chart(spend(3.2)),
    "a zero day": spend_chart(spend(0)),
    "a negative day": spend_chart(spend(1, -0.8, None, 2)),
    "small amounts": spend_chart(spend("0.0000073", "0.000005")),
    "tiny amounts": spend_chart(spend("0.000000001", "0.000000002")),
    "huge amounts": spend_chart(spend("999999999.123456789", 5)),
    "five years of days": spend_chart(spend(*range(1826))),
    "the first day": balance_chart(closes(None), fan(10, 1, days=20), runway(8, 12, 19)),
    "the first day, no date yet": balance_chart(closes(None), [], runway(None, None, None, "accumulating")),
    "one balance": balance_chart(closes(10)),
    "debt": balance_chart(closes(-5, -7.5)),
    "no credits": balance_chart(closes(0, 0)),
    "balances unknown in between": balance_chart(closes(None, 10, None, 8, None, None, 7, 6, None)),
    "five years of balances": balance_chart(closes(*range(1826))),
    "run out on one day": balance_chart(closes(3, 2), fan(2, 2, after=1), runway(2, 2, 2)),
    "run out beyond a year": balance_chart(closes(900), fan(900, 0.1, days=365), runway(None, None, None)),
    "run out perhaps beyond": balance_chart(closes(900), fan(900, 2, days=365), runway(300, 364, None)),
    "five years of models": model_chart(billed(days=1826)),
    "a model corrected downwards": model_chart([billed()[0] | {"spend_usd": -1}, *billed(days=1)[1:]]),
    "one prediction": night_chart(nights(9)),
    "predictions partly beyond a year": night_chart(nights(9, 12, run_out_p50=None, run_out_p90=None)),
    "never right": chart("interval_coverage", forecast_accuracy=accuracy(0.0)),
    "no loss at all": chart("forecast_loss", forecast_accuracy=accuracy(1.0, loss=0, flat=0)),
}


BEYOND_A_YEAR = nights(9, 12, **dict.fromkeys(charts.QUANTILES))


@pytest.mark.parametrize("name", [*EVERY_CHART, *EDGES])
def test_every_chart_is_a_well_formed_picture_that_needs_nothing_from_outside(name):
    chart = (EVERY_CHART | EDGES)[name]
    picture = drawing.svg(chart)
    root = ET.fromstring(picture)
    assert root.tag == f"{SVG}svg"
    assert len(picture) < 150_000
    assert not re.search("NaN|Infinity|undefined|null", picture)
    addresses = ["http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"]
    assert re.findall(r"https?:[^\"]*", picture) == addresses
    assert {element.tag.removeprefix(SVG) for element in root.iter()} <= {
        "svg", "g", "path", "text", "tspan", "line", "rect", "defs", "clipPath"
    }  # fmt: skip
    assert chart.words.endswith(".")
    sizes = [float(text.attrib["font-size"].removesuffix("px")) for text in root.iter(f"{SVG}text")]
    # 390 px wide, of which page and card leave 352: 11 px is the least that people read without zooming in.
    assert min(sizes) * 352 / float(root.attrib["viewBox"].split()[2]) >= (
        9 if name in ("tiny amounts", "small amounts") else 11
    )


def test_every_file_is_valid_vega_lite_that_shows_something_in_an_editor_and_as_it_is_drawn():
    files = {file.name.removesuffix(".vl.json"): file for file in drawing.FOLDER.glob("*.vl.json")}
    assert set(files) == set(EVERY_CHART)
    for name, file in files.items():
        sample = json.loads(file.read_text(encoding="utf-8"))
        assert all(sample["datasets"].values()), name
        assert set(EVERY_CHART[name].rows) == set(sample["datasets"]), name
        assert set(EVERY_CHART[name].params) == {param["name"] for param in sample.get("params", [])}, name
        altair.Chart.from_dict(sample, validate=True)
        altair.Chart.from_dict(json.loads(drawing.specification(EVERY_CHART[name])), validate=True)


@pytest.mark.parametrize(
    ("chart", "sentence"),
    [
        (spend_chart([]), "No spend is known yet."),
        (spend_chart(spend(None, None)), "No spend is known yet."),
        (balance_chart([]), "No balance is known yet."),
        (balance_chart(closes(None)), "No balance is known yet."),
        (model_chart([]), "No spend by model is known yet."),
        (member_chart("api_key", "daily_spend_by_key"), "No spend by key is known yet."),
        (night_chart([]), "No earlier predictions yet: each night adds one."),
        (night_chart(nights(9, balance_usd=0)), "No earlier predictions yet: each night adds one."),
        (night_chart(BEYOND_A_YEAR, runway(None, None, None)), "Every prediction so far: longer than a year."),
        (chart("interval_coverage", forecast_accuracy=[]), "No forecast could be checked against what happened yet."),
        (chart("forecast_loss", forecast_accuracy=[]), "No forecast could be checked against what happened yet."),
    ],
)
def test_without_data_there_is_a_sentence_and_no_broken_plot(chart, sentence):
    assert chart == Chart(sentence)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_one_drawing_serves_light_and_dark_pages_and_a_picture_for_markdown_brings_its_own_colours(theme):
    for chart in EVERY_CHART.values():
        picture = drawing.svg(chart)
        assert not re.search(r"#[0-9a-f]{6}", picture), "a colour in a file that no theme has"
        assert all(f"{role}:" in drawing.css(theme) for role in re.findall(r"var\((--c-[a-z0-9]+)\)", picture))
        kind, encoded = drawing.data_uri(chart, theme).split(";base64,")
        alone = base64.b64decode(encoded).decode()
        assert kind == "data:image/svg+xml"
        assert "var(" not in alone
        assert drawing.PALETTES[theme]["ink"] in alone
        assert f"background:{drawing.PALETTES[theme]['paper']}" in ET.fromstring(alone).attrib["style"]


def test_a_model_named_like_a_colour_or_a_clip_or_the_rest_stays_a_name_of_its_own():
    names = ("ink", "#1b1f24", "var(--c-ink)", 'x id="clip0" role="y"', "url(#clip0)")
    assert set(names) <= set(texts(model_chart(billed(models=names))))
    assert "other models (2)" in texts(model_chart(billed(models=("other models",))))
    assert {"a\ufffd", "a\ufffd (2)"} <= set(texts(model_chart(billed(models=("a\u200b", "a\u202e")))))


def test_the_tail_of_models_is_folded_into_other_and_nothing_is_lost():
    rows = billed(days=1, models=tuple("abcdefghi"))
    chart = model_chart(rows)
    assert "other models" in texts(chart)
    assert sum(part["spend_usd"] for part in chart.rows["parts"]) == sum(row["spend_usd"] for row in rows)
    assert len(shapes(chart, stroke="var(--c-paper)", stroke_width="0.6")) >= len(charts.STACK_COLOURS) + 1


def test_who_spent_is_drawn_from_the_breakdown_that_the_account_has():
    chart = member_chart("workspace", "daily_spend_by_workspace", *range(9, 1, -1))
    assert "Spend in USD per UTC day, by workspace, from" in chart.words
    said = chart.words.replace("\u00a0", " ")
    assert "The largest is m1 with 50 % of it. 2 smaller workspaces are grouped together." in said
    assert sum(part["spend_usd"] for part in chart.rows["parts"]) == sum(range(9, 1, -1))


def test_a_long_span_of_models_is_drawn_by_week():
    for days, unit in ((60, "day"), (61, "week")):
        assert model_chart(billed(days, ("a",))).params["unit"].startswith(f"USD per UTC {unit}")


def test_how_a_day_is_known_shows_without_colour():
    rows = spend(3, 2, 2, None, 1, running=True)
    rows[1]["method"], rows[2]["method"] = "billed", "interpolated"
    chart = spend_chart(rows)
    for look in (
        {"fill": "var(--c-spend)"},
        {"fill": "var(--c-billed)"},
        {"fill": "var(--c-paper)", "stroke": "var(--c-muted)", "stroke_dasharray": "2.5,1.5"},
        {"fill": "var(--c-grid)"},
        {"fill": "var(--c-paper)", "stroke": "var(--c-spend)"},
    ):
        assert len(shapes(chart, **look)) == 2, f"{look}: the bar, and its swatch, which looks like it"
    assert {"Measured", "As billed", "Estimate", "Unknown", "Latest day, so far"} <= set(texts(chart))
    assert "1 day is estimated. 1 day is unknown." in chart.words


def test_events_have_shapes_of_their_own_and_say_what_they_did_to_the_balance():
    chart = spend_chart(
        spend(*[1] * 30),
        [event("top_up", 50, 3), event("credit_decrease", -25, 12), event("usage_correction", "-0.5", 22)],
    )
    assert {"+$50", "−$25", "+$0.50", "Top-up", "Refund, transfer or expiry", "Correction"} <= set(texts(chart))
    colours = [mark.attrib.get("fill") for mark in drawn(chart).iter(f"{SVG}path")]
    assert colours.count("var(--c-event)") == 2
    assert colours.count("var(--c-warn)") == 4


def test_amounts_of_events_that_would_run_into_each_other_are_left_out():
    chart = spend_chart(spend(*[1] * 60), [event("top_up", 50, n) for n in range(1, 50)])
    assert sum(line == "+$50" for line in texts(chart)) <= 2


def lines(chart: Chart, dash: str | None) -> list[str]:
    """The paths of the balance that are drawn with this dash; not the legend's swatches."""
    paths = [path for path in drawn(chart).iter(f"{SVG}path") if path.attrib.get("stroke") == "var(--c-ink)"]
    return [
        path.attrib["d"] for path in paths
        if path.attrib.get("stroke-dasharray") == dash and path.attrib.get("fill") != "var(--c-ink)"
    ]  # fmt: skip


def test_a_gap_in_the_balance_is_not_bridged():
    (path,) = lines(balance_chart(closes(10, 9, None, 7, 6)), None)
    assert path.count("M") == 2


def test_an_estimated_stretch_of_the_balance_is_dashed():
    rows = closes(10, 9, 8, 7)
    rows[1]["is_estimated"] = True
    chart = balance_chart(rows)
    (path,) = lines(chart, "2,2")
    assert path.count("L") == 2, "from the close before to the one after"
    assert "Estimate" in texts(chart)


def test_the_run_out_interval_is_marked_with_its_dates_and_its_whiskers():
    chart = balance_chart(closes(20, 15, 10), fan(10, 1, after=2), runway(8, 12, 19))
    assert "about 13 Nov (9 Nov – 20 Nov 2026)" in texts(chart)
    assert "between 9 Nov and 20 Nov 2026" in chart.words
    assert len(shapes(chart, stroke="var(--c-warn)", stroke_width="5")) == 2, "the bar and its swatch"
    ticks = [mark for mark in drawn(chart).iter(f"{SVG}path") if mark.attrib.get("fill") == "var(--c-warn)"]
    assert len([mark for mark in ticks if re.search("v14|V", mark.attrib["d"])]) == 2, "a whisker at both ends"
    assert len(shapes(chart, fill="var(--c-paper)", stroke="var(--c-warn)", stroke_width="2")) == 1


def test_the_first_day_shows_the_balance_of_its_reading_and_the_fan():
    chart = EDGES["the first day"]
    assert chart.rows["past"] == [{"balance_date": DAY, "balance_usd": 10, "is_estimated": None}]
    assert chart.rows["fan"][0]["forecast_date"] == DAY, "where the fan begins"
    assert chart.words.startswith("Balance in USD: $10.00 at the latest reading. The forecast continues from there.")


@pytest.mark.parametrize("status", ["accumulating", "idle", "exhausted"])
def test_no_fan_tells_a_date_that_the_status_does_not_give(status):
    chart = balance_chart(closes(20, 15), fan(15, 1, after=1), runway(None, None, None, status))
    assert (chart.rows["fan"], chart.rows["interval"]) == ([], [])


def test_the_fan_begins_at_the_close_it_is_forecast_from_and_ends_at_zero():
    chart = balance_chart(closes(20, 15, 10), fan(10, 1, days=20, after=2), runway(8, 12, 19))
    start = chart.rows["fan"][0]
    assert (start["forecast_date"], start["balance_p50"]) == (day(2), 10)
    (area,) = shapes(chart, fill="var(--c-band)", opacity="0.75")
    bottom = max(float(y) for y in re.findall(r",(-?[\d.]+)", area.attrib["d"]))
    assert bottom == 170 - chart.params["room"], "the zero line"


def test_what_came_true_is_drawn_and_counted_only_where_something_was_left():
    rows = nights(3, 4, 9, 9)
    rows[0]["used_up_date"] = day(3)
    rows[1]["used_up_date"] = day(20)
    rows[3]["balance_usd"] = 0
    chart = night_chart(rows)
    assert len(chart.rows["nights"]) == 3
    assert "Of 3 predictions, 2 can be checked by now; for 1 of them the actual day was inside" in chart.words


def test_coverage_stands_beside_its_target_and_its_number_of_replays():
    said = texts(EVERY_CHART["interval_coverage"])
    assert {"83\u00a0% of 40", "20\u00a0% of 40", "Target: 80 %"} <= set(said)


def test_amounts_on_an_axis_are_plain_decimals_at_any_size():
    for chart, labels in (
        ("small amounts", {"$0", "$0.000002", "$0.000006"}), ("huge amounts", {"$0", "$400M", "$800M"}),
        ("tiny amounts", {"$0", "$0.000000001", "$0.000000002"}), ("a zero day", {"$0", "$0.20", "$1"}),
        ("debt", {"$0", "−$4"}),
    ):  # fmt: skip
        said = texts(EDGES[chart])
        assert labels <= set(said)
        assert not any(re.search(r"\de[-+−]?\d|µ", line) for line in said)


def test_the_days_of_an_axis_are_few_and_say_their_year_once():
    for days in (*range(1, 130), 365, 366, 800, 2000, 40_000):
        axis = day_axis(DAY, DAY + timedelta(days=days))
        assert 1 <= len(axis["days"]) <= 5
        assert axis["days"] == sorted(axis["days"])
        years = [label[1] for label in axis["labels"] if isinstance(label, list)]
        assert len(years) == len(set(years)) >= (days < 1000)


def test_drawing_asks_nobody_and_an_error_of_one_chart_is_not_that_of_the_next():
    spec = '{"data": {"url": "http://127.0.0.1:9/data.json"}, "mark": "bar", "encoding": {"y": {"field": "a"}}}'
    with pytest.raises(DrawingFailed, match="not allowed"):
        drawing.draw(spec)
    assert drawing.svg(EVERY_CHART["balance"])
