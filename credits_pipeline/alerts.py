"""Which alerts are due, which went out, and sending what is left; knows no Dagster.

The memory is `ops.alerts_sent`: an alert *stands* from when it is due until its cause is over, and is due only once
in between, whatever restarts. It is written down before it is sent and once more when a channel has taken it: a
crash in between repeats a message rather than losing one.
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

from credits_pipeline import channels, clock, messages
from credits_pipeline.channels import Channel, Outcome
from credits_pipeline.config import Settings
from credits_pipeline.warehouse import Warehouse

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
"""Share of a threshold, at least a day, by which the date must have moved beyond it before it counts as crossed
anew: from one reading to the next the date wanders by about that much."""

SPEND_DAYS: Final = 3
"""Days before the newest reading that are looked at for too high a spend: late bills arrive within them. Older ones
are no news, and the first run would report a year of them."""

USUAL_DAYS: Final = 28
"""Days before that say what is usual: whole weeks, so that each weekday counts the same."""

MODELS_NAMED: Final = 3
LEAST_SPEND_USD: Final = "0.01"
"""A day that cost less is no alarm, however unusual."""

RETRY_FOR: Final = timedelta(days=3)
"""How long a message about something past is worth delivering late; what still stands is tried until it is over."""

WAIT_FOR_OTHERS_S: Final = 30
"""Longer than a pass takes (`channels.SEND_LIMIT_S` and some milliseconds)."""

LOG: Final = "log"
COVERED: Final = "covered"


class AlertsBusy(Exception):
    """Another process is sending alerts right now."""


@dataclass(frozen=True)
class Alert:
    """Something people must hear about. `key`: what it is about; one alert of a key stands at a time."""

    key: str
    kind: str
    title: str
    body: str
    account: str | None = None
    threshold_days: int | None = None
    run_out_p50: date | None = None
    as_of: datetime | None = None
    run_id: str | None = None
    is_covered: bool = False
    """Written down, not sent: the alert of a nearer threshold says it as well."""


@dataclass(frozen=True)
class Standing:
    """An alert that was due before and whose cause is not over."""

    key: str
    kind: str
    account: str | None
    threshold_days: int | None
    run_out_p50: date | None
    as_of: datetime | None
    due_at: datetime


@dataclass(frozen=True)
class Found:
    """What a look at the figures found: alerts that are due, and keys of standing ones whose cause is over."""

    due: tuple[Alert, ...] = ()
    over: frozenset[str] = frozenset()

    def __add__(self, other: "Found") -> "Found":
        return Found(self.due + other.due, self.over | other.over)


@dataclass(frozen=True)
class Sent:
    """What a pass did. `delivered` counts messages taken: one per channel, or one in the log."""

    due: tuple[Alert, ...] = ()
    outcomes: tuple[Outcome, ...] = ()
    delivered: int = 0


@dataclass(frozen=True)
class _Waiting:
    """An alert that one channel has not taken yet."""

    key: str
    channel: str
    title: str
    body: str


Look = Callable[["duckdb.DuckDBPyConnection", Sequence[Standing]], Found]


# -- one pass ----------------------------------------------------------------------------------------------------


def send_due(settings: Settings, warehouse: Warehouse, *, run_id: str, log: logging.Logger) -> Sent:
    """Send what the newest marts make due: credits that run out, and days that cost too much.

    A channel that fails is logged by name and tried again in the next pass. Raises WarehouseError, AlertsBusy.
    """
    return notify(
        settings,
        warehouse,
        lambda con, standing: due_by_marts(con, standing, settings),
        run_id=run_id,
        log=log,
    )


def notify(
    settings: Settings, warehouse: Warehouse, look: Look, *, run_id: str | None = None, log: logging.Logger
) -> Sent:
    """One pass: `look`, write down what is due, send it and what waits from before, write down what was taken.

    The warehouse is closed while messages travel. Raises WarehouseError, AlertsBusy.
    """
    for problem in settings.alert_problems:
        log.warning(problem)
    with _one_at_a_time(settings.data_dir):
        with warehouse.reading("looking for alerts") as con:
            standing = _standing(con)
            found = _news(look(con, standing), standing, settings, run_id)
            waiting = _waiting(con, settings)
        if not (found.due or found.over or waiting):
            return Sent()
        targets = {channel.fingerprint: channel for channel in channels.channels(settings.alert_urls)}
        if found.due or found.over:
            with warehouse.writing("writing down alerts") as con:
                _clear(con, found.over)
                _write_down(con, found.due, list(targets) or [LOG])
                waiting = _waiting(con, settings)
        due = tuple(alert for alert in found.due if not alert.is_covered)
        for alert in due:
            log.warning(f"{alert.title}\n{alert.body}")
        outcomes = _deliver(waiting, targets, log)
        taken = [m for m in waiting if m.channel in outcomes and outcomes[m.channel].delivered]
        if taken:
            with warehouse.writing("writing down which alerts were taken") as con:
                _taken(con, taken)
    logged = len(due) if not targets else 0
    delivered = sum(outcome.delivered for outcome in outcomes.values())
    return Sent(due, tuple(outcomes.values()), delivered + logged)


def send_without_memory(settings: Settings, alerts: Sequence[Alert], *, log: logging.Logger) -> list[Outcome]:
    """Send to every channel and remember nothing: for when the warehouse itself is what fails. Never raises."""
    alerts = [_marked(alert, settings) for alert in alerts]
    for alert in alerts:
        log.warning(f"{alert.title}\n{alert.body}")
    targets = {channel.name: channel for channel in channels.channels(settings.alert_urls)}
    messages_ = [_Waiting(a.key, name, a.title, a.body) for name in targets for a in alerts]
    return list(_deliver(messages_, targets, log).values())


def send_test(settings: Settings) -> list[Outcome]:
    """Send one test message to every channel of CREDITS_ALERT_URLS and say what became of each."""
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


def _news(found: Found, standing: Sequence[Standing], settings: Settings, run_id: str | None) -> Found:
    known = {alert.key for alert in standing}
    due = {a.key: a for a in found.due if a.key not in known - found.over}
    news = [_marked(replace(alert, run_id=alert.run_id or run_id), settings) for alert in due.values()]
    return Found(tuple(news), found.over & known)


def _deliver(
    waiting: Sequence[_Waiting], targets: dict[str, Channel], log: logging.Logger
) -> dict[str, Outcome]:
    """One message per channel with all that it has to get; the outcomes, by channel."""
    outgoing = {}
    for key, channel in targets.items():
        if parts := [(m.title, m.body) for m in waiting if m.channel == key]:
            outgoing[key] = (channel, *messages.together(parts))
    outcomes = dict(zip(outgoing, channels.send(list(outgoing.values())), strict=True))
    for outcome in outcomes.values():
        if outcome.delivered:
            log.info(f"sent to {outcome.channel}")
        else:
            log.warning(f"not sent to {outcome.channel}: {outcome.reason}; it is tried again next time")
    return outcomes


@contextmanager
def _one_at_a_time(data_dir: Path) -> Iterator[None]:
    """Two passes at once would both find the same alert due, and send it twice."""
    data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    lock = filelock.FileLock(data_dir / "alerts.lock", timeout=WAIT_FOR_OTHERS_S, mode=0o600)
    try:
        lock.acquire()
    except filelock.Timeout:
        raise AlertsBusy(
            "another run is sending alerts and takes long: what is due now is left to the next run"
        ) from None
    try:
        yield
    finally:
        lock.release()


# -- what is due -------------------------------------------------------------------------------------------------

_RUNWAY = """
    select r.*,
        date_diff('day', cast(as_of as date), run_out_p50) as days_left,
        cast(30 * expected_daily_spend_usd as decimal(18, 2)) as expected_30d_usd,
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
    -- After half a year without spend there is no forecast; what anybody then held possible is nothing.
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


def due_by_marts(con: "duckdb.DuckDBPyConnection", standing: Sequence[Standing], settings: Settings) -> Found:
    """What the marts make due, for the accounts that have a key: of others there is no news."""
    accounts = {account.name for account in settings.accounts}
    runways = {row["account"]: row for row in _rows(con, _RUNWAY) if row["account"] in accounts}
    found = Found()
    for account, runway in runways.items():
        found += due_by_runway(runway, [s for s in standing if s.account == account], settings.alert_days)
    high = {"days": SPEND_DAYS, "usual": USUAL_DAYS, "least": LEAST_SPEND_USD}
    for day in _rows(con, _SPEND, high):
        if day["account"] in accounts:
            found += Found((_spend_alert(con, day, runways[day["account"]]),))
    return found


def due_by_runway(runway: dict[str, Any], standing: Sequence[Standing], thresholds: Collection[int]) -> Found:
    """What one row of `credits_runway` makes due: at most one alert, about the nearest threshold crossed."""
    as_of = runway["as_of"].replace(tzinfo=UTC)
    account: str = runway["account"]
    facts: dict[str, Any] = {"account": account, "as_of": as_of, "run_out_p50": runway["run_out_p50"]}
    if runway["status"] == EXHAUSTED:
        title, body = messages.exhausted(runway)
        return Found((Alert(f"{EXHAUSTED}/{account}", EXHAUSTED, title, body, **facts),))
    over = frozenset(
        s.key for s in standing if s.kind == EXHAUSTED or (s.kind == RUN_OUT and _is_over(s, runway))
    )
    if runway["days_left"] is None:
        return Found(over=over)
    crossed = sorted(t for t in thresholds if runway["days_left"] < t)
    known = {s.threshold_days for s in standing if s.threshold_days and s.key not in over}
    due = []
    for threshold in crossed:
        if threshold not in known:
            title, body = messages.run_out(runway, threshold)
            alert = Alert(
                f"{RUN_OUT}/{account}/{threshold}", RUN_OUT, title, body, **facts, threshold_days=threshold
            )
            due.append(replace(alert, is_covered=threshold > min(crossed[0], *known, threshold)))
    return Found(tuple(due), over)


def _is_over(alert: Standing, runway: dict[str, Any]) -> bool:
    """Whether a threshold that was crossed is armed again: its date moved well beyond it, or credits were bought.

    A top-up arms it as soon as the date lies beyond it; also when the top-up is already used up by the time of this
    reading, which shows in a date that has moved by more than the threshold.
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
    title, body = messages.spend(day, _rows(con, _MODELS, asked), runway)
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


def _standing(con: "duckdb.DuckDBPyConnection") -> list[Standing]:
    rows = con.execute(
        """
        select alert_key, any_value(kind), any_value(account), any_value(threshold_days), max(run_out_p50),
            max(as_of), max(due_at)
        from ops.alerts_sent where cleared_at is null
        group by alert_key order by alert_key
        """
    ).fetchall()
    return [
        Standing(
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


def _waiting(con: "duckdb.DuckDBPyConnection", settings: Settings) -> list[_Waiting]:
    """What channels have not taken yet of accounts that still have a key, the most urgent first."""
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
    return [_Waiting(*row) for row in rows]


def _write_down(con: "duckdb.DuckDBPyConnection", due: Sequence[Alert], targets: Sequence[str]) -> None:
    now = _naive(clock.now())
    for alert in due:
        for channel in [COVERED] if alert.is_covered else targets:
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
                    now if channel in (LOG, COVERED) else None,
                    alert.run_id,
                ],
            )


def _clear(con: "duckdb.DuckDBPyConnection", keys: Collection[str]) -> None:
    con.execute(
        "update ops.alerts_sent set cleared_at = $now where cleared_at is null and list_contains($keys, alert_key)",
        {"now": _naive(clock.now()), "keys": sorted(keys)},
    )


def _taken(con: "duckdb.DuckDBPyConnection", taken: Sequence[_Waiting]) -> None:
    now = _naive(clock.now())
    for message in taken:
        con.execute(
            """
            update ops.alerts_sent set sent_at = ?
            where alert_key = ? and channel = ? and sent_at is null and cleared_at is null
            """,
            [now, message.key, message.channel],
        )


def _rows(
    con: "duckdb.DuckDBPyConnection", sql: str, parameters: dict[str, Any] | None = None
) -> list[dict[str, Any]]:
    cursor = con.execute(sql, parameters or {})
    names = [column[0] for column in cursor.description]
    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def _naive(at: datetime) -> datetime:
    return at.astimezone(UTC).replace(tzinfo=None)
