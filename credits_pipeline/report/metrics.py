"""`metrics.prom`: what is known of each account, for Prometheus' textfile collector, as the published copy says it."""

from pathlib import Path
from typing import TYPE_CHECKING

from credits_pipeline import files
from credits_pipeline.config import Settings
from credits_pipeline.warehouse import fetch_dicts, open_published

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection as Connection

SQL = Path(__file__).with_name("metrics.sql")
HELP = {
    "openrouter_credits_balance_usd": "Credits left at the newest reading, USD.",
    "openrouter_credits_bought_usd_total": "Credits ever bought, USD.",
    "openrouter_credits_expected_daily_spend_usd": "Expected spend of an average day, USD.",
    "openrouter_credits_month_budget_usd": "Budget of the UTC month, USD.",
    "openrouter_credits_month_forecast_usd": "What the whole UTC month will have cost, USD, by percentile.",
    "openrouter_credits_month_over_budget_probability": "Probability that the UTC month costs at least its budget.",
    "openrouter_credits_month_spent_usd": "Spent in the UTC month up to the newest reading, USD.",
    "openrouter_credits_published_info": "Which version published these figures, and whether they are simulated.",
    "openrouter_credits_reading_timestamp_seconds": "When the newest reading was taken.",
    "openrouter_credits_run_out_probability": "Probability that the credits are gone within so many days.",
    "openrouter_credits_run_out_timestamp_seconds": "UTC day on which the credits run out, by percentile.",
    "openrouter_credits_topup_overdue": "1 where an automatic top-up should have arrived and did not.",
    "openrouter_credits_used_usd_total": "Credits ever used, USD. A correction can lower it.",
}
ESCAPED = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})


def write(settings: Settings) -> None:
    """Put the file in place in one step, readable by all (mode 0444). Raises WarehouseError."""
    with open_published(settings.published_path) as con:
        files.write(settings.metrics_path, text(con, settings), mode=0o444)


def text(con: "Connection", settings: Settings) -> str:
    """The text format of Prometheus, from a connection to the marts; metrics without a sample are left out."""
    accounts = [account.name for account in settings.accounts]
    lines: list[str] = []
    metric = ""
    for row in fetch_dicts(con, SQL, {"accounts": accounts}):
        if row["metric"] != metric:
            metric = row["metric"]
            kind = "counter" if metric.endswith("_total") else "gauge"
            lines += [f"# HELP {metric} {HELP[metric]}", f"# TYPE {metric} {kind}"]
        labels = ",".join(f'{name}="{value.translate(ESCAPED)}"' for name, value in row["labels"].items())
        lines.append(f"{metric}{{{labels}}} {row['value']}")
    return "".join(f"{line}\n" for line in lines)
