"""What Dagster lets through when it cannot read or write its history, as a sentence."""

import errno
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from credits_pipeline.errors import CreditsError

# What SQLite says of a file that is not a database, or no longer a whole one.
DAMAGED = ("not a database", "malformed")
# What the operating system says where there is no room or no permission; anything else is a bug.
NOT_WRITABLE = {
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR
}  # fmt: skip


class HistoryLocked(CreditsError):
    """Another program holds Dagster's history; readings can be taken without it."""


@contextmanager
def in_sentences() -> Iterator[None]:
    """Raise CreditsError for an error of Dagster's history, or of the disk that it is on; let others through."""
    try:
        yield
    except Exception as error:
        from sqlalchemy.exc import DBAPIError

        if isinstance(error, (OSError, sqlite3.Error, DBAPIError)) and (said := sentence(error)):
            raise said from error
        raise


def sentence(error: Exception) -> CreditsError | None:
    """None for an error that is about something else."""
    place = getattr(error, "filename", None) or os.environ.get("DAGSTER_HOME", "the data directory")
    said = getattr(error, "strerror", None) or getattr(error, "orig", None) or error
    if "is locked" in str(said):
        return HistoryLocked(
            f"Dagster's history in {place} is held by another program (a backup, a browser of databases): close that,"
            " then run this again"
        )
    if any(sign in str(said) for sign in DAMAGED):
        return CreditsError(
            f"Dagster's history in {place} is damaged ({said}): move that folder away, then run this again (it holds"
            " only runs, no readings and no figures)"
        )
    if isinstance(error, OSError) and error.errno not in NOT_WRITABLE:
        return None
    return CreditsError(
        f"{place} cannot be written ({said}): free some space or make it writable for this user, then run this again"
    )
