"""What people were told already: `ops.alerts_sent`, one row per alert and channel.

An alert is active from when it becomes due until its cause is gone, and is sent once in that time, even across
restarts. It is recorded before sending and again after delivery, so a crash in between repeats a message rather than
losing it. Instants are UTC without a zone, as tables hold them.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from credits_pipeline import clock

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection as Connection

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


# The fields that are columns of the same name, in the order of the fields.
COLUMNS = tuple(field.name for field in fields(Alert) if field.name not in {"key", "is_superseded"})


def active(con: "Connection") -> list[Alert]:
    """Alerts that became due earlier and whose cause is not gone; of each its newest record."""
    newest = "qualify row_number() over (partition by alert_key order by due_at desc, channel) = 1"
    return [alert for _, alert in _alerts(con, f"cleared_at is null {newest} order by alert_key")]


def pending(con: "Connection", accounts: Sequence[str]) -> list[tuple[str, Alert]]:
    """What channels (by fingerprint) have not accepted yet, the most urgent first.

    For `accounts`, those that still have a key; of one account's credits only the nearest: used up, else the nearest
    threshold.
    """
    still_wanted = """
        sent_at is null and cleared_at is null
        and (not list_contains($past, kind) or due_at >= $since)
        and (account is null or list_contains($accounts, account))
        and not exists (
            select 1 from ops.alerts_sent nearer
            where nearer.account = a.account and a.kind = 'run_out' and nearer.cleared_at is null
                and (nearer.kind = 'exhausted' or nearer.kind = 'run_out' and nearer.threshold_days < a.threshold_days)
        )
        order by list_position($urgency, kind), run_out_p50 nulls last, due_at, a.rowid
    """
    values = {"since": now() - RETRY_FOR, "past": list(PAST_EVENTS), "accounts": list(accounts)}
    return _alerts(con, still_wanted, values | {"urgency": list(URGENCY)})


def _alerts(con: "Connection", where: str, values: Any = None) -> list[tuple[str, Alert]]:
    columns = ", ".join(["channel", "alert_key as key", *COLUMNS])
    rows = con.execute(f"select {columns} from ops.alerts_sent a where {where}", values).fetchall()
    return [(channel, Alert(*row)) for channel, *row in rows]


def record(con: "Connection", due: Sequence[Alert], channels: Sequence[str]) -> None:
    """Write down, before anything is sent, what is due on each of `channels` (fingerprints, or LOG)."""
    for alert in due:
        row = {name: getattr(alert, name) for name in COLUMNS} | {"alert_key": alert.key, "due_at": now()}
        for channel in [SUPERSEDED] if alert.is_superseded else channels:
            row |= {"channel": channel, "sent_at": now() if channel in (LOG, SUPERSEDED) else None}
            names, marks = ", ".join(row), ", ".join(f"${name}" for name in row)
            con.execute(f"insert into ops.alerts_sent ({names}) values ({marks})", row)


def clear(con: "Connection", keys: Collection[str]) -> None:
    """The cause of these alerts is gone: the next time is an alert again."""
    con.execute(
        "update ops.alerts_sent set cleared_at = ? where cleared_at is null and list_contains(?, alert_key)",
        [now(), sorted(keys)],
    )


def mark_delivered(con: "Connection", taken: Sequence[tuple[str, Alert]]) -> None:
    """These channels (by fingerprint) have accepted these alerts."""
    for channel, alert in taken:
        con.execute(
            "update ops.alerts_sent set sent_at = ? where channel = ? and alert_key = ? and sent_at is null",
            [now(), channel, alert.key],
        )


def now() -> datetime:
    return clock.now().replace(tzinfo=None)
