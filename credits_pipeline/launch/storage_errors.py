"""What Dagster lets through when it cannot read or write its history, as a sentence."""

import errno
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from credits_pipeline.errors import CreditsError

# What the operating system says where there is no room or no permission; anything else is a bug.
NOT_WRITABLE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR}


class HistoryLocked(CreditsError):
    """Another program holds Dagster's history; readings can be taken without it."""


@contextmanager
def in_sentences() -> Iterator[None]:
    """Raise CreditsError for an error of Dagster's history, or of the disk that it is on; let others through."""
    try:
        yield
    except Exception as error:
        from sqlalchemy.exc import DBAPIError

        if isinstance(error, (sqlite3.Error, DBAPIError)) or getattr(error, "errno", None) in NOT_WRITABLE:
            raise sentence(error) from error
        raise


def sentence(error: Exception) -> CreditsError:
    place = getattr(error, "filename", None) or os.environ.get("DAGSTER_HOME", "the data directory")
    said = getattr(error, "strerror", None) or str(getattr(error, "orig", error))
    if "is locked" in said:
        return HistoryLocked(
            f"Dagster's history in {place} is held by another program (a backup, a browser of databases): close that,"
            " then run this again"
        )
    if "not a database" in said or "malformed" in said:
        return CreditsError(
            f"Dagster's history in {place} is damaged ({said}): move that folder away, then run this again (it holds"
            " only runs, no readings and no figures)"
        )
    return CreditsError(
        f"{place} cannot be written ({said}): free some space or make it writable for this user, then run this again"
    )
