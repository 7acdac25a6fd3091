"""What programs read: metrics.prom, the answer as JSON and as an exit code, the Grafana dashboard; and what if."""

import json
import re
import shutil
import stat
import subprocess
from collections.abc import Iterator
from datetime import UTC, date, datetime, time
from decimal import Decimal
from pathlib import Path

import pytest

from credits_pipeline import clock, config
from credits_pipeline.__main__ import main
from credits_pipeline.report import answer
from credits_pipeline.report.answer import accounts
from credits_pipeline.warehouse import fetch_dicts
from credits_pipeline_tests.models import World
from credits_pipeline_tests.report.people import KEYED, MODELS, NOW, WRITTEN, publish

DOCS = (config.PROJECT_ROOT / "docs" / "machines.md").read_text(encoding="utf-8")
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


@pytest.fixture(scope="module")
def folder(people: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("data")
    publish(people, made / "credits.duckdb")
    return made


@pytest.fixture
def settings(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[config.Settings]:
    """Everybody's key is configured, and their tables were just published."""
    monkeypatch.setenv("CREDITS_DATA_DIR", str(folder))
    for name in KEYED:
        monkeypatch.setenv(f"OPENROUTER_API_KEY_{name.upper()}", f"sk-or-v1-{name}")
    with clock.frozen(WRITTEN):
        yield config.current()


METRICS = {
    f"openrouter_credits_{name}"
    for name in re.findall(r"^    \('(\w+)',", (answer.FOLDER / "metrics.sql").read_text(), re.MULTILINE)
}
SAMPLE = re.compile(r'(?P<metric>[a-z_]+)\{(?P<labels>[a-z_]+="[^"\\]*"(,[a-z_]+="[^"\\]*")*)\} (?P<value>[-+.e\d]+)')


def samples(text: str) -> Samples:
    """The samples of a file in Prometheus' text format, each metric in one group after its HELP and TYPE."""
    found: Samples = {}
    for group in text.split("# HELP ")[1:]:
        about, kind, *lines = group.splitlines()
        metric = about.split()[0]
        assert kind == f"# TYPE {metric} {'counter' if metric.endswith('_total') else 'gauge'}"
        for line in lines:
            part = SAMPLE.fullmatch(line)
            assert part, line
            assert part["metric"] == metric
            key = metric, frozenset(re.findall(r'([a-z_]+)="(.*?)"', part["labels"]))
            assert key not in found
            found[key] = float(part["value"])
    assert len({metric for metric, _ in found}) == text.count("# HELP ")
    return found


def test_prometheus_reads_what_the_tables_say(settings, people):
    answer.write_metrics(settings)
    assert stat.S_IMODE(settings.metrics_path.stat().st_mode) == 0o444
    found = samples(settings.metrics_path.read_text(encoding="utf-8"))

    def sample(metric: str, **labels: str) -> float | None:
        return found.get((f"openrouter_credits_{metric}", frozenset({"account": "steady", **labels}.items())))

    [runway], [month] = people.table("credits_runway", "steady"), people.table("month_outlook", "steady")
    newest = people.table("credits_readings", "steady")[-1]
    figures = {
        "balance_usd": runway["balance_usd"], "expected_daily_spend_usd": runway["expected_daily_spend_usd"],
        "bought_usd_total": newest["total_credits"], "used_usd_total": newest["total_usage"],
        "reading_timestamp_seconds": NOW.replace(tzinfo=UTC).timestamp(), "topup_overdue": 0,
        "month_spent_usd": month["spent_usd"], "month_budget_usd": 140,
        "month_over_budget_probability": month["probability_over_budget"],
    }  # fmt: skip
    assert {metric: sample(metric) for metric in figures} == {name: float(usd) for name, usd in figures.items()}
    for days in ("7", "30"):
        assert sample("run_out_probability", days=days) == runway[f"probability_{days}d"]
    for percentile in ("10", "50", "90"):
        day = runway[f"run_out_p{percentile}"]
        midnight = datetime.combine(day, time(), UTC).timestamp()
        assert sample("run_out_timestamp_seconds", percentile=percentile) == midnight
        assert sample("month_forecast_usd", percentile=percentile) == float(month[f"month_p{percentile}_usd"])
    # What is not known has no sample: no date beyond a year, no budget that nobody set.
    assert sample("run_out_timestamp_seconds", account="years", percentile="50") is None
    assert sample("month_budget_usd", account="soon") is None
    assert sample("balance_usd", account="former") is None  # its key was taken away
    assert {metric for metric, _ in found} == METRICS


def test_prometheus_itself_takes_the_file_and_the_rules_of_the_docs(settings, tmp_path):
    if not (promtool := shutil.which("promtool")):
        pytest.skip("NOT TESTED: promtool is missing (Debian: apt-get install prometheus)")
    rules = tmp_path / "rules.yml"
    rules.write_text(re.findall(r"```yaml\n(.*?)```", DOCS, re.DOTALL)[0], encoding="utf-8")
    answer.write_metrics(settings)
    for arguments, text in ((("metrics",), settings.metrics_path.read_text(encoding="utf-8")), (("rules", rules), "")):
        checked = subprocess.run([promtool, "check", *arguments], input=text, capture_output=True, text=True)
        assert (checked.returncode, checked.stderr) == (0, ""), checked.stdout


def test_the_docs_name_every_metric_and_no_other():
    table = re.findall(r"\| metric \(.*?\n\n", DOCS, re.DOTALL)[0]
    named = re.findall(r"`(\w+)`", "".join(line.split("|")[1] for line in table.splitlines()[2:] if line))
    assert {f"openrouter_credits_{name}" for name in named} == METRICS
    assert set(re.findall(r"openrouter_credits_\w+", DOCS)) <= METRICS


def test_the_grafana_dashboard_asks_for_metrics_that_there_are():
    dashboard = json.loads((config.PROJECT_ROOT / "tools" / "grafana.json").read_text(encoding="utf-8"))
    asked = " ".join(target["expr"] for panel in dashboard["panels"] for target in panel["targets"])
    assert set(re.findall(r"openrouter_credits_\w+", asked)) <= METRICS
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
    assert "openrouter_credits_balance_usd" in dashboard["templating"]["list"][1]["query"]


def test_the_answer_as_json_is_that_of_the_terminal_and_the_tables(settings, people, capsys):
    assert main(["answer"]) == 0
    terminal = capsys.readouterr().out
    assert main(["answer", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["version"] == 1
    assert told["published"]["as_of"] == "2026-11-22T00:05:00Z"
    names = [account["account"] for account in told["accounts"]]
    assert names == [account["account"] for account in accounts(people.con, settings)]
    for account in told["accounts"]:
        assert account["headline"] in terminal
        for mart in ("credits_runway", "spend_summary", "month_outlook", "topup_outlook"):
            rows = people.table(mart, account["account"])
            assert [account[mart]] == (as_json(rows) or [None])
        for mart in ("topup_plan", "credit_lots", "key_limits"):
            assert account[mart] == as_json(people.table(mart, account["account"]))
    steady = next(account for account in told["accounts"] if account["account"] == "steady")
    assert steady["month_outlook"]["budget_usd"] == 140
    assert steady["topup_plan"][0]["until_date"] > "2026-11-22"
    assert next(a for a in told["accounts"] if a["account"] == "unread")["credits_runway"] is None
    said = re.search(r"(?s)\n  steady, .*?top-up  ([^\n]*)", terminal)[1]
    assert said.startswith("automatic, $50.00 below $10.00, next about "), "nothing needs to be bought by hand"


def as_json(rows: list[dict[str, object]]) -> list[dict[str, object]]:
    """Rows of a mart as its programs get them: numbers, and days and instants in ISO 8601."""

    def plain(value: object) -> object:
        if isinstance(value, datetime):
            return f"{value:%Y-%m-%dT%H:%M:%S}" + (f".{value:%f}" if value.microsecond else "") + "Z"
        return float(value) if isinstance(value, Decimal) else value.isoformat() if isinstance(value, date) else value

    return [{name: plain(value) for name, value in row.items() if name != "account"} for row in rows]


def test_an_exit_code_says_whether_credits_are_gone_too_soon(settings, people, monkeypatch, capsys):
    def code(*arguments: str, of: str) -> int:
        for name in KEYED:
            monkeypatch.delenv(f"OPENROUTER_API_KEY_{name.upper()}", raising=False)
        monkeypatch.setenv(f"OPENROUTER_API_KEY_{of.upper()}", "sk-or-v1-x")
        return main(["answer", "--fail-if-gone-within", *arguments])

    [runway] = people.table("credits_runway", "soon")
    early, middle, late = (str(runway[f"days_left_p{p}"]) for p in (10, 50, 90))
    assert code(middle, of="soon") == 3
    assert "soon: at least 50% likely" in capsys.readouterr().err
    assert code(str(int(middle) - 1), of="soon") == 0
    assert code(early, "--probability", "0.1", of="soon") == 3
    assert code(str(int(late) - 1), "--probability", "0.9", of="soon") == 0
    assert code("1", of="debt") == 3
    assert code("365", of="free") == 0
    # Green must mean that it is known.
    assert code("7", of="unread") == 1
    clock_of_next_week = WRITTEN.replace(day=29)
    with clock.frozen(clock_of_next_week):
        assert code("1", of="calm") == 1
    assert "not known" in capsys.readouterr().err
    assert code("0", of="soon") == code("7", "--probability", "2", of="soon") == 2


def what_if(capsys: pytest.CaptureFixture[str], model: str, other: str, *more: str) -> str:
    code = main(["what-if", "--model", model, "--to", other, *more])
    captured = capsys.readouterr()
    return captured.out if code == 0 else captured.err


def rows(people: World, **asked: object) -> list[dict[str, object]]:
    return fetch_dicts(people.con, answer.FOLDER / "what_if.sql", {"account": "steady", **asked})


def test_moving_nothing_or_to_the_same_price_changes_no_date(people):
    [runway] = people.table("credits_runway", "steady")
    dates = {name: runway[name] for name in ("run_out_p10", "run_out_p50", "run_out_p90")}
    for share, other in ((0, MODELS[1]), (0.5, MODELS[0])):
        [row] = rows(people, model=MODELS[0], other=other, share=share)
        assert row["now"] == row["then"] == dates
        assert row["new_daily"] == pytest.approx(float(row["daily"]))


def test_a_model_at_half_the_price_saves_what_the_bill_says(people):
    """Every use has 30 tokens: what differs is what they cost."""
    billed = people.con.execute(
        "select model, sum(spend_usd)::double, count(*) from marts.daily_spend_by_model"
        " where account = 'steady' and spend_date > date '2026-11-21' - 30 group by model"
    ).fetchall()
    spend = {model: usd for model, usd, _ in billed}
    price = {model: 1e6 * usd / (30 * uses) for model, usd, uses in billed}
    model, other = MODELS[:2]
    [row] = rows(people, model=model, other=other, share=0.5)
    assert (row["price"], row["other_price"]) == pytest.approx((price[model], price[other]))
    factor = 1 + 0.5 * spend[model] / sum(spend.values()) * (price[other] / price[model] - 1)
    assert row["new_daily"] == pytest.approx(float(row["daily"]) * factor)
    assert factor < 1
    assert row["then"]["run_out_p50"] >= row["now"]["run_out_p50"]
    assert row["run_out_p50_more"] <= row["then"]["run_out_p50"] <= row["run_out_p50_fewer"]
    assert row["then"]["run_out_p10"] <= row["then"]["run_out_p50"] <= row["then"]["run_out_p90"]


def test_what_if_is_told_in_a_few_lines_and_refused_in_one(settings, capsys):
    told = what_if(capsys, MODELS[0], MODELS[1], "--share", "0.5")
    assert "steady, as of 22 Nov 2026 00:05 UTC" in told
    assert "50\u00a0% of the tokens" in told
    assert told.count("80\u00a0% sure") == 2
    assert "Assumed: the same tokens" in told
    refused = {
        "was never billed for a token of vendor/never: its price is unknown": (MODELS[0], "vendor/never"),
        "vendor/never was billed for no token in the last 30 days": ("vendor/never", MODELS[0]),
        "in the last 30 days of soon": (MODELS[0], MODELS[1], "--account", "soon"),
    }
    for sentence, asked in refused.items():
        said = what_if(capsys, *asked)
        assert sentence in said
        assert len(said.splitlines()) == 1
