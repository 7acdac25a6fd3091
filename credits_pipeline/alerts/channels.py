"""Sends messages with Apprise's command line, so that no address can hold up a run, block another or leak its secret.

Every address has a process of its own, because only a process can be ended whatever it waits for (name lookups and
servers that send byte by byte ignore time limits). Apprise prints addresses: nothing that it prints is passed on.
"""

import hashlib
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

# Apprise itself waits 4 s to connect and 4 s for a reply; several recipients, a slow mail server and 1 s to start
# fit below this. A sensor tick has 60 s.
SEND_LIMIT_S = 20

# Apprise takes its options from variables too. The title stands in one, because every user of a machine can read the
# arguments of a process; `-P` keeps the current directory out of what is imported.
APPRISE = (sys.executable, "-P", "-c", "from apprise.cli import main; main(auto_envvar_prefix='APPRISE')")

# Our own variables: the process that delivers messages does not need a management key.
_OURS = ("OPENROUTER_", "CREDITS_", "APPRISE_")

# Unless the address says otherwise: of a longer message what the service takes (Discord 2,000, Telegram 4,096
# characters), in one piece; and no other host than the one that is named.
_DEFAULTS = {"overflow": "truncate", "redirect": "no"}


@dataclass(frozen=True)
class Channel:
    """One address, and the name that stands for it in logs: its scheme and its position, never more."""

    url: str = field(repr=False)
    name: str

    @property
    def fingerprint(self) -> str:
        """Scheme and 8 hex digits in place of the address; deliveries are remembered under it.

        Slow to compute on purpose: a mail password can be weak, and backups of the warehouse leave the machine.
        """
        digest = hashlib.scrypt(self.url.encode(), salt=b"credits_pipeline alerts", n=2**14, r=8, p=1, dklen=4)
        return f"{_scheme(self.url)}-{digest.hex()}"


@dataclass(frozen=True)
class Outcome:
    """What became of one message on one channel; `reason` is one of this module's sentences, "" where delivered."""

    channel: str
    delivered: bool
    reason: str = ""


def channels(urls: Sequence[str]) -> tuple[Channel, ...]:
    """The channels of `CREDITS_ALERT_URLS`, each once, named such as "slack (2 of 3)"."""
    distinct = list(dict.fromkeys(urls))
    return tuple(
        Channel(url, f"{_scheme(url)} ({place} of {len(distinct)})") for place, url in enumerate(distinct, start=1)
    )


def send(
    messages: Sequence[tuple[Channel, str, str]], *, attached: Path | None = None, limit_s: float = SEND_LIMIT_S
) -> list[Outcome]:
    """Deliver each (channel, title, body), all at the same time and within `limit_s` seconds. Never raises.

    The file `attached`, if there is one, goes along where the service takes files.
    """
    if not messages:
        return []
    with ThreadPoolExecutor(max_workers=len(messages)) as pool:
        return list(pool.map(lambda message: _send(*message, attached=attached, limit_s=limit_s), messages))


def environment(url: str, title: str) -> dict[str, str]:
    """The environment of the process that sends: proxies and certificates, but no key and no other address.

    Nothing of Apprise's own is used: no configuration, no files to remember things in, no plugins of the user's.
    """
    defaults = [f"{name}={value}" for name, value in _DEFAULTS.items() if f"{name}=" not in url.lower()]
    return {name: value for name, value in os.environ.items() if not name.startswith(_OURS)} | {
        "APPRISE_URLS": f"{url}{'&' if '?' in url else '?'}{'&'.join(defaults)}",
        "APPRISE_TITLE": title,
        "APPRISE_NOTIFICATION_TYPE": "warning",
        "APPRISE_STORAGE_MODE": "memory",
        "APPRISE_PLUGIN_PATH": os.devnull,
        "APPRISE_VERBOSE": "1",
        "PYTHONUTF8": "1",
    }


def _send(channel: Channel, title: str, body: str, *, attached: Path | None, limit_s: float) -> Outcome:
    files = [f"--attach={attached.as_uri()}"] if attached and attached.is_file() else []
    try:
        done = subprocess.run(  # noqa: S603
            [*APPRISE, f"--limit={limit_s}", *files],  # the limit ends it even if this process is killed
            input=body.encode(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment(channel.url, title),
            timeout=limit_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Outcome(channel.name, False, f"it did not answer within {limit_s:g} s")
    except OSError:
        return Outcome(channel.name, False, "the process that sends could not be started")
    if done.returncode == 0:
        return Outcome(channel.name, True)
    return Outcome(channel.name, False, _reason(done.stdout.decode(errors="replace")))


def _reason(printed: str) -> str:
    """The one fact worth reporting of what Apprise printed, in words of our own."""
    if status := re.search(r"\berror=([1-5][0-9]{2})\b", printed):
        return f"it did not accept the message (HTTP {status[1]})"
    if "onnection error" in printed or "Socket Exception" in printed:
        return "it could not be reached"
    if "at least one service URL" in printed:
        return "Apprise does not know this kind of address, or something in it is missing"
    return "it did not accept the message"


def _scheme(url: str) -> str:
    return url.partition("://")[0].lower()
