"""The accounts that have a key: a variable for each, or a line in the file that OPENROUTER_API_KEYS_FILE names."""

import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from credits_pipeline.env_file import KEY_VARIABLE, ConfigError, Environment, as_path

DEFAULT_ACCOUNT = "default"
# Some 18,000 keys in the environment, and no process can be started any more: execve(2) takes 2 MB.
KEYS_FILE_VARIABLE = "OPENROUTER_API_KEYS_FILE"
# Account names end up in tables and chat messages: long enough for any team, short enough to read.
LONGEST_ACCOUNT_NAME = 64
ACCOUNT_NAME = re.compile(rf"[a-z0-9_]{{1,{LONGEST_ACCOUNT_NAME}}}")
NAME_RULE = f"1 to {LONGEST_ACCOUNT_NAME} letters a-z, digits and underscores"


@dataclass(frozen=True)
class Account:
    """One management key and the name people gave it."""

    name: str
    key: str = field(repr=False)
    variable: str  # or the line of the file of keys: where messages say the key is

    @property
    def fingerprint(self) -> str:
        """12 hex digits of the key's SHA-256: stands for the key wherever it must not be shown."""
        return hashlib.sha256(self.key.encode(errors="replace")).hexdigest()[:12]


def read_accounts(env: Environment, problems: list[str]) -> tuple[Account, ...]:
    """The accounts of the variables, then those of the file. What cannot be read is a line in `problems`."""
    found: dict[str, Account] = {}
    # Sorted, with the plain variable first: the order of rows and messages never depends on the shell.
    variables = sorted(name for name in env if f"{name}_".startswith(f"{KEY_VARIABLE}_"))
    for accounts in (*(_account_of(variable, env) for variable in variables), _accounts_of_file(env)):
        try:
            for account in accounts:
                if not re.fullmatch(r"""[!#-&(-~]+""", account.key):
                    wrong = "holds a space or a character that no key has: copy the key again"
                    raise ConfigError(f"{account.variable} {wrong}")
                if (other := found.setdefault(account.name, account)) is not account:
                    raise ConfigError(
                        f"{account.variable} and {other.variable} both name the account {account.name}: remove one of"
                        " them"
                    )
        except ConfigError as problem:
            problems.append(str(problem))
    return tuple(found.values())


def _account_of(variable: str, env: Environment) -> Iterator[Account]:
    name, key = account_name(variable), env.secret(variable)
    if key:
        yield Account(name, key, variable)
    elif variable != KEY_VARIABLE:  # which is so in a fresh copy of `.env.example`
        raise ConfigError(f"{variable} is empty: give it a value, or unset it")


def _accounts_of_file(env: Environment) -> Iterator[Account]:
    """An account for each line `name=key`; blank lines and those that begin with # are none."""
    if not (text := env.get(KEYS_FILE_VARIABLE)):
        return
    path = as_path(KEYS_FILE_VARIABLE, text)
    try:
        status, lines = path.stat(), path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError):
        raise ConfigError(
            f"{KEYS_FILE_VARIABLE} must name a file that this user can read, with a line name=key for each account"
        ) from None
    # As ssh demands it of private keys: of the user's own file, not of one that a container mounts for root.
    if status.st_uid == os.getuid() and status.st_mode & 0o077:
        raise ConfigError(f"{KEYS_FILE_VARIABLE}: other users of this machine may use {path}: run chmod 600 {path}")
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, _, key = (part.strip() for part in line.partition("="))
        where = f"line {number} of {KEYS_FILE_VARIABLE}"
        if not key or not ACCOUNT_NAME.fullmatch(name.lower()):
            raise ConfigError(f"{where} must be name=key, the name {NAME_RULE}")
        yield Account(name.lower(), key, where)


def account_name(variable: str) -> str:
    """The name in `OPENROUTER_API_KEY_<NAME>` and `OPENROUTER_API_KEY_<NAME>_FILE`. Raises ConfigError."""
    rest = variable.removeprefix(KEY_VARIABLE).lower().removesuffix("_file")
    name = rest[1:] if rest else DEFAULT_ACCOUNT
    if not ACCOUNT_NAME.fullmatch(name):
        raise ConfigError(
            f"{ascii(variable)[1:-1][:120]} does not name an account: after {KEY_VARIABLE}_ use {NAME_RULE}"
        )
    return name


def shared_keys(accounts: tuple[Account, ...]) -> Iterator[str]:
    """A warning for each key that stands under a second name: allowed, and what it spends counts twice in totals."""
    first: dict[str, Account] = {}
    for account in accounts:
        if (other := first.setdefault(account.key, account)) is not account:
            yield (
                f"{other.variable} and {account.variable} hold the same key, so its account is counted twice:"
                " remove one of them"
            )
