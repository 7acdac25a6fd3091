"""The environment as typed settings. A wrong value becomes a problem to report, never an exception.

`load` reads; whoever is about to act on the settings calls `valid()`, or `require()` where a key is needed as well.
No message ever repeats a value: a key pasted after the wrong name must not end up in a log.
"""

import hashlib
import os
import re
import stat
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from dataclasses import dataclass, field
from datetime import date
from ipaddress import ip_address
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from credits_pipeline import clock
from credits_pipeline.errors import CreditsError

PROJECT_ROOT = Path(__file__).resolve().parent.parent

API_ROOT = "https://openrouter.ai/"
DEFAULT_BASE_URL = "https://openrouter.ai/api/v1"
DEFAULT_DATA_DIR = "data"
DEMO_DATA_DIR = "data/demo"
DEFAULT_START_DATE = date(2025, 1, 1)
DEFAULT_SNAPSHOT_CRON = "5 0 * * *"
DEFAULT_ALERT_DAYS = (14, 7, 3)

KEY_VARIABLE = "OPENROUTER_API_KEY"
DEFAULT_ACCOUNT = "default"
MANAGEMENT_KEYS_PAGE = "https://openrouter.ai/settings/management-keys"

# The forecast's horizon: no run-out date lies further ahead, so a longer threshold could never be crossed.
LONGEST_ALERT_DAYS = 365
# Account names end up in tables and chat messages: long enough for any team, short enough to read.
LONGEST_ACCOUNT_NAME = 64

T = TypeVar("T")


class ConfigError(CreditsError):
    """One line that names the variable and says what to do."""


@dataclass(frozen=True)
class Account:
    """One management key and the name people gave it."""

    name: str
    key: str = field(repr=False)
    variable: str

    @property
    def fingerprint(self) -> str:
        """12 hex digits of the key's SHA-256: stands for the key wherever it must not be shown."""
        return hashlib.sha256(self.key.encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Settings:
    """Everything the environment says. `problems` stop readings, `alert_problems` only alerts, `warnings` nothing."""

    accounts: tuple[Account, ...]
    base_url: str
    allow_custom_host: bool
    is_simulated: bool
    data_dir: Path
    start_date: date
    snapshot_cron: str
    alert_urls: tuple[str, ...] = field(repr=False)  # they hold passwords and tokens
    alert_days: tuple[int, ...]
    problems: tuple[str, ...]
    alert_problems: tuple[str, ...]
    warnings: tuple[str, ...] = ()

    @property
    def warehouse_path(self) -> Path:
        return self.data_dir / "warehouse.duckdb"

    @property
    def published_path(self) -> Path:
        return self.data_dir / "credits.duckdb"

    @property
    def report_path(self) -> Path:
        return self.data_dir / "report.html"

    def valid(self) -> "Settings":
        """Self, if every value could be read; else ConfigError with the first problem."""
        if self.problems:
            raise ConfigError(self.problems[0])
        return self

    def require(self) -> "Settings":
        """Self, if a run may start with it: valid, and with a key. Else ConfigError."""
        self.valid()
        if not self.accounts:
            raise ConfigError(
                f"{KEY_VARIABLE} is not set: create a management key under {MANAGEMENT_KEYS_PAGE}"
                " and put it in .env or the environment"
            )
        return self


def current() -> Settings:
    """Settings from the environment of this process, as it is now."""
    return load(os.environ)


def load(env: Mapping[str, str]) -> Settings:
    """Settings from `env`. Never raises: a wrong value becomes a problem and the default is used."""
    problems: list[str] = []
    alert_problems: list[str] = []

    def read(name: str, parse: Callable[[str], T], default: T, to: list[str]) -> T:
        try:
            if name not in env:
                return default
            if not env[name].strip():
                raise ConfigError(f"{name} is empty: give it a value, or unset it to use the default")
            return parse(env[name].strip())
        except ConfigError as problem:
            to.append(str(problem))
            return default

    accounts = _accounts(env, problems)
    allow_custom_host = _allow_custom_host(env.get("OPENROUTER_ALLOW_CUSTOM_HOST", ""), problems)

    def base_url(text: str) -> str:
        check_base_url(text, allow_custom_host)
        return text.rstrip("/")

    url = read("OPENROUTER_BASE_URL", base_url, DEFAULT_BASE_URL, problems)
    # The simulated API answers on this machine only; another host, if allowed, is somebody's real gateway.
    is_simulated = _is_loopback(_host(url))
    data_dir = read("CREDITS_DATA_DIR", _data_dir, PROJECT_ROOT / DEFAULT_DATA_DIR, problems)
    if data_dir == PROJECT_ROOT / DEMO_DATA_DIR and not is_simulated:
        problems.append("CREDITS_DATA_DIR is the demo's folder, where all is simulated: name another one")
    return Settings(
        accounts=accounts,
        base_url=url,
        allow_custom_host=allow_custom_host,
        is_simulated=is_simulated,
        data_dir=data_dir,
        start_date=read("CREDITS_START_DATE", _start_date, DEFAULT_START_DATE, problems),
        snapshot_cron=read("CREDITS_SNAPSHOT_CRON", _cron, DEFAULT_SNAPSHOT_CRON, problems),
        alert_urls=_alert_urls(env.get("CREDITS_ALERT_URLS", ""), alert_problems),
        alert_days=read("CREDITS_ALERT_DAYS", _alert_days, DEFAULT_ALERT_DAYS, alert_problems),
        problems=tuple(problems),
        alert_problems=tuple(alert_problems),
        warnings=_shared_keys(accounts),
    )


def check_base_url(url: str, allow_custom_host: bool) -> None:
    """Raise ConfigError unless a management key may be sent to `url`.

    The API is recognised by its literal text, `https://openrouter.ai/`, and not by parsing: user info, ports,
    capitals, trailing dots and look-alike letters all differ from it, and no two URL parsers need to agree.
    """
    if re.search(r"[^A-Za-z0-9._~:/\[\]-]", url):
        raise ConfigError(
            "OPENROUTER_BASE_URL must be a plain URL such as https://openrouter.ai/api/v1: no user name,"
            " no query, no spaces, no letters beyond a-z"
        )
    if url.startswith(API_ROOT):
        return
    scheme, host = _scheme_and_host(url)
    if not allow_custom_host:
        raise ConfigError(
            "OPENROUTER_BASE_URL must start with exactly https://openrouter.ai/ because a management key"
            " sent anywhere else is a leaked key; set OPENROUTER_ALLOW_CUSTOM_HOST=1 if another host is meant"
        )
    if scheme == "http" and not _is_loopback(host):
        raise ConfigError(
            "OPENROUTER_BASE_URL must use https: plain http would send the key readable by anyone on the way,"
            " and is allowed for 127.0.0.0/8, ::1 and localhost only"
        )


def read_dotenv(path: Path, environ: MutableMapping[str, str]) -> tuple[str, ...]:
    """Copy what `.env` at `path` sets into `environ`, never overriding it; return warnings for people.

    Values are read as Dagster itself reads the same file, so both agree on quotes and `${…}`; a byte order mark,
    as editors on Windows write it, is no part of the first name. Raises ConfigError for what is no text.
    """
    if not path.is_file():
        return ()
    from dotenv import dotenv_values

    try:
        for name, value in dotenv_values(path, encoding="utf-8-sig").items():
            if value is not None:
                environ.setdefault(name, value)
    except (OSError, ValueError):  # ValueError: other bytes than UTF-8, or a NUL; its text could hold a key
        raise ConfigError(
            f"{path} cannot be read: save it as plain text (UTF-8) that this user can read"
        ) from None
    others = stat.S_IRWXG | stat.S_IRWXO
    if os.name == "posix" and stat.S_IMODE(path.stat().st_mode) & others:
        return (f"{path} can be read by other users of this machine and holds keys: run chmod 600 {path}",)
    return ()


def _accounts(env: Mapping[str, str], problems: list[str]) -> tuple[Account, ...]:
    found: dict[str, Account] = {}
    # Sorted, with the plain variable first: the order of rows and messages never depends on the shell.
    for variable in sorted(
        name for name in env if name == KEY_VARIABLE or name.startswith(KEY_VARIABLE + "_")
    ):
        try:
            account = _account(variable, env[variable])
            if account.name in found:
                other = found[account.name].variable
                raise ConfigError(
                    f"{variable} and {other} both name the account {account.name}: unset one of them"
                )
            found[account.name] = account
        except ConfigError as problem:
            problems.append(str(problem))
    return tuple(found.values())


def _shared_keys(accounts: Iterable[Account]) -> tuple[str, ...]:
    """A warning for each key that stands under a second name: allowed, and what it spends counts twice in totals."""
    first: dict[str, Account] = {}
    return tuple(
        f"{first[account.key].variable} and {account.variable} hold the same key, so its account is counted twice:"
        " unset one of them"
        for account in accounts
        if first.setdefault(account.key, account) is not account
    )


def _account(variable: str, value: str) -> Account:
    shown = ascii(variable)[1:-1][:120]
    name = DEFAULT_ACCOUNT if variable == KEY_VARIABLE else variable.removeprefix(KEY_VARIABLE + "_").lower()
    if not re.fullmatch(rf"[a-z0-9_]{{1,{LONGEST_ACCOUNT_NAME}}}", name):
        raise ConfigError(
            f"{shown} does not name an account: after {KEY_VARIABLE}_ use 1 to {LONGEST_ACCOUNT_NAME}"
            " letters a-z, digits and underscores"
        )
    key = value.strip()
    if not key:
        raise ConfigError(f"{shown} is empty: give it a management key, or unset it")
    if not re.fullmatch(r"[!-~]+", key):
        raise ConfigError(f"{shown} holds a space or a character that no key has: copy the key again")
    return Account(name=name, key=key, variable=variable)


def _allow_custom_host(text: str, problems: list[str]) -> bool:
    if text.strip() not in {"", "0", "1"}:
        problems.append(
            "OPENROUTER_ALLOW_CUSTOM_HOST must be 1 to allow another host than openrouter.ai, or be unset"
        )
    return text.strip() == "1"


def _scheme_and_host(url: str) -> tuple[str, str]:
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises beyond 65535
    except ValueError:
        parts = urlsplit("")
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ConfigError("OPENROUTER_BASE_URL must be a URL such as https://openrouter.ai/api/v1")
    return parts.scheme, parts.hostname


def _host(url: str) -> str:
    return (urlsplit(url).hostname or "").rstrip(".")


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        address = ip_address(host)
    except ValueError:
        return False
    # An IPv4 address in IPv6 clothes is left out: DNS64 and the like may carry it off the machine.
    return address.is_loopback and getattr(address, "ipv4_mapped", None) is None


def _data_dir(text: str) -> Path:
    try:
        return PROJECT_ROOT / Path(text).expanduser()
    except (RuntimeError, ValueError):
        raise ConfigError("CREDITS_DATA_DIR must be a directory's path: the ~user in it is unknown") from None


def _start_date(text: str) -> date:
    try:
        # Python also reads 20250101 and 2025-W01-1: nobody means those.
        day = date.fromisoformat(text) if re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", text) else None
    except ValueError:
        day = None
    if day is None:
        raise ConfigError("CREDITS_START_DATE must be a day such as 2025-01-01")
    if day > clock.today():
        raise ConfigError("CREDITS_START_DATE lies in the future: give the first day that you want to see")
    return day


def _cron(text: str) -> str:
    # Dagster's own check, so that what passes here is what its scheduler accepts; the second line catches
    # days that never come (`0 0 31 4 *`), on which its daemon would fail at every tick.
    from dagster._utils.schedules import is_valid_cron_string, schedule_execution_time_iterator

    try:
        if is_valid_cron_string(text):
            next(schedule_execution_time_iterator(clock.now().timestamp(), text, "UTC"))
            return text
    except (ValueError, KeyError, StopIteration):
        pass
    raise ConfigError("CREDITS_SNAPSHOT_CRON must be a cron line of five fields, in UTC, such as 5 0 * * *")


def _alert_urls(text: str, problems: list[str]) -> tuple[str, ...]:
    # Apprise URLs may hold commas themselves (several recipients): only a comma before a scheme separates.
    entries = [entry.strip() for entry in re.split(r",(?=\s*[A-Za-z][A-Za-z0-9+.-]*://)", text)]
    urls = []
    for number, entry in enumerate(entries, start=1):
        url = entry.strip(" ,")
        if re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*://\S+", url):
            urls.append(url)  # one wrong address must not silence the others
        elif url:
            problems.append(
                f"CREDITS_ALERT_URLS: entry {number} is not an Apprise URL such as mailto://… or slack://…;"
                " separate several with commas"
            )
    return tuple(urls)


def _alert_days(text: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",")]
    if all(re.fullmatch(r"[0-9]{1,3}", part) and 1 <= int(part) <= LONGEST_ALERT_DAYS for part in parts):
        return tuple(sorted({int(part) for part in parts}, reverse=True))
    raise ConfigError(
        f"CREDITS_ALERT_DAYS must be whole numbers of days from 1 to {LONGEST_ALERT_DAYS}, separated by"
        " commas, such as 14,7,3"
    )
