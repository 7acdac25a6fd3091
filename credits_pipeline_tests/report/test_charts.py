"""The pictures: what each must tell apart, names that want to break out of them, and data at the edges."""

import base64
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import date, datetime, timedelta
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from xml.etree import ElementTree as ET

import altair
import pytest

from credits_pipeline.report import charts, drawing
from credits_pipeline.report.charts import Chart

DAY = date(2026, 11, 1)
SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = "</text><script>alert(1)</script>\u202e\x1b[31m onload=x"

Rows = list[dict[str, Any]]


def day(number: int) -> date:
    return DAY + timedelta(days=number)


def money(value: object) -> Decimal | None:
    return None if value is None else Decimal(str(value))


def spend(*amounts: object, method: str = "observed", running: bool = False) -> Rows:
    rows = [
        {"spend_date": day(n), "spend_usd": money(amount), "method": method, "is_complete": True}
        for n, amount in enumerate(amounts)
    ]
    rows[-1]["is_complete"] = not running
    return rows


def closes(*balances: object) -> Rows:
    return [
        {"balance_date": day(n), "balance_usd": money(balance), "is_estimated": False}
        for n, balance in enumerate(balances)
    ]


def fan(start: float, daily: float, *, days: int = 12, after: int = 0) -> Rows:
    return [
        {"forecast_date": day(after + n), "spend_p50": money(daily * n), "balance_p10": money(start - 1.5 * daily * n),
         "balance_p50": money(start - daily * n), "balance_p90": money(start - 0.6 * daily * n)}
        for n in range(1, days + 1)
    ]  # fmt: skip


def runway(early: int | None, middle: int | None, late: int | None, status: str = "ok") -> dict[str, Any]:
    dates = {"run_out_p10": early, "run_out_p50": middle, "run_out_p90": late}
    return {
        "status": status, "as_of": datetime(2026, 11, 1, 23, 0), "balance_usd": money(10), "is_early": False,
        "history_days": 40, **{key: None if n is None else day(n) for key, n in dates.items()},
    }  # fmt: skip


def billed(days: int = 3, models: tuple[str, ...] = ("a/b", "c/d")) -> Rows:
    return [
        {"spend_date": day(n), "model": model, "spend_usd": money(1 + place)}
        for n in range(days)
        for place, model in enumerate(models)
    ]


def event(kind: str, amount: object, number: int = 1) -> dict[str, Any]:
    at = datetime(2026, 11, 1, 0, 5) + timedelta(days=number)
    return {
        "event_at_earliest": at,
        "event_at_latest": at + timedelta(days=1),
        "kind": kind,
        "amount_usd": money(amount),
    }


def nights(*middles: int, balance: object = 10) -> Rows:
    return [
        {"as_of_date": day(n), "balance_usd": money(balance), "run_out_p10": day(middle - 2),
         "run_out_p50": day(middle), "run_out_p90": day(middle + 3)}
        for n, middle in enumerate(middles)
    ]  # fmt: skip


def accuracy(*coverages: float) -> Rows:
    return [
        {"horizon_days": days, "replays": 40, "coverage_80": coverage, "pinball_loss_usd": money("1.2"),
         "flat_7d_pinball_loss_usd": money("1.9")}
        for days, coverage in zip((7, 14, 30), coverages, strict=False)
    ]  # fmt: skip


def texts(chart: Chart) -> list[str]:
    """The words in the picture, a line each."""
    lines = []
    for element in ET.fromstring(charts.svg(chart)).iter(f"{SVG}text"):
        spans = [span.text or "" for span in element.iter(f"{SVG}tspan")]
        lines += spans or [element.text or ""]
    return lines


def marks(chart: Chart, mark: str) -> list[dict[str, Any]]:
    """The layers of a kind of mark that carry data, not the legend's."""
    return [
        layer for layer in chart.spec["layer"]
        if layer["mark"]["type"] == mark and layer["data"]["values"] != [{}]
    ]  # fmt: skip


EVERY_CHART = {
    "daily spend": charts.daily_spend(spend(1, 2, 3, running=True), [event("top_up", 50)]),
    "balance": charts.balance(closes(20, 15, 10), fan(10, 1, after=2), runway(9, 12, 13)),
    "models": charts.spend_by_model(billed()),
    "run-out history": charts.run_out_history(nights(10, 11, 12), spend(4, 4, 4, 4)),
    "coverage": charts.interval_coverage(accuracy(0.83, 0.2, 1.0)),
    "loss": charts.forecast_loss(accuracy(0.83, 0.79)),
    "nothing": charts.empty("There is nothing to draw."),
}

EDGES = {
    "one day": charts.daily_spend(spend(3.2)),
    "a zero day": charts.daily_spend(spend(0)),
    "a negative day": charts.daily_spend(spend(1, -0.8, None, 2)),
    "tiny amounts": charts.daily_spend(spend("0.000000001", "0.000000002")),
    "huge amounts": charts.daily_spend(spend("999999999.123456789", 5)),
    "five years of days": charts.daily_spend(spend(*range(1826))),
    "the first day": charts.balance(closes(None), fan(10, 1, days=20), runway(8, 12, 19)),
    "the first day, no date yet": charts.balance(closes(None), [], runway(None, None, None, "accumulating")),
    "one balance": charts.balance(closes(10)),
    "debt": charts.balance(closes(-5, -7.5)),
    "no credits": charts.balance(closes(0, 0)),
    "balances unknown in between": charts.balance(closes(None, 10, None, 8, None, None, 7, 6, None)),
    "five years of balances": charts.balance(closes(*range(1826))),
    "run out on one day": charts.balance(closes(3, 2), fan(2, 2, after=1), runway(2, 2, 2)),
    "run out beyond a year": charts.balance(closes(900), fan(900, 0.1, days=365), runway(None, None, None)),
    "run out perhaps beyond": charts.balance(closes(900), fan(900, 2, days=365), runway(300, 364, None)),
    "five years of models": charts.spend_by_model(billed(days=1826)),
    "a model corrected downwards": charts.spend_by_model(
        [{"spend_date": DAY, "model": "a", "spend_usd": Decimal(-1)}, *billed(days=1)]
    ),
    "one prediction": charts.run_out_history(nights(9)),
    "predictions partly beyond a year": charts.run_out_history(
        [row | {"run_out_p90": None, "run_out_p10": None} for row in nights(9, 12)]
    ),
    "never right": charts.interval_coverage(accuracy(0.0)),
    "no loss at all": charts.forecast_loss(
        [
            row | {"pinball_loss_usd": Decimal(0), "flat_7d_pinball_loss_usd": Decimal(0)}
            for row in accuracy(1.0)
        ]
    ),
}


@pytest.mark.parametrize("name", [*EVERY_CHART, *EDGES])
def test_every_chart_is_a_well_formed_picture_that_needs_nothing_from_outside(name: str) -> None:
    chart = (EVERY_CHART | EDGES)[name]
    drawn = charts.svg(chart)
    root = ET.fromstring(drawn)
    assert root.tag == f"{SVG}svg"
    assert len(drawn) < 150_000
    assert "NaN" not in drawn
    assert "Infinity" not in drawn
    assert re.findall(r"https?:[^\"]*", drawn) == [
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    ]
    assert {element.tag.removeprefix(SVG) for element in root.iter()} <= {
        "svg", "g", "path", "text", "tspan", "line", "rect", "defs", "clipPath"
    }  # fmt: skip
    assert chart.words.endswith(".")


@pytest.mark.parametrize("name", EVERY_CHART)
def test_every_chart_is_valid_vega_lite(name: str) -> None:
    spec = drawing._with_variables(EVERY_CHART[name].spec)
    assert altair.Chart.from_dict(spec, validate=True)


@pytest.mark.parametrize("name", [name for name in EVERY_CHART if name != "nothing"])
def test_every_axis_says_its_unit(name: str) -> None:
    said = " ".join(texts(EVERY_CHART[name]))
    assert {"coverage": "(%)", "loss": "in USD", "run-out history": "Run-out date (UTC day)"}.get(
        name, "USD"
    ) in said
    if name not in ("coverage", "loss"):
        assert "UTC day" in said
    else:
        assert "7 days" in said


@pytest.mark.parametrize(
    ("chart", "sentence"),
    [
        (charts.daily_spend([]), "No spend is known yet."),
        (charts.daily_spend(spend(None, None)), "No spend is known yet."),
        (charts.balance([]), "No balance is known yet."),
        (charts.balance(closes(None)), "No balance is known yet."),
        (charts.spend_by_model([]), "No spend by model is known yet."),
        (charts.run_out_history([]), "No earlier predictions yet: each night adds one."),
        (charts.interval_coverage([]), "No forecast could be checked against what happened yet."),
        (charts.forecast_loss([]), "No forecast could be checked against what happened yet."),
    ],
)
def test_without_data_there_is_a_sentence_and_no_broken_plot(chart: Chart, sentence: str) -> None:
    assert texts(chart) == [sentence]
    assert chart.words == sentence


def test_one_drawing_serves_light_and_dark_pages() -> None:
    drawn = charts.svg(EVERY_CHART["balance"])
    used = set(re.findall(r"var\((--c-[a-z0-9]+)\)", drawn))
    assert "--c-ink" in used
    assert not re.search(r"#[0-9a-f]{6}", drawn)
    for theme in ("light", "dark"):
        assert all(f"{role}:" in charts.css(theme) for role in used)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_theme_puts_its_own_colours_in(theme: Any) -> None:
    drawn = charts.svg(EVERY_CHART["daily spend"], theme)
    assert drawing.PALETTES[theme]["spend"] in drawn
    assert "var(" not in drawn


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_picture_for_markdown_brings_its_background_and_its_colours(theme: Any) -> None:
    kind, picture = charts.data_uri(EVERY_CHART["models"], theme).split(";base64,")
    drawn = base64.b64decode(picture).decode("utf-8")
    assert kind == "data:image/svg+xml"
    assert f"background:{drawing.PALETTES[theme]['paper']}" in ET.fromstring(drawn).attrib["style"]
    assert "var(" not in drawn


def test_letters_are_readable_on_a_phone() -> None:
    """390 px wide, of which page and card leave 352: 11 px is the least that people read without zooming in."""
    for name, chart in EVERY_CHART.items():
        drawn = ET.fromstring(charts.svg(chart))
        on_phone = 352 / float(drawn.attrib["viewBox"].split()[2])
        sizes = [float(text.attrib["font-size"].removesuffix("px")) for text in drawn.iter(f"{SVG}text")]
        assert min(sizes) * on_phone >= 11, name


def test_the_same_chart_is_drawn_the_same_and_two_on_a_page_share_no_id() -> None:
    chart = EVERY_CHART["balance"]
    assert charts.svg(chart, name="one") == charts.svg(chart, name="one")
    ids = [set(re.findall(r' id="([^"]+)"', charts.svg(chart, name=name))) for name in ("one", "two")]
    assert ids[0]
    assert not ids[0] & ids[1]
    assert set(re.findall(r"url\(#([^)]+)\)", charts.svg(chart, name="one"))) <= ids[0]


def test_a_hostile_model_name_stays_text_without_anything_that_steers() -> None:
    chart = charts.spend_by_model(billed(models=(HOSTILE, "a/b")))
    assert [line for line in texts(chart) if "script" in line] == [
        "</text><script>alert(1)</script>\ufffd\ufffd[…"
    ]
    for word in (charts.svg(chart), chart.words):
        assert "\u202e" not in word
        assert "\x1b" not in word


def test_a_model_named_like_a_colour_or_a_clip_stays_a_name() -> None:
    names = ("ink", "var(--c-ink)", 'x id="clip0" role="y"', "url(#clip0)")
    assert set(names) <= set(texts(charts.spend_by_model(billed(models=names))))


def test_models_that_look_alike_once_harmless_are_numbered() -> None:
    said = texts(charts.spend_by_model(billed(models=("a\u200b", "a\u202e"))))
    assert {"a\ufffd", "a\ufffd (2)"} <= set(said)


def test_the_tail_of_models_is_folded_into_other_and_nothing_is_lost() -> None:
    rows = billed(days=1, models=tuple("abcdefghi"))
    chart = charts.spend_by_model(rows)
    assert charts.OTHER in texts(chart)
    bars = [value for layer in marks(chart, "rect") for value in layer["data"]["values"]]
    assert sum(bar["y"] - bar["y2"] for bar in bars) == pytest.approx(
        float(sum(row["spend_usd"] for row in rows))
    )
    assert len(bars) == charts.MODELS_SHOWN + 1


def test_a_model_keeps_its_colour_when_others_come_and_go() -> None:
    alone = charts._model_colours(["openai/gpt-5"])
    for others in (["a"], ["anthropic/claude-sonnet-4.5", "b"]):
        together = charts._model_colours(["openai/gpt-5", *others])
        assert len(set(together.values())) == len(together)
        taken = {colour for name, colour in together.items() if name < "openai/gpt-5"}
        assert together["openai/gpt-5"] == alone["openai/gpt-5"] or alone["openai/gpt-5"] in taken


def test_a_long_span_of_models_is_drawn_by_week_then_by_month() -> None:
    for days, unit in ((60, "day"), (61, "week"), (732, "week"), (733, "month")):
        assert any(
            f"USD per UTC {unit}" in line for line in texts(charts.spend_by_model(billed(days, ("a",))))
        )


def test_how_a_day_is_known_shows_without_colour() -> None:
    rows = [
        *spend(3),
        *[row | {"spend_date": day(1)} for row in spend(2, method="billed")],
        *[row | {"spend_date": day(2)} for row in spend(2, method="interpolated")],
        *[row | {"spend_date": day(3)} for row in spend(1, running=True)],
    ]
    looks = {
        (layer["mark"]["fill"] == "paper", bool(layer["mark"].get("strokeDash")), layer["mark"]["fill"])
        for layer in marks(charts.daily_spend(rows), "rect")
    }
    assert looks == {
        (False, False, "spend"),
        (False, False, "billed"),
        (True, True, "paper"),
        (True, False, "paper"),
    }
    assert {"Measured", "As billed", "Estimate", "Latest day, so far"} <= set(texts(charts.daily_spend(rows)))


def test_measured_and_billed_days_differ_in_lightness_not_only_in_hue() -> None:
    def light(colour: str) -> float:
        return sum(int(colour[i : i + 2], 16) for i in (1, 3, 5)) / (3 * 255)

    for palette in drawing.PALETTES.values():
        assert abs(light(palette["spend"]) - light(palette["billed"])) > 0.15


def test_top_ups_and_corrections_have_shapes_of_their_own_and_their_amount() -> None:
    chart = charts.daily_spend(
        spend(*[1] * 30),
        [event("top_up", 50, 3), event("credit_decrease", -25, 12), event("usage_correction", "-0.5", 22)],
    )
    assert {layer["mark"]["shape"] for layer in marks(chart, "point")} == {
        "triangle-up",
        "triangle-down",
        "diamond",
    }
    assert {"+$50", "−$25", "−$0.50"} <= set(texts(chart))


def test_amounts_of_events_that_would_run_into_each_other_are_left_out() -> None:
    chart = charts.daily_spend(spend(*[1] * 60), [event("top_up", 50, n) for n in range(1, 50)])
    assert sum(line == "+$50" for line in texts(chart)) <= 2


def test_a_gap_in_the_balance_is_not_bridged() -> None:
    chart = charts.balance(closes(10, 9, None, 7, 6))
    (line,) = marks(chart, "line")
    runs: dict[int, list[float]] = {}
    for value in line["data"]["values"]:
        runs.setdefault(value["run"], []).append(value["y"])
    assert list(runs.values()) == [[10, 9], [7, 6]]


def test_an_estimated_stretch_of_the_balance_is_dashed() -> None:
    rows = closes(10, 9, 8, 7)
    rows[1]["is_estimated"] = True
    dashes = [bool(layer["mark"]["strokeDash"]) for layer in marks(charts.balance(rows), "line")]
    assert dashes == [False, True]


def test_the_run_out_interval_is_marked_with_its_dates() -> None:
    chart = charts.balance(closes(20, 15, 10), fan(10, 1, after=2), runway(8, 12, 19))
    assert "about 13 Nov (9 Nov – 20 Nov 2026)" in texts(chart)
    (point,) = marks(chart, "point")
    assert point["mark"]["shape"] == "diamond"
    assert "between 9 Nov and 20 Nov 2026" in chart.words


def test_the_first_day_shows_the_balance_of_its_reading_and_the_fan() -> None:
    chart = charts.balance(closes(None), fan(10, 1, days=20), runway(8, 12, 19))
    dot, diamond = marks(chart, "point")
    assert dot["data"]["values"] == [{"x": drawing.ms(day(1)), "y": 10}], "where the fan begins"
    assert diamond["mark"]["shape"] == "diamond"
    assert marks(chart, "area")
    assert chart.words.startswith(
        "Balance in USD: $10.00 at the latest reading. The forecast continues from there."
    )


def test_a_run_out_perhaps_beyond_a_year_says_so() -> None:
    assert any("beyond a year" in line for line in texts(EDGES["run out perhaps beyond"]))


@pytest.mark.parametrize("status", ["accumulating", "idle", "exhausted"])
def test_no_fan_tells_a_date_that_the_status_does_not_give(status: str) -> None:
    chart = charts.balance(closes(20, 15), fan(15, 1, after=1), runway(None, None, None, status))
    assert not marks(chart, "area")


def test_the_fan_begins_at_the_close_it_is_forecast_from_and_ends_at_zero() -> None:
    chart = charts.balance(closes(20, 15, 10), fan(10, 1, days=20, after=2), runway(8, 12, 19))
    (area,) = marks(chart, "area")
    values = area["data"]["values"]
    assert values[0] == {"x": drawing.ms(day(3)), "y": 10.0, "y2": 10.0, "m": 10.0}
    assert min(value["y2"] for value in values) == 0


def test_what_came_true_is_the_day_on_which_that_balance_was_spent() -> None:
    chart = charts.run_out_history(nights(3, 4, 9, balance=10), spend(99, 4, 4, 2, 1, running=True))
    (dots,) = marks(chart, "point")
    assert [value["y"] for value in dots["data"]["values"]] == [drawing.ms(day(3))]
    assert "Of 3 predictions, 1 can be checked by now; for 1 of them the actual day was inside" in chart.words


def test_coverage_stands_beside_its_target_and_its_number_of_replays() -> None:
    said = texts(charts.interval_coverage(accuracy(0.83, 0.2)))
    assert {"83\u00a0% of 40", "20\u00a0% of 40", "Target: 80 %"} <= set(said)


@pytest.mark.parametrize(
    ("chart", "labels"),
    [
        ("tiny amounts", {"$0", "$1e-9"}),
        ("huge amounts", {"$0", "$500M"}),
        ("a zero day", {"$0", "$1.00"}),
        ("debt", {"$0", "−$4"}),
    ],
)
def test_axis_labels_are_short_at_any_size(chart: str, labels: set[str]) -> None:
    said = texts(EDGES[chart])
    assert all(any(line.startswith(label) for line in said) for label in labels - {"$500M"})
    assert all(len(line) <= 8 for line in said if line.startswith(("$", "−$")))


def test_data_frames_of_pandas_and_of_arrow_draw_as_rows_do() -> None:
    pandas = pytest.importorskip("pandas")
    rows = spend(1, None, 3)
    frame = pandas.DataFrame(rows)
    frame["spend_date"] = pandas.to_datetime(frame["spend_date"])
    assert charts.svg(charts.daily_spend(frame)) == charts.svg(charts.daily_spend(rows))
    arrow = pandas.DataFrame(rows).convert_dtypes(dtype_backend="pyarrow")
    assert charts.svg(charts.daily_spend(arrow)) == charts.svg(charts.daily_spend(rows))


@pytest.fixture
def listener() -> Iterator[tuple[str, list[str]]]:
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"[]")

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/data.json", asked
    server.shutdown()
    server.server_close()
    thread.join()


def test_drawing_never_asks_the_network(listener: tuple[str, list[str]]) -> None:
    url, asked = listener
    spec = {"data": {"url": url}, "mark": "bar", "encoding": {"y": {"field": "a", "type": "quantitative"}}}
    with pytest.raises(ValueError, match="not allowed"):
        charts.svg(Chart(spec, ""))
    assert asked == []


def test_importing_the_charts_loads_no_heavy_library() -> None:
    program = (
        "import sys; import credits_pipeline.report.charts, credits_pipeline.report;"
        "print([m for m in ('pandas', 'pyarrow', 'altair', 'vl_convert', 'duckdb', 'jinja2') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
