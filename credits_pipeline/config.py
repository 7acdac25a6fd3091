"""What is configured, as typed settings: a wrong value becomes a problem to report, never an exception.

`current` reads; whoever is about to act on the settings calls `valid()`, or `require()` where a key is needed as well.
"""

import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from functools import cache, partial
from itertools import islice, pairwise, takewhile
from pathlib import Path
from typing import TypeVar

from credits_pipeline import clock
from credits_pipeline.accounts import Account, read_accounts, shared_keys
from credits_pipeline.env_file import KEY_VARIABLE, PROJECT_ROOT, ConfigError, Environment, as_path
from credits_pipeline.plans import AccountPlan, account_plans
from credits_pipeline.teams import Team, read_teams

__all__ = ["KEY_VARIABLE", "PROJECT_ROOT", "Account", "ConfigError", "Settings", "current", "load"]

API_ROOT = "https://openrouter.ai/"
DEFAULT_BASE_URL = "https://openrouter.ai/api/v1"
# Nothing that two parsers could read in two ways: no user name, no query, no letters beyond a-z.
PLAIN_URL = re.compile(r"https?://([A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?(/[A-Za-z0-9._~/-]*)?")
LOOPBACK = re.compile(r"https?://(127(\.[0-9]{1,3}){3}|\[::1\]|localhost)([:/]|$)")
DEMO_DATA_DIR = "data/demo"
DEFAULT_START_DATE = date(2025, 1, 1)
DEFAULT_SNAPSHOT_CRON = "5 0 * * *"
DEFAULT_ALERT_DAYS = (14, 7, 3)
DEFAULT_DIGEST_CRON = "0 8 * * 1"

DEFAULT_BREAKDOWNS: tuple[str, ...] = ("api_key",)
BREAKDOWNS = ("api_key", "workspace", "user", "app")  # by whom the bill can be broken down

MANAGEMENT_KEYS_PAGE = "https://openrouter.ai/settings/management-keys"

# Another file in place of `.env`; empty: none, as in the demo, which must not see the user's keys.
DOTENV_VARIABLE = "CREDITS_ENV_FILE"
# The forecast's horizon: no run-out date lies further ahead, so a longer threshold could never be crossed.
LONGEST_ALERT_DAYS = 365
# Believed, more than this would stop the figures of all accounts: sums of two would not fit DECIMAL(18,9).
LARGEST_TOTAL_USD = 990_000_000
# Readings are late by half a day before anybody is alarmed; never sooner than one missed night.
STALE_AFTER_AT_LEAST, LATE_BY = timedelta(hours=36), timedelta(hours=12)

T = TypeVar("T")


@dataclass(frozen=True)
class LakeSettings:
    """Where the warehouse is if not in one file: shards in a lake, worked on here or on a Dask cluster."""

    catalog: str  # what libpq connects to, such as service=credits
    data: str  # a folder, or s3://bucket/path
    shards: int
    cluster: str  # address of the scheduler; empty: one shard after another, in this process

    @property
    def is_bucket(self) -> bool:
        return self.data.startswith("s3://")


@dataclass(frozen=True)
class Settings:
    """Everything that is configured. `problems` stop readings, `alert_problems` only alerts, `warnings` nothing."""

    accounts: tuple[Account, ...]
    base_url: str
    allow_custom_host: bool
    is_simulated: bool
    data_dir: Path
    dagster_home: Path
    start_date: date
    snapshot_cron: str
    alert_urls: tuple[str, ...] = field(repr=False)  # they hold passwords and tokens
    alert_days: tuple[int, ...]
    digest_cron: str  # empty: no digest, as where there is no channel
    accepted_keys: frozenset[str]  # fingerprints
    plans: tuple[AccountPlan, ...]
    breakdowns: tuple[str, ...]  # of BREAKDOWNS
    teams: tuple[Team, ...] | None  # None: the file is wrong, and those known stay
    lake: LakeSettings | None
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
    def metrics_path(self) -> Path:
        return self.data_dir / "metrics.prom"

    @property
    def report_path(self) -> Path:
        return self.data_dir / "report.html"

    @property
    def stale_after(self) -> timedelta:
        """How old the newest reading may be: the longest pause in CREDITS_SNAPSHOT_CRON and half a day, or 36 h."""
        return max(_longest_pause(self.snapshot_cron) + LATE_BY, STALE_AFTER_AT_LEAST)

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
    """The settings of this process, as `.env` and its environment are now."""
    return load(os.environ, dotenv_path())


def dotenv_path() -> Path | None:
    """`.env` beside workspace.yaml, or what CREDITS_ENV_FILE names instead."""
    name = os.environ.get(DOTENV_VARIABLE, ".env")
    return PROJECT_ROOT / name if name else None


def load(environ: Mapping[str, str], dotenv: Path | None = None) -> Settings:
    """Settings from `environ` and the file `dotenv`. Never raises: for a wrong value the default is used.

    An empty value counts as none, but of breakdowns and the digest, where it means that there are none.
    """
    problems: list[str] = []
    alert_problems: list[str] = []
    warnings: list[str] = []

    def collect(get: Callable[[], T], default: T, to: list[str] = problems) -> T:
        try:
            return get()
        except ConfigError as problem:
            to.append(str(problem))
            return default

    env = collect(lambda: Environment(environ, dotenv), Environment(environ))
    if dotenv and environ.get(DOTENV_VARIABLE) and not dotenv.is_file():
        warnings.append(f"{DOTENV_VARIABLE} names {dotenv}, which is no file: correct it, or leave it empty")

    def read(name: str, parse: Callable[[str], T], default: T, to: list[str] = problems, empty: T | None = None) -> T:
        otherwise = default if empty is None or name not in env else empty
        return collect(lambda: parse(text) if (text := env.get(name)) else otherwise, default, to)

    if clock.today() < DEFAULT_START_DATE:
        problems.append(f"this machine's clock says {clock.today()}: set it right, then run this again")
    accounts = read_accounts(env, problems)
    allow_custom_host = read("OPENROUTER_ALLOW_CUSTOM_HOST", _is_allowed, default=False)
    url = read("OPENROUTER_BASE_URL", partial(check_base_url, allow_custom_host=allow_custom_host), DEFAULT_BASE_URL)
    # The simulated API answers on this machine only; another host, if allowed, is somebody's real gateway.
    is_simulated = bool(LOOPBACK.match(url))
    data_dir = read("CREDITS_DATA_DIR", partial(as_path, "CREDITS_DATA_DIR"), PROJECT_ROOT / "data")
    if data_dir == PROJECT_ROOT / DEMO_DATA_DIR and not is_simulated:
        problems.append("CREDITS_DATA_DIR is the demo's folder, where all is simulated: name another one")
    breakdowns = read("CREDITS_BREAKDOWNS", _breakdowns, DEFAULT_BREAKDOWNS, warnings, empty=())
    teams = collect(lambda: read_teams(env.get("CREDITS_TEAMS"), breakdowns), None, warnings)
    urls: list[str] = []
    for name in ("CREDITS_ALERT_URLS", "CREDITS_ALERT_URLS_FILE"):
        text = collect(partial(env.secret, name), "", alert_problems)
        urls += _alert_urls(name, text, alert_problems)
    parse_digest = partial(_cron, "CREDITS_DIGEST_CRON")
    digest_cron = read("CREDITS_DIGEST_CRON", parse_digest, DEFAULT_DIGEST_CRON, alert_problems, empty="")
    return Settings(
        accounts=accounts,
        base_url=url,
        allow_custom_host=allow_custom_host,
        is_simulated=is_simulated,
        data_dir=data_dir,
        dagster_home=read("DAGSTER_HOME", partial(as_path, "DAGSTER_HOME"), data_dir / "dagster"),
        start_date=read("CREDITS_START_DATE", _start_date, DEFAULT_START_DATE),
        snapshot_cron=read("CREDITS_SNAPSHOT_CRON", partial(_cron, "CREDITS_SNAPSHOT_CRON"), DEFAULT_SNAPSHOT_CRON),
        alert_urls=tuple(urls),
        digest_cron=digest_cron if urls else "",
        alert_days=read("CREDITS_ALERT_DAYS", _alert_days, DEFAULT_ALERT_DAYS, alert_problems),
        accepted_keys=read("CREDITS_ACCEPT_KEY", _fingerprints, frozenset()),
        plans=account_plans(env, [account.name for account in accounts], warnings),
        breakdowns=breakdowns,
        teams=teams,
        lake=collect(lambda: _lake(env), None),
        problems=tuple(problems),
        alert_problems=tuple(alert_problems),
        warnings=(*env.warnings, *shared_keys(accounts), *warnings),
    )


def check_base_url(url: str, allow_custom_host: bool) -> str:
    """`url` without a slash at its end, if a management key may be sent there; else ConfigError.

    The API is recognised by its literal text, `https://openrouter.ai/`, and not by parsing: user info, ports,
    capitals, trailing dots and look-alike letters all differ from it, and no two URL parsers need to agree.
    """
    if not PLAIN_URL.fullmatch(url):
        raise ConfigError(f"OPENROUTER_BASE_URL must be a plain URL such as {DEFAULT_BASE_URL}")
    if not url.startswith(API_ROOT) and not allow_custom_host:
        raise ConfigError(
            f"OPENROUTER_BASE_URL must start with exactly {API_ROOT} because a management key sent anywhere else is a"
            " leaked key; set OPENROUTER_ALLOW_CUSTOM_HOST=1 if another host is meant"
        )
    if not url.startswith("https://") and not LOOPBACK.match(url):
        raise ConfigError(
            "OPENROUTER_BASE_URL must use https: plain http would send the key readable by anyone on the way,"
            " and is allowed for 127.0.0.0/8, ::1 and localhost only"
        )
    return url.rstrip("/")


def _lake(env: Environment) -> LakeSettings | None:
    catalog, cluster = env.get("CREDITS_LAKE"), env.get("CREDITS_CLUSTER")
    if not catalog:
        if cluster:
            raise ConfigError("CREDITS_CLUSTER needs CREDITS_LAKE: several machines cannot share a warehouse.duckdb")
        return None
    scheme, _, connection = catalog.partition(":")
    if scheme != "postgres" or not connection or "password" in connection:
        raise ConfigError(
            "CREDITS_LAKE must be postgres:service=NAME, a service of ~/.pg_service.conf, with no password in it"
        )
    data = env.get("CREDITS_LAKE_DATA")
    if not data or ("://" in data and not re.fullmatch(r"s3://[a-z0-9][a-z0-9.-]+(/[A-Za-z0-9._/=-]*)?", data)):
        raise ConfigError("CREDITS_LAKE_DATA must be a folder that all hosts see, or s3://bucket/path")
    if "://" not in data:
        data = str(as_path("CREDITS_LAKE_DATA", data))
    shards = env.get("CREDITS_SHARDS")
    if not re.fullmatch("[1-9][0-9]{0,3}", shards):
        raise ConfigError(
            "CREDITS_SHARDS must be the number of shards of the lake, such as 16 (one to four per worker)"
        )
    if cluster and not re.fullmatch(r"tls://[A-Za-z0-9.-]+:[0-9]+|tcp://(127\.0\.0\.1|localhost):[0-9]+", cluster):
        raise ConfigError(
            "CREDITS_CLUSTER must be tls://host:port, for whoever reaches a scheduler's port can run any program there;"
            " tcp://127.0.0.1:port is allowed too"
        )
    return LakeSettings(connection, data.rstrip("/"), int(shards), cluster)


def _is_allowed(text: str) -> bool:
    if text not in {"0", "1"}:
        raise ConfigError(
            "OPENROUTER_ALLOW_CUSTOM_HOST must be 1 to allow another host than openrouter.ai, or be unset"
        )
    return text == "1"


def _start_date(text: str) -> date:
    try:
        day = date.fromisoformat(text)
    except ValueError:
        raise ConfigError("CREDITS_START_DATE must be a day such as 2025-01-01") from None
    if day > clock.today():
        raise ConfigError("CREDITS_START_DATE lies in the future: give the first day that you want to see")
    return day


def _cron(name: str, text: str) -> str:
    # Dagster's own check, so that what passes here is what its scheduler accepts; the second line catches
    # days that never come (`0 0 31 4 *`), on which its daemon would fail at every tick.
    from dagster._utils.schedules import is_valid_cron_string

    try:
        if is_valid_cron_string(text) and next(_ticks(text)):
            return text
    except (ValueError, KeyError, StopIteration):
        pass
    raise ConfigError(f"{name} must be a cron line of five fields, in UTC, such as 5 0 * * *")


def _ticks(cron: str) -> Iterator[datetime]:
    from dagster._utils.schedules import schedule_execution_time_iterator

    return iter(schedule_execution_time_iterator(clock.now().timestamp(), cron, "UTC"))


@cache
def _longest_pause(cron: str) -> timedelta:
    """The longest time between two ticks of the coming year (or of the coming 10,000 ticks)."""
    within = clock.now() + timedelta(days=366)
    ticks = takewhile(lambda tick: tick < within, islice(_ticks(cron), 10_000))
    return max((later - earlier for earlier, later in pairwise(ticks)), default=timedelta(days=366))


def _fingerprints(text: str) -> frozenset[str]:
    keys = frozenset(part.strip() for part in text.split(","))
    if not all(re.fullmatch("[0-9a-f]{12}", key) for key in keys):
        raise ConfigError("CREDITS_ACCEPT_KEY must be a key's fingerprint, as the message that asks for it gives it")
    return keys


def _alert_urls(name: str, text: str, problems: list[str]) -> Iterator[str]:
    # Apprise URLs may hold commas themselves (several recipients): only a comma before a scheme separates.
    for number, entry in enumerate(re.split(r"[,\n](?=\s*[A-Za-z][A-Za-z0-9+.-]*://)", text), start=1):
        url = entry.strip(" ,\r\n")
        if re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*://\S+", url):
            yield url
        elif url:  # one wrong address must not silence the others
            problems.append(
                f"{name}: entry {number} is not an Apprise URL such as mailto://… or slack://…;"
                " separate several with commas"
            )


def _breakdowns(text: str) -> tuple[str, ...]:
    wanted = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    if not set(wanted) <= set(BREAKDOWNS):
        raise ConfigError(f"CREDITS_BREAKDOWNS must be some of {','.join(BREAKDOWNS)}, or empty for none")
    return wanted


def _alert_days(text: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",")]
    if all(re.fullmatch(r"[0-9]{1,3}", part) and 1 <= int(part) <= LONGEST_ALERT_DAYS for part in parts):
        return tuple(sorted({int(part) for part in parts}, reverse=True))
    raise ConfigError(
        f"CREDITS_ALERT_DAYS must be whole numbers of days from 1 to {LONGEST_ALERT_DAYS}, separated by"
        " commas, such as 14,7,3"
    )
