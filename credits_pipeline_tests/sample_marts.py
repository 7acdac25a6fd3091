"""A published copy with believable contents, made without the pipeline: what report.html is tested and looked at on.

Deterministic; "now" is NOW. The columns are those that the pipeline publishes.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any

import duckdb
import yaml

from credits_pipeline.config import PROJECT_ROOT

NOW = datetime(2026, 11, 22, 0, 5)
TODAY = NOW.date()

MODELS = (
    "anthropic/claude-sonnet-4.5",
    "openai/gpt-5.2",
    "google/gemini-3-flash",
    "deepseek/deepseek-v3.2",
    "meta-llama/llama-4-maverick",
    "mistralai/mistral-large-3",
    "qwen/qwen3-max",
    "x-ai/grok-4",
)

PUBLISHED = {
    "run_id": "VARCHAR",
    "published_at": "TIMESTAMP",
    "as_of": "TIMESTAMP",
    "version": "VARCHAR",
    "is_simulated": "BOOLEAN",
}


@cache
def columns() -> dict[str, dict[str, str]]:
    """The columns of every mart and their types, as the models' own documentation gives them."""
    documented = [
        model
        for file in sorted((PROJECT_ROOT / "dbt_like_sql" / "models" / "marts").glob("*.yml"))
        for model in yaml.safe_load(file.read_text(encoding="utf-8"))["models"]
    ]
    return {"published": PUBLISHED} | {
        model["name"]: {column["name"]: column["data_type"] for column in model["columns"]}
        for model in documented
    }


def create(con: duckdb.DuckDBPyConnection) -> None:
    """Every mart, empty."""
    con.execute("create schema marts")
    for table, types in columns().items():
        con.execute(
            f"create table marts.{table} ({', '.join(f'{name} {kind}' for name, kind in types.items())})"
        )


@dataclass
class Sample:
    """One account's past: `days` of history to today's reading, so much a day, so much left."""

    account: str
    days: int = 365
    daily_usd: float = 5.0
    balance_usd: float = 180.0
    status: str = "ok"
    models: Sequence[str] = MODELS
    spread: float = 1.3
    gap: Sequence[int] = (30, 31)
    billed_days: int = 40
    as_of: datetime = NOW
    top_up_usd: float = 200.0
    seed: str = ""


def _money(value: float) -> Decimal:
    return Decimal(f"{value:.9f}")


def rows_of(sample: Sample) -> dict[str, list[dict[str, Any]]]:
    """The marts of one account, as rows by table."""
    rng = random.Random(sample.seed or sample.account)
    first = sample.as_of.date() - timedelta(days=sample.days)
    days = [first + timedelta(days=n) for n in range(sample.days + 1)]
    spend = []
    for n, day in enumerate(days):
        usual = sample.daily_usd * (1 + 0.4 * math.sin(n / 40)) * (0.45 if day.weekday() > 4 else 1.15)
        spend.append(0.0 if sample.status == "idle" else usual * rng.uniform(0.5, 1.5))
    spend[-1] *= 0.02
    balance, closes, events = sample.balance_usd, [], []
    for n in range(len(days) - 1, -1, -1):
        closes.append(balance)
        balance += spend[n]
        if sample.top_up_usd and balance > sample.balance_usd + sample.top_up_usd:
            balance -= sample.top_up_usd
            at = datetime.combine(days[n], time(0, 5))
            events.append((at, at + timedelta(days=1), "top_up", sample.top_up_usd))
    closes.reverse()
    out: dict[str, list[dict[str, Any]]] = {
        name: [] for name in ("daily_spend", "daily_balance", "credit_events")
    }
    for n, (day, amount, close) in enumerate(zip(days, spend, closes, strict=True)):
        ago = len(days) - 1 - n
        method = "interpolated" if ago in sample.gap else "billed" if ago > sample.billed_days else "observed"
        out["daily_spend"].append(
            {
                "account": sample.account, "spend_date": day, "spend_usd": _money(amount), "method": method,
                "is_complete": ago > 0, "observed_usd": _money(amount), "residual_usd": None,
                "billed_usd": None if ago in sample.gap else _money(amount), "readings": 1,
            }
        )  # fmt: skip
        if ago > 0:
            out["daily_balance"].append(
                {
                    "account": sample.account, "balance_date": day, "total_credits": None, "total_usage": None,
                    "balance_usd": None if ago == 33 else _money(close), "is_estimated": ago in sample.gap,
                }
            )  # fmt: skip
    out["credit_events"] = [
        {
            "account": sample.account,
            "event_at_earliest": a,
            "event_at_latest": b,
            "kind": k,
            "amount_usd": _money(v),
        }
        for a, b, k, v in reversed(events)
    ]
    out["daily_spend_by_model"] = [
        {
            "account": sample.account, "spend_date": day, "model": model, "spend_usd": _money(amount * share),
            "byok_usd": Decimal(0), "requests": rng.randrange(5, 900),
            "prompt_tokens": rng.randrange(10_000, 9_000_000), "completion_tokens": rng.randrange(1_000, 900_000),
            "share_of_day": share,
        }
        for day, amount in zip(days, spend, strict=True)
        for model, share in _shares(sample.models, rng)
        if amount
    ]  # fmt: skip
    out["credits_readings"] = [
        {
            "account": sample.account, "observed_at": sample.as_of, "snapshot_date": sample.as_of.date(),
            "total_credits": None, "total_usage": None, "balance_usd": _money(sample.balance_usd), "source": "api",
        }
    ]  # fmt: skip
    out |= _forecast(sample, spend, days)
    out |= _checks(sample, out["daily_balance"], rng)
    return out


def _checks(
    sample: Sample, closes: Sequence[dict[str, Any]], rng: random.Random
) -> dict[str, list[dict[str, Any]]]:
    """What was forecast on the last nights, and how good the replayed forecasts were."""
    history = []
    for row in [row for row in closes if row["balance_usd"] and row["balance_usd"] > 0][-90:]:
        ahead = float(row["balance_usd"]) / sample.daily_usd * rng.uniform(0.85, 1.15)
        night = {
            "account": sample.account,
            "as_of_date": row["balance_date"],
            "balance_usd": row["balance_usd"],
        }
        for p, factor in ((10, 1 / sample.spread), (50, 1.0), (90, sample.spread)):
            left = max(1, round(ahead * factor))
            night |= {f"days_left_p{p}": left, f"run_out_p{p}": row["balance_date"] + timedelta(days=left)}
        history.append(night)
    replays = max(0, sample.days - 7)
    accuracy = [
        {
            "account": sample.account, "horizon_days": days, "replays": replays - days, "coverage_80": right,
            "pinball_loss_usd": _money(sample.daily_usd * days * 0.04), "brier_score": 0.08, "flat_7d_coverage_80": 0.0,
            "flat_7d_pinball_loss_usd": _money(sample.daily_usd * days * 0.055), "flat_7d_brier_score": 0.12,
        }
        for days, right in ((7, 0.83), (14, 0.79), (30, 0.74))
        if replays > days
    ]  # fmt: skip
    return {"runway_history": history if sample.status == "ok" else [], "forecast_accuracy": accuracy}


def _shares(models: Sequence[str], rng: random.Random) -> list[tuple[str, float]]:
    weights = [rng.uniform(0.2, 1) / (n + 1) for n in range(len(models))]
    return [(model, weight / sum(weights)) for model, weight in zip(models, weights, strict=True)]


def _forecast(
    sample: Sample, spend: Sequence[float], days: Sequence[date]
) -> dict[str, list[dict[str, Any]]]:
    last = days[-2] if len(days) > 1 else days[-1]
    mean = sum(spend[-31:-1]) / max(1, len(spend[-31:-1]))
    left = {}
    for p, factor in ((10, sample.spread), (50, 1.0), (90, 1 / sample.spread)):
        ahead = math.ceil(sample.balance_usd / (mean * factor)) if mean > 0 else 999
        left[p] = ahead if ahead <= 365 and sample.status == "ok" else None
    out = {p: last + timedelta(days=max(n, 1)) if n is not None else None for p, n in left.items()}
    if sample.status == "exhausted":
        left, out = dict.fromkeys(left, 0), dict.fromkeys(out, days[-1])
    runway = {
        "account": sample.account, "as_of": sample.as_of, "status": sample.status,
        "is_early": sample.days < 14 and sample.status == "ok", "balance_usd": _money(sample.balance_usd),
        "spend_7d_usd": _money(sum(spend[-8:-1])), "spend_30d_usd": _money(sum(spend[-31:-1])),
        "expected_daily_spend_usd": _money(mean), "days_left_p10": left[10], "days_left_p50": left[50],
        "days_left_p90": left[90], "run_out_p10": out[10], "run_out_p50": out[50], "run_out_p90": out[90],
        "probability_7d": 0.01, "probability_30d": 0.2, "history_days": sample.days, "imputed_days": len(sample.gap),
        "method": "fuel_gauge_v1", "calibration_80": 0.81,
        "explanation": f"At about ${mean:,.2f} a day the balance of ${sample.balance_usd:,.2f} is spent in some weeks.",
    }  # fmt: skip
    fan = [
        {
            "account": sample.account, "forecast_date": last + timedelta(days=h),
            "spend_p10": _money(mean * h / sample.spread), "spend_p50": _money(mean * h),
            "spend_p90": _money(mean * h * sample.spread),
            "balance_p10": _money(sample.balance_usd - mean * h * sample.spread),
            "balance_p50": _money(sample.balance_usd - mean * h),
            "balance_p90": _money(sample.balance_usd - mean * h / sample.spread),
        }
        for h in range(1, 366)
        if mean > 0
    ]  # fmt: skip
    return {"credits_runway": [runway], "balance_forecast": fan}


def publish(path: Path, samples: Sequence[Sample], *, is_simulated: bool = False) -> Path:
    """A published copy with these accounts."""
    with duckdb.connect(str(path)) as con:
        create(con)
        row = {
            "run_id": "0f4c",
            "published_at": NOW,
            "as_of": NOW,
            "version": "0.1.0",
            "is_simulated": is_simulated,
        }
        insert(con, "published", [row])
        tables: dict[str, list[dict[str, Any]]] = {}
        for sample in samples:
            for table, rows in rows_of(sample).items():
                tables.setdefault(table, []).extend(rows)
        for table, rows in tables.items():
            insert(con, table, rows)
    return path


def insert(con: duckdb.DuckDBPyConnection, table: str, rows: Sequence[dict[str, Any]]) -> None:
    """Rows into a mart, by column name and through its own types."""
    if rows:
        types, names = columns()[table], list(rows[0])
        selected = ", ".join(f"unnest(?::{types[name]}[])" for name in names)
        con.execute(
            f"insert into marts.{table} ({', '.join(names)}) select {selected}",
            [[row[name] for row in rows] for name in names],
        )
