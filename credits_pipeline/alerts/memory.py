"""What people were told already: `ops.alerts_sent`, one row per alert and channel.

An alert is active from when it becomes due until its cause is gone, and is sent once in that time, even across
restarts. It is recorded before sending and again after delivery, so a crash in between repeats a message rather than
losing it. Instants are UTC without a zone, as tables hold them.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from credits_pipeline import clock
from credits_pipeline.warehouse import Connection, fetch_dicts

FOLDER: Final = Path(__file__).parent

URGENCY: Final = (
    *("exhausted", "topup_overdue", "run_out", "key_limit", "budget", "run_failed", "stale", "spend"),
    *("expiry", "digest"),
)
"""Kinds of alerts, the most urgent first."""

PAST_EVENTS: Final = ("run_failed", "spend", "key_limit", "budget", "expiry", "digest")
"""Kinds that are told once for all, for the day, month or window in their key; the others stand until they are gone."""

RETRY_FOR: Final = timedelta(days=3)
"""How long to keep trying to deliver news of a past event; an active cause is tried until it is gone."""

LOG: Final = "log"
SUPERSEDED: Final = "covered"


@dataclass(frozen=True)
class Alert:
    """Something people must hear about. `key`: what it is about; at most one alert per key is active at a time."""

    key: str
    kind: str
    title: str
    body: str
    account: str | None = None
    threshold_days: int | None = None
    run_out_p50: date | None = None
    as_of: datetime | None = None
    run_id: str | None = None
    due_at: datetime | None = None
    """Null until it is recorded."""
    is_superseded: bool = False
    """Recorded, not sent: the alert for a nearer threshold covers it."""


# The fields that are columns of the same name.
COLUMNS = tuple(field.name for field in fields(Alert) if field.name not in {"key", "is_superseded"})


def active(con: Connection) -> list[Alert]:
    """Alerts that became due earlier and whose cause is not gone."""
    return [_alert(row) for row in fetch_dicts(con, FOLDER / "active.sql")]


def pending(con: Connection, accounts: Sequence[str]) -> list[tuple[str, Alert]]:
    """What channels (by fingerprint) have not accepted yet, the most urgent first, for `accounts` that have a key."""
    asked = {"since": now() - RETRY_FOR, "past": list(PAST_EVENTS), "accounts": accounts, "urgency": list(URGENCY)}
    return [(row["channel"], _alert(row)) for row in fetch_dicts(con, FOLDER / "pending.sql", asked)]


def _alert(row: dict[str, Any]) -> Alert:
    return Alert(row["alert_key"], **{name: row[name] for name in COLUMNS})


def record(con: Connection, due: Sequence[Alert], channels: Sequence[str]) -> None:
    """Write down, before anything is sent, what is due on each of `channels` (fingerprints, or LOG)."""
    for alert in due:
        row = {name: getattr(alert, name) for name in COLUMNS} | {"alert_key": alert.key, "due_at": now()}
        for channel in [SUPERSEDED] if alert.is_superseded else channels:
            row |= {"channel": channel, "sent_at": now() if channel in (LOG, SUPERSEDED) else None}
            marks = ", ".join(f"${name} as {name}" for name in row)
            con.execute(f"insert into ops.alerts_sent by name select {marks}", row)


def clear(con: Connection, keys: Collection[str]) -> None:
    """The cause of these alerts is gone: the next time is an alert again."""
    con.execute(
        "update ops.alerts_sent set cleared_at = ? where cleared_at is null and list_contains(?, alert_key)",
        [now(), sorted(keys)],
    )


def mark_delivered(con: Connection, taken: Sequence[tuple[str, Alert]]) -> None:
    """These channels (by fingerprint) have accepted these alerts."""
    for channel, alert in taken:
        con.execute(
            "update ops.alerts_sent set sent_at = ? where channel = ? and alert_key = ? and sent_at is null",
            [now(), channel, alert.key],
        )


def now() -> datetime:
    return clock.now().replace(tzinfo=None)
