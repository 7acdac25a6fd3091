"""What the marts make due: `<kind>.sql` says what stands, and a macro of `messages.txt.j2` says it to people.

SQL decides what the figures mean; here is decided when somebody is told again.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from credits_pipeline import clock
from credits_pipeline.alerts.memory import PAST_EVENTS, Alert
from credits_pipeline.alerts.messages import message
from credits_pipeline.config import Settings
from credits_pipeline.warehouse import fetch_dicts

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection as Connection

FOLDER: Final = Path(__file__).parent

QUERIES: Final = ("exhausted", "topup_overdue", "key_limit", "budget", "spend", "expiry")
"""Kinds of alerts that are due once for every `key` that their query gives, until it gives it no more; a past event
once and for all. The macro takes the query's row, and the account's row of `runways.sql`."""

REARM_MARGIN: Final = 0.2
"""An alert re-arms only once the date has moved this share of the threshold (at least a day) past it: the date varies
by about that much from one reading to the next."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Changes:
    """What a detector found: alerts that are due, and the keys of active ones whose cause is gone."""

    due: tuple[Alert, ...] = ()
    resolved: frozenset[str] = frozenset()

    def __add__(self, other: "Changes") -> "Changes":
        return Changes(self.due + other.due, self.resolved | other.resolved)


def by_marts(con: "Connection", active: Sequence[Alert], settings: Settings) -> Changes:
    """What the marts make due, for the accounts that have a key: the others are no longer read."""
    accounts = {account.name for account in settings.accounts}
    rows = fetch_dicts(con, FOLDER / "runways.sql")
    runways = {row["account"]: row for row in rows if row["account"] in accounts}
    found, most_urgent_first = Changes(), list(runways)
    for name, row in runways.items():
        found += by_runway(row, [a for a in active if a.account == name], settings.alert_days)
    for kind in QUERIES:
        rows = [row for row in fetch_dicts(con, FOLDER / f"{kind}.sql") if row["account"] in runways]
        stands = sorted(rows, key=lambda row: most_urgent_first.index(row["account"]))
        due = tuple(_alert(f"{kind}/{row['key']}", runways[row["account"]], row) for row in stands)
        mine = {a.key for a in active if a.kind == kind and a.account in runways and kind not in PAST_EVENTS}
        found += Changes(due, frozenset(mine - {alert.key for alert in due}))
    return found


def by_runway(runway: Row, active: Sequence[Alert], thresholds: Collection[int]) -> Changes:
    """What a row of `runways.sql` makes due: at most one alert to send, about the nearest threshold crossed.

    Where credits are bought automatically nothing is due; where they only seem to be, the first crossing says so, and
    the others nothing.
    """
    if runway["status"] == "exhausted":
        return Changes()  # an alert of its own
    account, is_automatic = runway["account"], runway["is_automatic"]
    if is_automatic and not runway["is_suggestion"]:
        return Changes(resolved=frozenset(a.key for a in active if a.kind == "run_out"))
    automatic = f"run_out/{account}/automatic"
    is_broken = not is_automatic and any(a.key == automatic for a in active)
    resolved = {
        a.key for a in active if a.kind == "run_out" and (is_broken or (a.key != automatic and _is_resolved(a, runway)))
    }
    left = _days_left(runway)
    crossed = [] if left is None else sorted(t for t in thresholds if left < t)
    known = {a.threshold_days for a in active if a.threshold_days and a.key not in resolved | {automatic}}
    alerts = [
        replace(
            _alert(f"run_out/{account}/{threshold}", runway, threshold),
            threshold_days=threshold,
            is_superseded=threshold > min(crossed[0], *known, threshold),
        )
        for threshold in crossed
        if threshold not in known
    ]
    if alerts and is_automatic:
        alerts = [replace(alerts[0], key=automatic, is_superseded=False)]
    return Changes(tuple(alerts), frozenset(resolved))


def by_age(
    read: Mapping[str, datetime], active: Sequence[Alert], settings: Settings, watched: dict[str, str], limit: timedelta
) -> Changes:
    """An alert per account with a key whose newest reading is older than `limit` (`Settings.stale_after`).

    `read`: when each was read last (naive, UTC), of those that ever were. `watched` is kept between calls: since when
    (ISO 8601) an account that was never read is known.
    """
    now = clock.now()
    newest = {account.name: read.get(account.name) for account in settings.accounts}
    never_read = {name: watched.get(name, now.isoformat()) for name, at in newest.items() if at is None}
    watched.clear()
    watched.update(never_read)
    ages = {
        name: now - (at.replace(tzinfo=UTC) if at else datetime.fromisoformat(watched[name]))
        for name, at in newest.items()
    }
    old = {name: int(age / timedelta(hours=1)) for name, age in ages.items() if age > limit}
    found = [
        Alert(
            f"stale/{name}",
            "stale",
            *message("stale", name, newest[name], hours, len(old) < len(newest)),
            account=name,
            as_of=newest[name],
        )
        for name, hours in old.items()
    ]
    read_again = {a.key for a in active if a.kind == "stale" and a.account in newest.keys() - old.keys()}
    return Changes(tuple(found), frozenset(read_again))


def _alert(key: str, runway: Row, fact: Any) -> Alert:
    kind = key.partition("/")[0]
    about = {name: runway[name] for name in ("account", "as_of", "run_out_p50")}
    return Alert(key, kind, *message(kind, fact, runway), **about)


def _days_left(runway: Row) -> int | None:
    """Days from the newest reading's to the likely run-out: what the thresholds of CREDITS_ALERT_DAYS count."""
    return (runway["run_out_p50"] - runway["as_of"].date()).days if runway["run_out_p50"] else None


def _is_resolved(alert: Alert, runway: Row) -> bool:
    """Whether a crossed threshold is re-armed: the date moved well beyond it, or credits were bought.

    A top-up re-arms it as soon as the date lies beyond it; also if the top-up is already spent by this reading, which
    shows in a date that has moved by more than the threshold.
    """
    threshold, left = alert.threshold_days or 0, _days_left(runway)
    if left is None:  # idle, or beyond a year; too little history says nothing
        return bool(runway["status"] != "accumulating")
    if left >= threshold + max(1, math.ceil(REARM_MARGIN * threshold)):
        return True
    bought = runway["topped_up_at"]
    if bought is None or alert.as_of is None or bought <= alert.as_of:
        return False
    moved = (runway["run_out_p50"] - alert.run_out_p50).days if alert.run_out_p50 else 0
    return bool(left >= threshold or moved >= threshold)
