"""What the marts make due: `<kind>.sql` says what stands, and a macro of `messages.txt.j2` says it to people.

SQL decides what the figures mean; here is decided when somebody is told again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from credits_pipeline import clock
from credits_pipeline.alerts.memory import FOLDER, PAST_EVENTS, URGENCY, Alert, now
from credits_pipeline.alerts.messages import message
from credits_pipeline.config import Settings
from credits_pipeline.warehouse import Connection, fetch_dicts

QUERIES: Final = ("exhausted", "topup_overdue", "key_limit", "budget", "spend", "expiry")
"""Kinds of alerts that are due once for every `key` that their query gives, until it gives it no more; a past event
once and for all. The macro takes the query's row, and the account's row of `runways.sql`."""

WEEK: Final = timedelta(days=7)

Row = dict[str, Any]


@dataclass(frozen=True)
class Changes:
    """What a detector found: alerts that are due, and the keys of active ones whose cause is gone."""

    due: tuple[Alert, ...] = ()
    resolved: frozenset[str] = frozenset()


def by_marts(con: Connection, active: Sequence[Alert], settings: Settings) -> Changes:
    """What the marts make due, for the accounts that have a key: the others are no longer read."""
    accounts = {account.name for account in settings.accounts}
    found = fetch_dicts(con, FOLDER / "runways.sql", {"thresholds": list(settings.alert_days)})
    runways = {row["account"]: row for row in found if row["account"] in accounts}
    order = list(runways)  # the most urgent first
    due = [
        replace(
            _alert(crossing["key"], row, crossing["threshold"]),
            threshold_days=crossing["threshold"],
            is_superseded=crossing["is_superseded"] and not row["is_automatic"],
        )
        for row in runways.values()
        for crossing in row["due"]
    ]
    resolved = {key for row in runways.values() for key in row["resolved"]}
    for kind in QUERIES:
        rows = [row for row in fetch_dicts(con, FOLDER / f"{kind}.sql") if row["account"] in runways]
        stands = sorted(rows, key=lambda row: order.index(row["account"]))
        due += [_alert(f"{kind}/{row['key']}", runways[row["account"]], row) for row in stands]
        mine = {a.key for a in active if a.kind == kind and a.account in runways and kind not in PAST_EVENTS}
        resolved |= mine - {alert.key for alert in due}
    return Changes(tuple(due), frozenset(resolved))


def by_age(
    read: Mapping[str, datetime], active: Sequence[Alert], settings: Settings, watched: dict[str, str], limit: timedelta
) -> Changes:
    """An alert per account with a key whose newest reading is older than `limit` (`Settings.stale_after`).

    `read`: when each was read last (naive, UTC), of those that ever were. `watched` is kept between calls: since when
    (ISO 8601) an account that was never read is known.
    """
    now, newest = clock.now(), {account.name: read.get(account.name) for account in settings.accounts}
    never_read = {name: watched.get(name, now.isoformat()) for name, at in newest.items() if at is None}
    watched.clear()
    watched.update(never_read)
    since = {n: at.replace(tzinfo=UTC) if at else datetime.fromisoformat(watched[n]) for n, at in newest.items()}
    old = {name: (now - at) // timedelta(hours=1) for name, at in since.items() if now - at > limit}
    found = []
    for name, hours in old.items():
        words = message("stale", name, newest[name], hours, len(old) < len(newest))
        found.append(Alert(f"stale/{name}", "stale", *words, account=name, as_of=newest[name]))
    read_again = {a.key for a in active if a.kind == "stale" and a.account in newest.keys() - old.keys()}
    return Changes(tuple(found), frozenset(read_again))


def by_week(con: Connection, active: Sequence[Alert], settings: Settings) -> Changes:
    """The weekly digest, short enough for a phone, due once on the running day: what a week cost, and what comes."""
    times = {"since": now() - WEEK, "stale_before": now() - settings.stale_after}
    kinds = {"urgency": list(URGENCY), "past": list(PAST_EVENTS)}
    asked = {"accounts": [account.name for account in settings.accounts], **times, **kinds}
    rows = fetch_dicts(con, FOLDER / "digest.sql", asked)
    due = [Alert(f"digest/{clock.today()}", "digest", *message("digest", rows))] if rows else []
    return Changes(tuple(due))


def _alert(key: str, runway: Row, fact: Any) -> Alert:
    kind = key.partition("/")[0]
    about = {name: runway[name] for name in ("account", "as_of", "run_out_p50")}
    return Alert(key, kind, *message(kind, fact, runway), **about)
