"""What people were told already: `ops.alerts_sent`, one row per alert and channel.

An alert is active from when it becomes due until its cause is gone, and is sent once in that time, even across
restarts. It is recorded before sending and again after delivery, so a crash in between repeats a message rather than
losing it. Instants are UTC without a zone, as tables hold them.
"""

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from credits_pipeline import clock
from credits_pipeline.warehouse import fetch_dicts

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection as Connection

EXHAUSTED: Final = "exhausted"
RUN_OUT: Final = "run_out"
RUN_FAILED: Final = "run_failed"
STALE: Final = "stale"
SPEND: Final = "spend"

URGENCY: Final = (EXHAUSTED, RUN_OUT, RUN_FAILED, STALE, SPEND)
"""Kinds of alerts, the most urgent first."""

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


@dataclass(frozen=True)
class Pending:
    """An alert that one channel, known by its fingerprint, has not accepted yet."""

    key: str
    channel: str
    title: str
    body: str


def active(con: "Connection") -> list[Alert]:
    """Alerts that became due earlier and whose cause is not gone; of each its newest record."""
    rows = fetch_dicts(
        con,
        """
        select alert_key as key, kind, title, body, account, threshold_days, run_out_p50, as_of, run_id, due_at
        from ops.alerts_sent where cleared_at is null
        qualify row_number() over (partition by alert_key order by due_at desc, channel) = 1
        order by alert_key
        """,
    )
    return [Alert(**row) for row in rows]


def pending(con: "Connection", accounts: Sequence[str]) -> list[Pending]:
    """What channels have not accepted yet, for `accounts` (those that still have a key), the most urgent first.

    Of one account's credits only the nearest: used up, else the nearest threshold.
    """
    rows = fetch_dicts(
        con,
        """
        select a.alert_key as key, a.channel, a.title, a.body from ops.alerts_sent a
        where a.sent_at is null and a.cleared_at is null
            and (a.kind in ('exhausted', 'run_out', 'stale') or a.due_at >= $since)
            and (a.account is null or list_contains($accounts, a.account))
            and not exists (
                select 1 from ops.alerts_sent nearer
                where nearer.account = a.account and a.kind = 'run_out' and nearer.cleared_at is null
                    and (
                        nearer.kind = 'exhausted'
                        or (nearer.kind = 'run_out' and nearer.threshold_days < a.threshold_days)
                    )
            )
        order by list_position($urgency, a.kind), a.run_out_p50 nulls last, a.account, a.due_at, a.alert_key, a.channel
        """,
        {"since": now() - RETRY_FOR, "accounts": list(accounts), "urgency": list(URGENCY)},
    )
    return [Pending(**row) for row in rows]


def record(con: "Connection", due: Sequence[Alert], channels: Sequence[str]) -> None:
    """Write down, before anything is sent, what is due on each of `channels` (fingerprints, or LOG)."""
    for alert in due:
        row = asdict(alert) | {"alert_key": alert.key, "due_at": now()}
        for name in ("key", "is_superseded"):
            del row[name]
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


def mark_delivered(con: "Connection", taken: Sequence[Pending]) -> None:
    for message in taken:
        con.execute(
            """
            update ops.alerts_sent set sent_at = ?
            where alert_key = ? and channel = ? and sent_at is null and cleared_at is null
            """,
            [now(), message.key, message.channel],
        )


def newest(con: "Connection", most: int) -> tuple[list[str], list[tuple[Any, ...]]]:
    """Column names and the newest rows, for people to look at."""
    cursor = con.execute(
        """
        select due_at, sent_at, cleared_at, account, kind, threshold_days, channel, title
        from ops.alerts_sent order by due_at desc, alert_key, channel limit ?
        """,
        [most],
    )
    return [column[0] for column in cursor.description], cursor.fetchall()


def now() -> datetime:
    return clock.now().replace(tzinfo=None)
