"""The weekly digest: what the last 7 days cost and what comes, in one message that is short enough for a phone."""

from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from credits_pipeline import clock
from credits_pipeline.alerts import memory
from credits_pipeline.alerts.due import FOLDER, Changes
from credits_pipeline.alerts.memory import Alert
from credits_pipeline.alerts.messages import SIMULATED, message
from credits_pipeline.config import Settings
from credits_pipeline.warehouse import fetch_dicts

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection as Connection

PERIOD: Final = timedelta(days=7)
MOST_ALERTS: Final = 5
IN_THE_TEXT: Final = ("exhausted", "run_out", "digest")
"""Of these the digest gives the figures of today."""


def by_week(con: "Connection", active: Sequence[Alert], settings: Settings) -> Changes:
    """The digest of the running day, due once on it: all accounts with a key, and the alerts that stand or are new."""
    rows = fetch_dicts(con, FOLDER / "digest.sql", {"accounts": [account.name for account in settings.accounts]})
    if not rows:
        return Changes()
    since = memory.now() - PERIOD
    told = [
        alert
        for alert in sorted(active, key=lambda alert: memory.URGENCY.index(alert.kind))
        if alert.kind not in IN_THE_TEXT
        and (alert.kind not in memory.PAST_EVENTS or (alert.due_at and alert.due_at >= since))
    ]
    titles = [alert.title.removeprefix(f"[{SIMULATED}] ") for alert in told][:MOST_ALERTS]
    age = {"seen_at": clock.now(), "after": settings.stale_after}
    return Changes((Alert(f"digest/{clock.today()}", "digest", *message("digest", rows, titles, age)),))
