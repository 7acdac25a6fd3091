"""How variables are read: `.env`, quotes around a value, `$NAME`, `~`, and secrets in files of their own.

What `.env` says comes before the environment: that is what Dagster's own services do with it, so the command line, the
UI, the daemon and a notebook all use the same key. No message ever repeats a value.
"""

import hashlib
import os
import re
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

from credits_pipeline.errors import CreditsError

PROJECT_ROOT = Path(__file__).resolve().parent.parent
KEY_VARIABLE = "OPENROUTER_API_KEY"
OURS = ("OPENROUTER_", "CREDITS_")

_QUOTES = {'"': '"', "'": "'", "“": "”", "‘": "’"}
_REFERENCE = re.compile(r"\$(?:([A-Za-z_]\w*)|\{([A-Za-z_]\w*)(?::-([^}]*))?\})")


class ConfigError(CreditsError):
    """One line that names the variable and says what to do."""


class Environment:
    """`environ` under what the file `dotenv` says. Raises ConfigError for a file that is no text."""

    def __init__(self, environ: Mapping[str, str], dotenv: Path | None = None) -> None:
        said = read_dotenv(dotenv, environ)
        # An empty value, such as the key in a fresh copy of `.env.example`, hides none.
        filled = {name: text for name, text in said.items() if text.strip() or name not in environ}
        self._texts = {**environ, **filled}
        self._warnings = dict.fromkeys(_about_dotenv(dotenv, said, environ))

    @property
    def warnings(self) -> tuple[str, ...]:
        """What people should know of the values that were read so far."""
        return tuple(self._warnings)

    def __iter__(self) -> Iterator[str]:
        return iter(self._texts)

    def __contains__(self, name: str) -> bool:
        return name in self._texts

    def __getitem__(self, name: str) -> str:
        """The value that people mean. Raises KeyError, and ConfigError for one that nobody can mean."""
        return self._cleaned(name, self._texts[name])

    def is_empty(self, name: str) -> bool:
        return not self._texts.get(name, "").strip()

    def secret(self, name: str) -> str:
        """The same; for `…_FILE`, as containers have it, what is in the file that it names."""
        if not name.upper().endswith("_FILE"):
            return self[name]
        try:
            content = as_path(name, self[name]).read_text(encoding="utf-8-sig")
        except (OSError, ValueError):
            raise ConfigError(
                f"{_shown(name)} must name a file that this user can read, with the secret as its only content"
            ) from None
        return self._cleaned(name, content, of="the file of ")

    def _cleaned(self, name: str, text: str, of: str = "") -> str:
        shown, text = of + _shown(name), _expanded(text, self._texts).strip()
        while len(text) > 1 and _QUOTES.get(text[0]) == text[-1]:
            text = text[1:-1].strip()
            self._warnings[f"{shown}: the quotes around the value were taken off"] = None
        if not text:
            raise ConfigError(f"{shown} is empty: give it a value, or unset it")
        if text[0] in _QUOTES or text[-1] in _QUOTES.values():
            raise ConfigError(f"{shown} has a quote on one side of its value only: take it off")
        if _REFERENCE.search(text):
            raise ConfigError(f"{shown} refers to a variable (after a $) that is not set: write its value instead")
        return text


def read_dotenv(path: Path | None, environ: Mapping[str, str]) -> dict[str, str]:
    """What the file at `path` sets, with `$NAME` replaced; nothing if there is none. Raises ConfigError for no text."""
    if path is None or not path.is_file():
        return {}
    from dotenv import dotenv_values

    found: dict[str, str] = {}
    try:
        # Editors on Windows begin a file with a byte order mark: it is no part of the first name.
        for name, text in dotenv_values(path, encoding="utf-8-sig", interpolate=False).items():
            if text is not None:
                found[name] = _expanded(text, {**environ, **found})
        if "\0" in "".join([*found, *found.values()]):
            raise ValueError
    except (OSError, ValueError):  # other bytes than UTF-8 too; the error's own text could hold a key
        raise ConfigError(f"{path} cannot be read: save it as plain text (UTF-8) that this user can read") from None
    return found


def export_others(path: Path | None) -> None:
    """Give this process what `.env` says about other programs: DAGSTER_HOME, SSL_CERT_FILE, proxies for alerts."""
    said = read_dotenv(path, os.environ)
    os.environ.update({name: text for name, text in said.items() if not name.startswith(OURS)})


def as_path(name: str, text: str, folder: Path = PROJECT_ROOT) -> Path:
    """The path that `text` stands for; relative ones begin in `folder`. Raises ConfigError about `name`."""
    try:
        return folder / Path(text).expanduser()
    except (RuntimeError, ValueError):
        raise ConfigError(f"{name} must be a path: the ~user in it is unknown") from None


def fingerprint(key: str) -> str:
    """12 hex digits of the key's SHA-256: stands for the key wherever it must not be shown."""
    return hashlib.sha256(key.encode(errors="replace")).hexdigest()[:12]


def _about_dotenv(path: Path | None, said: Mapping[str, str], environ: Mapping[str, str]) -> Iterator[str]:
    if path and said and os.name == "posix" and path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        yield f"{path} can be read by other users of this machine and holds keys: run chmod 600 {path}"
    for name in (name for name in said if name.startswith(OURS)):
        here, there = (_expanded(values.get(name, ""), environ).strip(" \t\r\n\"'") for values in (said, environ))
        if here and there and here != there:
            is_key = name.startswith(KEY_VARIABLE) and not name.upper().endswith("_FILE")
            a, b = (f" (key {fingerprint(key)})" if is_key else "" for key in (here, there))
            yield (
                f"{_shown(name)} is set in {path}{a} and to something else in the environment{b}: what the file says"
                " is used; remove one of the two"
            )


def _expanded(text: str, known: Mapping[str, str]) -> str:
    """`text` with `$NAME`, `${NAME}` and `${NAME:-otherwise}` replaced; what is not known stays."""

    def value(found: re.Match[str]) -> str:
        return known.get(found[1] or found[2]) or found[3] or found[0]

    return _REFERENCE.sub(value, text)


def _shown(name: str) -> str:
    return ascii(name)[1:-1][:120]
