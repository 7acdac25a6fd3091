"""How variables are read: `.env`, quotes around a value, `$NAME`, `~`, and secrets in files of their own.

What `.env` says comes before the environment: that is what Dagster's own services do with it, so the command line, the
UI, the daemon and a notebook all use the same key. No message ever repeats a value.
"""

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from credits_pipeline.errors import CreditsError

PROJECT_ROOT = Path(__file__).resolve().parent.parent
KEY_VARIABLE = "OPENROUTER_API_KEY"
OURS = ("OPENROUTER_", "CREDITS_")

_REFERENCE = re.compile(r"\$(?:([A-Za-z_]\w*)|\{([A-Za-z_]\w*)(?::-([^}]*))?\})")


class ConfigError(CreditsError):
    """One line that names the variable and says what to do."""


class Environment:
    """`environ` under what the file `dotenv` says. Raises ConfigError for a file that is no text."""

    def __init__(self, environ: Mapping[str, str], dotenv: Path | None = None) -> None:
        self._texts = dict(environ)
        self.warnings: list[str] = []
        said = read_dotenv(dotenv, environ)
        if dotenv and said and dotenv.stat().st_mode & 0o077:
            self.warnings.append(
                f"{dotenv} can be read by other users of this machine and holds keys: run chmod 600 {dotenv}"
            )
        for name, here in said.items():
            there = environ.get(name, "")
            if there and not here.strip():
                continue  # an empty value, such as the key in a fresh copy of `.env.example`, hides none
            self._texts[name] = here
            if there and name.startswith(OURS) and _cleaned(here, environ) != _cleaned(there, environ):
                self.warnings.append(
                    f"{name} is set in {dotenv} and to something else in the environment: what the file says is used;"
                    " remove one of the two"
                )

    def __iter__(self) -> Iterator[str]:
        return iter(self._texts)

    def get(self, name: str) -> str:
        """The value that people mean; empty where there is none. Raises ConfigError for one that nobody can mean."""
        return self._checked(name, self._texts.get(name, ""))

    def secret(self, name: str) -> str:
        """The same; for `…_FILE`, as containers have it, what is in the file that it names."""
        value = self.get(name)
        if not value or not name.upper().endswith("_FILE"):
            return value
        try:
            return self._checked(name, as_path(name, value).read_text(encoding="utf-8-sig"))
        except (OSError, ValueError):
            raise ConfigError(
                f"{name} must name a file that this user can read, with the secret as its only content"
            ) from None

    def _checked(self, name: str, text: str) -> str:
        value = _cleaned(text, self._texts)
        if _REFERENCE.search(value):
            raise ConfigError(f"{name} refers to a variable (after a $) that is not set: write its value instead")
        return value


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
    except RuntimeError:
        raise ConfigError(f"{name} must be a path: the ~user in it is unknown") from None


def _cleaned(text: str, known: Mapping[str, str]) -> str:
    """Without the quotes that `docker run --env-file` keeps, and with variables replaced."""
    text = _expanded(text, known).strip()
    return text[1:-1].strip() if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'" else text


def _expanded(text: str, known: Mapping[str, str]) -> str:
    """`text` with `$NAME`, `${NAME}` and `${NAME:-otherwise}` replaced; what is not known stays."""

    def value(found: re.Match[str]) -> str:
        return known.get(found[1] or found[2]) or found[3] or found[0]

    return _REFERENCE.sub(value, text)
