"""One pass of the alerts: find what is due, record it, send it with what is still pending, record what was delivered.

Independent of Dagster. What a channel does not accept is tried again by the next pass.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from credits_pipeline import files
from credits_pipeline.alerts import channels, memory, messages
from credits_pipeline.alerts.channels import Channel, Outcome
from credits_pipeline.alerts.due import Changes
from credits_pipeline.alerts.memory import Alert
from credits_pipeline.config import Settings
from credits_pipeline.errors import CreditsError
from credits_pipeline.warehouse import AnyWarehouse, Connection

WAIT_FOR_OTHERS_S: Final = 30
"""Longer than one pass takes (`channels.SEND_LIMIT_S` and some milliseconds)."""

Detector = Callable[[Connection, Sequence[Alert], Settings], Changes]
"""Reads the warehouse and the active alerts, and says what changed: `due.by_marts`, or a sensor's own."""


class AlertsBusy(CreditsError):
    """Another process is sending alerts right now."""


@dataclass(frozen=True)
class Sent:
    """What a pass did. `delivered` counts messages accepted: one per channel, or one per alert in the log."""

    due: tuple[Alert, ...] = ()
    outcomes: tuple[Outcome, ...] = ()
    delivered: int = 0


def notify(
    settings: Settings,
    warehouse: AnyWarehouse,
    detect: Detector,
    *,
    run_id: str | None = None,
    log: logging.Logger,
) -> Sent:
    """Send what `detect` finds. One pass at a time, so that no two find the same alert due and send it twice.

    A channel that fails is logged by name and tried again in the next pass. The warehouse is closed while messages
    are sent. Raises WarehouseError, AlertsBusy.
    """
    for problem in settings.alert_problems:
        log.warning(problem)
    accounts = [account.name for account in settings.accounts]
    busy = AlertsBusy("another run is still sending alerts: what is due now is left to the next run")
    with files.only_one(settings.data_dir / "alerts.lock", otherwise=busy, timeout_s=WAIT_FOR_OTHERS_S):
        with warehouse.reading("looking for alerts") as con:
            active = {alert.key: alert for alert in memory.active(con)}
            found = detect(con, list(active.values()), settings)
            pending = memory.pending(con, accounts)
        resolved = found.resolved & active.keys()
        news = {a.key: a for a in found.due if a.key not in active.keys() - resolved}
        new = [_marked(replace(alert, run_id=alert.run_id or run_id), settings) for alert in news.values()]
        targets = {channel.fingerprint: channel for channel in channels.channels(settings.alert_urls)}
        if new or resolved:
            with warehouse.writing("recording alerts") as con:
                memory.clear(con, resolved)
                memory.record(con, new, list(targets) or [memory.LOG])
                pending = memory.pending(con, accounts)
        new = [alert for alert in new if not alert.is_superseded]
        for alert in new:
            log.warning(f"{alert.title}\n{alert.body}")
        # Once: where a service does not take the file, the message is tried again without.
        attached = settings.report_path if any(alert.kind == "digest" for alert in new) else None
        outcomes = _deliver(pending, targets, log, attached)
        taken = [(at, alert) for at, alert in pending if at in outcomes and outcomes[at].delivered]
        if taken:
            with warehouse.writing("recording which alerts were delivered") as con:
                memory.mark_delivered(con, taken)
    delivered = sum(outcome.delivered for outcome in outcomes.values()) if targets else len(new)
    return Sent(tuple(new), tuple(outcomes.values()), delivered)


def send_without_memory(settings: Settings, alert: Alert, *, log: logging.Logger) -> None:
    """Send to every channel without recording it: for when the warehouse itself is what failed. Never raises."""
    alert = _marked(alert, settings)
    log.warning(f"{alert.title}\n{alert.body}")
    targets = {channel.name: channel for channel in channels.channels(settings.alert_urls)}
    _deliver([(name, alert) for name in targets], targets, log)


def send_test(settings: Settings) -> list[Outcome]:
    """Send one test message to every channel of CREDITS_ALERT_URLS; one outcome per channel."""
    test = _marked(Alert("test", "test", *messages.message("test")), settings)
    return channels.send([(channel, test.title, test.body) for channel in channels.channels(settings.alert_urls)])


def _marked(alert: Alert, settings: Settings) -> Alert:
    """Nobody should take the demo's money for real."""
    if not settings.is_simulated:
        return alert
    said = "SIMULATED: these figures come from a simulated API; no real money is involved."
    return replace(alert, title=f"[SIMULATED] {alert.title}", body=f"{alert.body}\n{said}")


def _deliver(
    pending: Sequence[tuple[str, Alert]],
    targets: dict[str, Channel],
    log: logging.Logger,
    attached: Path | None = None,
) -> dict[str, Outcome]:
    """One message per channel with everything pending for it; the outcomes, by channel."""
    outgoing = {}
    for key, channel in targets.items():
        if parts := [(alert.title, alert.body) for at, alert in pending if at == key]:
            outgoing[key] = (channel, *messages.together(parts))
    outcomes = dict(zip(outgoing, channels.send(list(outgoing.values()), attached=attached), strict=True))
    for outcome in outcomes.values():
        if outcome.delivered:
            log.info(f"sent to {outcome.channel}")
        else:
            log.warning(f"not sent to {outcome.channel}: {outcome.reason}; the next run tries again")
    return outcomes
