"""A warehouse whose marts say what a test wants them to, passes of alerts over it, and a server that takes messages."""

import logging
from collections.abc import Iterator
from datetime import date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from credits_pipeline import clock, config
from credits_pipeline.alerts import due
from credits_pipeline.alerts import notify as alerts
from credits_pipeline.warehouse import Warehouse
from credits_pipeline_tests.models import create_marts
from credits_pipeline_tests.receiver import Receiver

LOG = logging.getLogger("credits_pipeline_tests.alerts")

MARTS = (
    *("credits_runway", "spend_summary", "credit_events", "unusual_spend", "key_limits"),
    *("month_outlook", "daily_spend_by_model", "daily_spend_by_key", "topup_plan", "topup_outlook", "credit_lots"),
    *("daily_spend", "spend_summary_by_member", "runway_history"),
)


class World:
    """A warehouse whose marts say what a test wants them to, and passes of alerts over it."""

    def __init__(self, data_dir: Path) -> None:
        self.env = {
            "OPENROUTER_API_KEY": "sk-or-v1-default",
            "OPENROUTER_API_KEY_ACME": "sk-or-v1-acme",
            "CREDITS_DATA_DIR": str(data_dir),
        }
        self.data_dir = data_dir
        with self.warehouse.writing("making the marts of a test") as con:
            create_marts(con, *MARTS)

    @property
    def warehouse(self) -> Warehouse:
        return Warehouse(self.data_dir / "warehouse.duckdb", lock_timeout_s=5)

    def channels(self, *urls: str) -> None:
        self.env["CREDITS_ALERT_URLS"] = ",".join(urls)

    def execute(self, sql: str, **values: Any) -> None:
        with self.warehouse.writing("setting up a test") as con:
            con.execute(sql, values)

    def runway(self, left: int | None, account: str = "default", **columns: Any) -> None:
        """The newest row of an account, whose credits last `left` days from the running day."""
        as_of = clock.now().replace(tzinfo=None)
        until = None if left is None else as_of.date() + timedelta(days=left)
        row = {
            "account": account, "as_of": as_of, "status": "ok", "is_early": False, "balance_usd": Decimal("41.20"),
            "spend_7d_usd": Decimal("45.10"), "spend_30d_usd": Decimal("180"),
            "expected_daily_spend_usd": Decimal("6.4"),
            "days_left_p50": None if left is None else left + 1,  # from the close of the day before
            "run_out_p10": until and until - timedelta(days=1), "run_out_p50": until,
            "run_out_p90": until and until + timedelta(days=3), "probability_7d": 0.63, "probability_30d": 0.995,
            "history_days": 200, "calibration_80": 0.78,
            "explanation": "The date moved 2 days nearer: spend was above expectation.",
            "is_unused": False, "urgency": left, **columns,
        }  # fmt: skip
        self.execute("delete from marts.credits_runway where account = $account", account=account)
        self.insert("credits_runway", row)

    def top_up(self, account: str = "default") -> None:
        """Seen by the reading of the present instant."""
        at = clock.now().replace(tzinfo=None)
        self.insert("credit_events", {"account": account, "event_at_latest": at, "kind": "top_up"})

    def spend(self, day: date, usd: str, *, account: str = "default", **columns: Any) -> None:
        """A row of `unusual_spend`: a day above what seemed possible, and a model that caused it."""
        row = {
            "account": account, "spend_date": day, "unusual_usd": usd, "method": "billed", "observed_usd": usd,
            "billed_usd": usd, "possible_usd": "18.3", "usual_usd": "5", "cause_rank": 1, "model": "vendor/new",
            "model_usd": "30", "model_usual_usd": "0", **columns,
        }  # fmt: skip
        self.insert("unusual_spend", row)

    def topup_plan(self, until: date, usd: str, charged: str, account: str = "default") -> None:
        row = {"account": account, "until_date": until, "confidence": 0.9, "is_advised": True}
        self.insert("topup_plan", row | {"credits_usd": usd, "charged_usd": charged})

    def topup_rule(self, *, below_since: datetime | None = None, **columns: Any) -> None:
        """The automatic top-up 10:50 of the account `default`, by default as its last top-ups suggest it."""
        row = {
            "account": "default", "as_of": clock.now().replace(tzinfo=None), "below_usd": 10, "buys_usd": 50,
            "is_suggestion": True, "below_since": below_since, "is_overdue": False, **columns,
        }  # fmt: skip
        self.execute("delete from marts.topup_outlook")
        self.insert("topup_outlook", row)

    def insert(self, mart: str, row: dict[str, Any]) -> None:
        names, marks = ", ".join(row), ", ".join(f"${name}" for name in row)
        self.execute(f"insert into marts.{mart} ({names}) values ({marks})", **row)

    def send(self, detect: alerts.Detector = due.by_marts) -> alerts.Sent:
        """A pass as the asset makes it, by a program that remembers nothing of earlier ones."""
        return alerts.notify(config.load(self.env), self.warehouse, detect, run_id="run-1", log=LOG)

    def due(self) -> list[str]:
        return [alert.key for alert in self.send().due]

    def rows(self, columns: str = "alert_key, channel, sent_at is not null, cleared_at is not null") -> list[Any]:
        with self.warehouse.reading() as con:
            return con.execute(f"select {columns} from ops.alerts_sent order by due_at, alert_key, channel").fetchall()


@pytest.fixture
def world(tmp_path: Path, now: clock.FrozenClock) -> World:
    return World(tmp_path / "data")


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as running:
        yield running
