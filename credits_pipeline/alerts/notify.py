"""Which alerts are due, which were sent, and sending the rest; independent of Dagster.

State is kept in `ops.alerts_sent`. An alert is active from when it becomes due until its cause is gone, and is sent
once in that time, even across restarts. It is recorded before sending and again after delivery, so a crash in between
repeats a message rather than losing it.
"""

import logging
import math
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import filelock

from credits_pipeline import clock
from credits_pipeline.alerts import channels, messages
from credits_pipeline.alerts.channels import Channel, Outcome
from credits_pipeline.config import Settings
from credits_pipeline.warehouse import Warehouse, fetch_dicts

if TYPE_CHECKING:
    import duckdb

EXHAUSTED: Final = "exhausted"
RUN_OUT: Final = "run_out"
RUN_FAILED: Final = "run_failed"
STALE: Final = "stale"
SPEND: Final = "spend"

URGENCY: Final = (EXHAUSTED, RUN_OUT, RUN_FAILED, STALE, SPEND)
"""Kinds of alerts, the most urgent first."""

REARM_MARGIN: Final = 0.2
"""An alert re-arms only once the date has moved this share of the threshold (at least a day) past it: the date varies
by about that much from one reading to the next."""

SPEND_DAYS: Final = 3
"""Days before the newest reading that are checked for unusually high spend: late bills arrive within them. Older days
are old news, and a first run would report a whole year of them."""

USUAL_DAYS: Final = 28
"""Days before it that define what is usual: whole weeks, so that each weekday counts the same."""

MODELS_NAMED: Final = 3
LEAST_SPEND_USD: Final = "0.01"
"""A day that cost less raises no alert, however unusual."""

RETRY_FOR: Final = timedelta(days=3)
"""How long to keep trying to deliver news of a past event; an active cause is tried until it is gone."""

WAIT_FOR_OTHERS_S: Final = 30
"""Longer than one pass takes (`channels.SEND_LIMIT_S` and some milliseconds)."""

LOG: Final = "log"
SUPERSEDED: Final = "covered"


class AlertsBusy(Exception):
    """Another process is sending alerts right now."""


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
    is_superseded: bool = False
    """Recorded, not sent: the alert for a nearer threshold covers it."""


@dataclass(frozen=True)
class ActiveAlert:
    """An alert that became due earlier and whose cause is not gone."""

    key: str
    kind: str
    account: str | None
    threshold_days: int | None
    run_out_p50: date | None
    as_of: datetime | None
    due_at: datetime


@dataclass(frozen=True)
class Changes:
    """What a detector found: alerts that are due, and the keys of active ones whose cause is gone."""

    due: tuple[Alert, ...] = ()
    resolved: frozenset[str] = frozenset()

    def __add__(self, other: "Changes") -> "Changes":
        return Changes(self.due + other.due, self.resolved | other.resolved)


@dataclass(frozen=True)
class Sent:
    """What a pass did. `delivered` counts messages accepted: one per channel, or one per alert in the log."""

    due: tuple[Alert, ...] = ()
    outcomes: tuple[Outcome, ...] = ()
    delivered: int = 0


@dataclass(frozen=True)
class _Pending:
    """An alert that one channel has not accepted yet."""

    key: str
    channel: str
    title: str
    body: str


Detector = Callable[["duckdb.DuckDBPyConnection", Sequence[ActiveAlert]], Changes]


# -- one pass ----------------------------------------------------------------------------------------------------


def send_due(settings: Settings, warehouse: Warehouse, *, run_id: str, log: logging.Logger) -> Sent:
    """Send what the latest marts make due: credits running out, and days of unusually high spend.

    A channel that fails is logged by name and tried again in the next pass. Raises WarehouseError, AlertsBusy.
    """
    return notify(
        settings,
        warehouse,
        lambda con, active: due_by_marts(con, active, settings),
        run_id=run_id,
        log=log,
    )


def notify(
    settings: Settings,
    warehouse: Warehouse,
    detect: Detector,
    *,
    run_id: str | None = None,
    log: logging.Logger,
) -> Sent:
    """One pass: `detect`, record what is due, send it with what is still pending, record what was delivered.

    The warehouse is closed while messages are sent. Raises WarehouseError, AlertsBusy.
    """
    for problem in settings.alert_problems:
        log.warning(problem)
    with _one_at_a_time(settings.data_dir):
        with warehouse.reading("looking for alerts") as con:
            active = _active(con)
            found = _new_alerts(detect(con, active), active, settings, run_id)
            pending = _pending(con, settings)
        if not (found.due or found.resolved or pending):
            return Sent()
        targets = {channel.fingerprint: channel for channel in channels.channels(settings.alert_urls)}
        if found.due or found.resolved:
            with warehouse.writing("recording alerts") as con:
                _clear(con, found.resolved)
                _record(con, found.due, list(targets) or [LOG])
                pending = _pending(con, settings)
        due = tuple(alert for alert in found.due if not alert.is_superseded)
        for alert in due:
            log.warning(f"{alert.title}\n{alert.body}")
        outcomes = _deliver(pending, targets, log)
        taken = [m for m in pending if m.channel in outcomes and outcomes[m.channel].delivered]
        if taken:
            with warehouse.writing("recording which alerts were delivered") as con:
                _mark_delivered(con, taken)
    logged = len(due) if not targets else 0
    delivered = sum(outcome.delivered for outcome in outcomes.values())
    return Sent(due, tuple(outcomes.values()), delivered + logged)


def send_without_memory(settings: Settings, alerts: Sequence[Alert], *, log: logging.Logger) -> list[Outcome]:
    """Send to every channel without recording it: for when the warehouse itself is what failed. Never raises."""
    alerts = [_marked(alert, settings) for alert in alerts]
    for alert in alerts:
        log.warning(f"{alert.title}\n{alert.body}")
    targets = {channel.name: channel for channel in channels.channels(settings.alert_urls)}
    messages_ = [_Pending(a.key, name, a.title, a.body) for name in targets for a in alerts]
    return list(_deliver(messages_, targets, log).values())


def send_test(settings: Settings) -> list[Outcome]:
    """Send one test message to every channel of CREDITS_ALERT_URLS; one outcome per channel."""
    title, body = messages.test()
    if settings.is_simulated:
        title, body = messages.simulated(title, body)
    return channels.send([(channel, title, body) for channel in channels.channels(settings.alert_urls)])


def newest(warehouse: Warehouse, most: int) -> tuple[list[str], list[tuple[Any, ...]]]:
    """Column names and the newest rows of `ops.alerts_sent`, for people to look at."""
    with warehouse.reading("showing the newest alerts") as con:
        cursor = con.execute(
            """
            select due_at, sent_at, cleared_at, account, kind, threshold_days, channel, title
            from ops.alerts_sent order by due_at desc, alert_key, channel limit ?
            """,
            [most],
        )
        return [column[0] for column in cursor.description], cursor.fetchall()


def _marked(alert: Alert, settings: Settings) -> Alert:
    if not settings.is_simulated:
        return alert
    title, body = messages.simulated(alert.title, alert.body)
    return replace(alert, title=title, body=body)


def _new_alerts(
    found: Changes, active: Sequence[ActiveAlert], settings: Settings, run_id: str | None
) -> Changes:
    known = {alert.key for alert in active}
    due = {a.key: a for a in found.due if a.key not in known - found.resolved}
    news = [_marked(replace(alert, run_id=alert.run_id or run_id), settings) for alert in due.values()]
    return Changes(tuple(news), found.resolved & known)


def _deliver(
    pending: Sequence[_Pending], targets: dict[str, Channel], log: logging.Logger
) -> dict[str, Outcome]:
    """One message per channel with everything pending for it; the outcomes, by channel."""
    outgoing = {}
    for key, channel in targets.items():
        if parts := [(m.title, m.body) for m in pending if m.channel == key]:
            outgoing[key] = (channel, *messages.together(parts))
    outcomes = dict(zip(outgoing, channels.send(list(outgoing.values())), strict=True))
    for outcome in outcomes.values():
        if outcome.delivered:
            log.info(f"sent to {outcome.channel}")
        else:
            log.warning(f"not sent to {outcome.channel}: {outcome.reason}; the next run tries again")
    return outcomes


@contextmanager
def _one_at_a_time(data_dir: Path) -> Iterator[None]:
    """Two passes at once would both find the same alert due and send it twice."""
    data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    lock = filelock.FileLock(data_dir / "alerts.lock", timeout=WAIT_FOR_OTHERS_S, mode=0o600)
    try:
        lock.acquire()
    except filelock.Timeout:
        raise AlertsBusy(
            "another run is still sending alerts: what is due now is left to the next run"
        ) from None
    try:
        yield
    finally:
        lock.release()


# -- what is due -------------------------------------------------------------------------------------------------

_RUNWAY = """
    select r.*,
        date_diff('day', cast(as_of as date), run_out_p50) as days_left,
        (
            select max(e.event_at_latest) from marts.credit_events e
            where e.account = r.account and e.kind = 'top_up'
        ) as topped_up_at
    from marts.credits_runway r
    order by account
"""

_SPEND = """
    with complete as (
        select s.account, s.spend_date, s.spend_usd, s.method, h.next_day_p99_usd,
            count(u.spend_date) as days_before, avg(u.spend_usd) as usual_usd
        from marts.daily_spend s
        join marts.credits_runway r on r.account = s.account
        join marts.runway_history h on h.account = s.account and h.as_of_date = s.spend_date - 1
        left join marts.daily_spend u
            on u.account = s.account and u.spend_date between s.spend_date - $usual and s.spend_date - 1
        where s.is_complete and s.method <> 'interpolated'
            and s.spend_date >= cast(r.as_of as date) - $days
            and s.spend_usd >= cast($least as decimal(18, 9))
        group by all
    ),
    -- After half a year without spend there is no forecast, so any spend counts as unexpected.
    possible as (
        select * exclude (next_day_p99_usd, days_before),
            coalesce(next_day_p99_usd, case when days_before = $usual and usual_usd = 0 then 0 end) as possible_usd
        from complete
    )
    select * from possible where spend_usd > possible_usd order by account, spend_date
"""

_MODELS = """
    with before as (
        select count(*) as days from marts.daily_spend
        where account = $account and spend_date between $day - $usual and $day - 1 and billed_usd is not null
    ),
    by_model as (
        select model,
            sum(spend_usd) filter (where spend_date = $day) as spend_usd,
            coalesce(sum(spend_usd) filter (where spend_date < $day), 0) / greatest(any_value(days), 1) as usual_usd
        from marts.daily_spend_by_model, before
        where account = $account and spend_date between $day - $usual and $day
        group by model
    )
    select model, spend_usd, usual_usd from by_model
    where spend_usd > usual_usd
    order by spend_usd - usual_usd desc, model
    limit $most
"""


def due_by_marts(
    con: "duckdb.DuckDBPyConnection", active: Sequence[ActiveAlert], settings: Settings
) -> Changes:
    """What the marts make due, for the accounts that have a key: the others are no longer read."""
    accounts = {account.name for account in settings.accounts}
    runways = {row["account"]: row for row in fetch_dicts(con, _RUNWAY) if row["account"] in accounts}
    found = Changes()
    for account, runway in runways.items():
        found += due_by_runway(runway, [s for s in active if s.account == account], settings.alert_days)
    high = {"days": SPEND_DAYS, "usual": USUAL_DAYS, "least": LEAST_SPEND_USD}
    for day in fetch_dicts(con, _SPEND, high):
        if day["account"] in accounts:
            found += Changes((_spend_alert(con, day, runways[day["account"]]),))
    return found


def due_by_runway(
    runway: dict[str, Any], active: Sequence[ActiveAlert], thresholds: Collection[int]
) -> Changes:
    """What one row of `credits_runway` makes due: at most one alert, about the nearest threshold crossed."""
    as_of = runway["as_of"].replace(tzinfo=UTC)
    account: str = runway["account"]
    facts: dict[str, Any] = {"account": account, "as_of": as_of, "run_out_p50": runway["run_out_p50"]}
    if runway["status"] == EXHAUSTED:
        title, body = messages.exhausted(runway)
        return Changes((Alert(f"{EXHAUSTED}/{account}", EXHAUSTED, title, body, **facts),))
    resolved = frozenset(
        s.key for s in active if s.kind == EXHAUSTED or (s.kind == RUN_OUT and _is_resolved(s, runway))
    )
    if runway["days_left"] is None:
        return Changes(resolved=resolved)
    crossed = sorted(t for t in thresholds if runway["days_left"] < t)
    known = {s.threshold_days for s in active if s.threshold_days and s.key not in resolved}
    due = []
    for threshold in crossed:
        if threshold not in known:
            title, body = messages.run_out(runway, threshold)
            alert = Alert(
                f"{RUN_OUT}/{account}/{threshold}", RUN_OUT, title, body, **facts, threshold_days=threshold
            )
            due.append(replace(alert, is_superseded=threshold > min(crossed[0], *known, threshold)))
    return Changes(tuple(due), resolved)


def _is_resolved(alert: ActiveAlert, runway: dict[str, Any]) -> bool:
    """Whether a crossed threshold is re-armed: the date moved well beyond it, or credits were bought.

    A top-up re-arms it as soon as the date lies beyond it; also if the top-up is already spent by this reading, which
    shows in a date that has moved by more than the threshold.
    """
    threshold = alert.threshold_days or 0
    left = runway["days_left"]
    if left is None:
        return bool(
            runway["status"] != "accumulating"
        )  # idle, or beyond a year; too little history says nothing
    if left >= threshold + max(1, math.ceil(REARM_MARGIN * threshold)):
        return True
    bought = runway["topped_up_at"]
    if bought is None or alert.as_of is None or bought.replace(tzinfo=UTC) <= alert.as_of:
        return False
    moved = (runway["run_out_p50"] - alert.run_out_p50).days if alert.run_out_p50 else 0
    return bool(left >= threshold or moved >= threshold)


def _spend_alert(con: "duckdb.DuckDBPyConnection", day: dict[str, Any], runway: dict[str, Any]) -> Alert:
    asked = {"account": day["account"], "day": day["spend_date"], "usual": USUAL_DAYS, "most": MODELS_NAMED}
    title, body = messages.spend(day, fetch_dicts(con, _MODELS, asked), runway)
    return Alert(
        key=f"{SPEND}/{day['account']}/{day['spend_date']}",
        kind=SPEND,
        title=title,
        body=body,
        account=day["account"],
        run_out_p50=runway["run_out_p50"],
        as_of=runway["as_of"].replace(tzinfo=UTC),
    )


# -- the memory --------------------------------------------------------------------------------------------------

_STILL_WANTED = """
    a.sent_at is null and a.cleared_at is null
    and (a.kind in ('exhausted', 'run_out', 'stale') or a.due_at >= $since)
    and (a.account is null or a.account in (select unnest($accounts)))
    and not exists (
        select 1 from ops.alerts_sent nearer
        where nearer.account = a.account and a.kind = 'run_out' and nearer.cleared_at is null
            and (nearer.kind = 'exhausted' or (nearer.kind = 'run_out' and nearer.threshold_days < a.threshold_days))
    )
"""


def _active(con: "duckdb.DuckDBPyConnection") -> list[ActiveAlert]:
    rows = con.execute(
        """
        select alert_key, any_value(kind), any_value(account), any_value(threshold_days), max(run_out_p50),
            max(as_of), max(due_at)
        from ops.alerts_sent where cleared_at is null
        group by alert_key order by alert_key
        """
    ).fetchall()
    return [
        ActiveAlert(
            key,
            kind,
            account,
            threshold,
            run_out,
            as_of and as_of.replace(tzinfo=UTC),
            due_at.replace(tzinfo=UTC),
        )
        for key, kind, account, threshold, run_out, as_of, due_at in rows
    ]


def _pending(con: "duckdb.DuckDBPyConnection", settings: Settings) -> list[_Pending]:
    """What channels have not accepted yet, for accounts that still have a key, the most urgent first."""
    rows = con.execute(
        f"""
        select a.alert_key, a.channel, a.title, a.body from ops.alerts_sent a
        where {_STILL_WANTED}
        order by list_position($urgency, a.kind), a.due_at, a.alert_key, a.channel
        """,
        {
            "since": _naive(clock.now() - RETRY_FOR),
            "accounts": [account.name for account in settings.accounts],
            "urgency": list(URGENCY),
        },
    ).fetchall()
    return [_Pending(*row) for row in rows]


def _record(con: "duckdb.DuckDBPyConnection", due: Sequence[Alert], targets: Sequence[str]) -> None:
    now = _naive(clock.now())
    for alert in due:
        for channel in [SUPERSEDED] if alert.is_superseded else targets:
            con.execute(
                "insert into ops.alerts_sent by position values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, null, ?)",
                [
                    alert.key,
                    alert.kind,
                    alert.account,
                    alert.threshold_days,
                    alert.run_out_p50,
                    _naive(alert.as_of) if alert.as_of else None,
                    channel,
                    alert.title,
                    alert.body,
                    now,
                    now if channel in (LOG, SUPERSEDED) else None,
                    alert.run_id,
                ],
            )


def _clear(con: "duckdb.DuckDBPyConnection", keys: Collection[str]) -> None:
    con.execute(
        "update ops.alerts_sent set cleared_at = $now where cleared_at is null and list_contains($keys, alert_key)",
        {"now": _naive(clock.now()), "keys": sorted(keys)},
    )


def _mark_delivered(con: "duckdb.DuckDBPyConnection", taken: Sequence[_Pending]) -> None:
    now = _naive(clock.now())
    for message in taken:
        con.execute(
            """
            update ops.alerts_sent set sent_at = ?
            where alert_key = ? and channel = ? and sent_at is null and cleared_at is null
            """,
            [now, message.key, message.channel],
        )


def _naive(at: datetime) -> datetime:
    return at.astimezone(UTC).replace(tzinfo=None)
