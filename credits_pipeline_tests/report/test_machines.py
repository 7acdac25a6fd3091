"""What programs read: metrics.prom, the answer as JSON and as an exit code, the Grafana dashboard."""

import re
import shutil
import stat
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, time
from pathlib import Path

import pytest

from credits_pipeline import clock, config
from credits_pipeline.report import metrics
from credits_pipeline_tests.models import World
from credits_pipeline_tests.report.people import KEYED, NOW, WRITTEN, publish

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


# -- Prometheus ----------------------------------------------------------------------------

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


def test_prometheus_reads_what_the_tables_say(settings: config.Settings, people: World) -> None:
    metrics.write(settings)
    assert stat.S_IMODE(settings.metrics_path.stat().st_mode) == 0o444
    found = samples(settings.metrics_path.read_text(encoding="utf-8"))

    def sample(metric: str, **labels: str) -> float | None:
        return found.get((f"openrouter_credits_{metric}", frozenset({"account": "steady", **labels}.items())))

    [runway], [month] = people.table("credits_runway", "steady"), people.table("month_outlook", "steady")
    assert sample("balance_usd") == float(runway["balance_usd"])
    assert sample("expected_daily_spend_usd") == float(runway["expected_daily_spend_usd"])
    assert sample("reading_timestamp_seconds") == NOW.replace(tzinfo=UTC).timestamp()
    newest = people.table("credits_readings", "steady")[-1]
    assert sample("bought_usd_total") == float(newest["total_credits"])
    assert sample("used_usd_total") == float(newest["total_usage"])
    for percentile in ("10", "50", "90"):
        day = runway[f"run_out_p{percentile}"]
        midnight = datetime.combine(day, time(), UTC).timestamp()
        assert sample("run_out_timestamp_seconds", percentile=percentile) == midnight
        assert sample("month_forecast_usd", percentile=percentile) == float(month[f"month_p{percentile}_usd"])
    assert [sample("run_out_probability", days=days) for days in ("7", "30")] == [
        runway["probability_7d"],
        runway["probability_30d"],
    ]
    assert sample("month_spent_usd") == float(month["spent_usd"])
    assert sample("month_budget_usd") == float(month["budget_usd"]) == 140
    assert sample("month_over_budget_probability") == month["probability_over_budget"]
    assert sample("topup_overdue") == 0
    # What is not known has no sample: no date beyond a year, no budget that nobody set.
    assert sample("run_out_timestamp_seconds", account="years", percentile="50") is None
    assert sample("month_budget_usd", account="soon") is None
    assert sample("balance_usd", account="former") is None  # its key was taken away
    assert {metric for metric, _ in found} == set(metrics.HELP)


def test_prometheus_itself_takes_the_file_and_the_rules_of_the_docs(
    settings: config.Settings, people: World, tmp_path: Path
) -> None:
    if not (promtool := shutil.which("promtool")):
        pytest.skip("NOT TESTED: promtool is missing (Debian: apt-get install prometheus)")
    rules = tmp_path / "rules.yml"
    rules.write_text(re.findall(r"```yaml\n(.*?)```", DOCS, re.DOTALL)[0], encoding="utf-8")
    for arguments, text in ((("metrics",), metrics.text(people.con, settings)), (("rules", rules), "")):
        checked = subprocess.run([promtool, "check", *arguments], input=text, capture_output=True, text=True)
        assert (checked.returncode, checked.stderr) == (0, ""), checked.stdout


def test_the_docs_name_every_metric_and_no_other() -> None:
    table = "".join(line.split("|")[1] for line in DOCS.splitlines() if line.startswith("| `"))
    assert {f"openrouter_credits_{name}" for name in re.findall(r"`(\w+)`", table)} == set(metrics.HELP)
    assert set(re.findall(r"openrouter_credits_\w+", DOCS)) <= set(metrics.HELP)
