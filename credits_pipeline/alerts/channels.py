"""Sends messages to Apprise addresses so that none of them can hold up a run, block another, or leak its secret.

Every address has a process of its own, because only a process can be ended whatever it waits for (name lookups and
servers that send byte by byte ignore time limits), and because Apprise and urllib3 log whole URLs at DEBUG: what that
process prints is thrown away, and all that comes back is one of the sentences below.
"""

import hashlib
import json
import logging
import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

# Apprise itself waits 4 s to connect and 4 s for a reply; several recipients, a slow mail server and 0.5 s to start
# fit below this. A sensor tick has 60 s.
SEND_LIMIT_S = 20

# Of a longer message Apprise keeps what the service takes (Discord 2,000, Telegram 4,096 characters), in one piece.
_OVERFLOW = "truncate"

# Our own variables: the process that delivers messages does not need a management key.
_OURS = ("OPENROUTER_", "CREDITS_", "APPRISE_")

DELIVERED = "delivered"
UNKNOWN_ADDRESS = "Apprise does not know this kind of address, or something in it is missing"
UNREACHABLE = "it could not be reached"
NOT_TAKEN = "it did not accept the message"


@dataclass(frozen=True)
class Channel:
    """One address, and the name that stands for it in logs: its scheme and its position, never more."""

    url: str = field(repr=False)
    name: str

    @property
    def scheme(self) -> str:
        return self.url.partition("://")[0].lower()

    @property
    def fingerprint(self) -> str:
        """Scheme and 8 hex digits in place of the address; deliveries are remembered under it.

        Slow to compute on purpose: a mail password can be weak, and backups of the warehouse leave the machine.
        """
        digest = hashlib.scrypt(
            self.url.encode(), salt=b"credits_pipeline alerts", n=2**14, r=8, p=1, dklen=4
        )
        return f"{self.scheme}-{digest.hex()}"


@dataclass(frozen=True)
class Outcome:
    """What became of one message on one channel; `reason` is one of this module's sentences."""

    channel: str
    delivered: bool
    reason: str


def channels(urls: Sequence[str]) -> tuple[Channel, ...]:
    """The channels of `CREDITS_ALERT_URLS`, each once, named such as "slack (2nd of 3)"."""
    distinct = list(dict.fromkeys(urls))
    return tuple(
        Channel(url, f"{url.partition('://')[0].lower()} ({_nth(place)} of {len(distinct)})")
        for place, url in enumerate(distinct, start=1)
    )


def send(messages: Sequence[tuple[Channel, str, str]], *, limit_s: float = SEND_LIMIT_S) -> list[Outcome]:
    """Deliver each (channel, title, body), all at the same time and within `limit_s` seconds. Never raises."""
    if not messages:
        return []
    with ThreadPoolExecutor(max_workers=len(messages)) as pool:
        return list(pool.map(lambda message: _send(*message, limit_s=limit_s), messages))


def _send(channel: Channel, title: str, body: str, *, limit_s: float) -> Outcome:
    order = {"url": channel.url, "title": title, "body": body, "limit_s": limit_s}
    try:
        done = subprocess.run(
            [sys.executable, "-m", "credits_pipeline.alerts.channels"],
            input=json.dumps(order).encode(),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=Path(
                __file__
            ).parent.parent.parent,  # where the package is found, however this process was started
            env=environment(),
            timeout=limit_s,
            check=False,
        )
        said = done.stdout.decode(errors="replace").strip()
    except subprocess.TimeoutExpired:
        said = f"it did not answer within {limit_s:g} s"
    except OSError:
        said = "the process that sends could not be started"
    return Outcome(channel.name, said == DELIVERED, said or NOT_TAKEN)


def environment() -> dict[str, str]:
    """The environment of the process that sends: proxies and certificates, but no key."""
    return {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}


def _nth(number: int) -> str:
    ending = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"


# -- the process that sends --------------------------------------------------------------------------------------


class _WhatWentWrong(logging.Handler):
    """Reads from Apprise's log the one fact worth reporting, in words of our own: a log line may hold the address."""

    verdict = NOT_TAKEN

    def emit(self, record: logging.LogRecord) -> None:
        line = record.getMessage()
        if status := re.search(r"\berror=([1-5][0-9]{2})\b", line):
            self.verdict = f"{NOT_TAKEN} (HTTP {status[1]})"
        elif "onnection error" in line or "Socket Exception" in line:
            self.verdict = UNREACHABLE


def _deliver(url: str, title: str, body: str) -> str:
    import apprise

    said = _WhatWentWrong()
    logger = logging.getLogger("apprise")
    logger.addHandler(said)
    logger.setLevel(logging.DEBUG)
    # Nothing on disk, no code from elsewhere (there are no plugin paths), no second host; a name such as `:smile:`
    # or `\n` in a message stays literal.
    asset = apprise.AppriseAsset(
        app_id="credits_pipeline",
        app_desc="Credits of OpenRouter accounts",
        storage_mode="memory",
        http_redirects=False,
        interpret_emojis=False,
        interpret_escapes=False,
        pgp_autogen=False,
        pem_autogen=False,
    )
    service = apprise.Apprise.instantiate(url, asset=asset)
    if service is None:
        return UNKNOWN_ADDRESS
    if "overflow=" not in url.lower():
        service.overflow_mode = apprise.OverflowMode(_OVERFLOW)
    notifier = apprise.Apprise(asset=asset)
    notifier.add(service)
    sent = notifier.notify(
        body=body, title=title, body_format=apprise.NotifyFormat.TEXT, notify_type="warning"
    )
    return DELIVERED if sent else said.verdict


def main() -> None:
    """Deliver the message on stdin, and say on stdout, in one line, what became of it."""
    order = json.loads(sys.stdin.read())
    limit_s = order.pop("limit_s")
    if hasattr(signal, "alarm"):  # ends this process even if its parent was killed
        signal.alarm(int(limit_s) + 5)
    verdict = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):  # whatever Apprise or a plugin prints
        os.dup2(nowhere, descriptor)
    print(_deliver(**order), file=verdict, flush=True)
    os._exit(0)  # a plugin's thread that still waits must not keep the process alive


if __name__ == "__main__":
    main()
