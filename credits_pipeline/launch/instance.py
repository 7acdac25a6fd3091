"""Our Dagster instance: where its history is, with which settings, which runs are ours, and which of them are dead."""

import atexit
import errno
import os
import socket
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from uuid import uuid4

import dagster as dg
import filelock
import yaml
from dagster_shared.check import CheckError

from credits_pipeline import config, files
from credits_pipeline.errors import CreditsError
from credits_pipeline.text import one_line

# On a run: the file that the process which does it holds locked.
PROCESS_TAG = "credits_pipeline/process"

JOBS = frozenset({"daily_credits", "backfill_history", "rebuild", "weekly_digest", "housekeeping"})

# What the operating system says where there is no room or no permission; anything else is a bug.
NOT_WRITABLE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR}

INSTANCE_SETTINGS = Path(__file__).with_name("dagster.yaml")


def dagster_home(settings: config.Settings) -> Path:
    """Where Dagster keeps its history: DAGSTER_HOME, or a folder beside the data, ready to use. Raises ConfigError.

    Without one, Dagster would use a temporary folder and forget every run at exit.
    """
    home = settings.dagster_home
    if set("?%*[]") & set(str(home)):  # Dagster writes it into a URL, and into a search pattern, as it is
        raise config.ConfigError(
            f"Dagster cannot keep its history in {home}: set DAGSTER_HOME to a path without ? % * [ and ]"
        )
    files.make_directory(home)
    if not (own := home / "dagster.yaml").exists():
        files.write(own, INSTANCE_SETTINGS.read_text(encoding="utf-8"))
    os.environ["DAGSTER_HOME"] = str(home)
    return home


@contextmanager
def open_instance(settings: config.Settings) -> Iterator[dg.DagsterInstance]:
    """The Dagster instance that the UI shows. Raises CreditsError where its history or settings cannot be used."""
    with in_sentences():
        home = dagster_home(settings)
        try:
            held = dg.DagsterInstance.get()
        except (dg.DagsterError, CheckError, ImportError, yaml.YAMLError, UnicodeError) as error:
            said = one_line(str(error), 200)
            raise config.ConfigError(
                f"{home / 'dagster.yaml'} cannot be read ({said}): fix it, or move it away to get the default again"
            ) from error
        with held:
            # Deletes nothing, but waits for the right to write: if another program has it, that is said at once.
            held.delete_dynamic_partition("credits_pipeline", "none")
            end_dead_runs(held)
            yield held


def is_ours(run: dg.DagsterRun) -> bool:
    """Whether a run is surely of this project: other projects may keep their history in the same DAGSTER_HOME."""
    return run.job_name in JOBS or PROCESS_TAG in run.tags


def tag_with_process(context: dg.InitResourceContext) -> None:
    """Write on the run which process does it, so that its death can be told from slowness."""
    if context.instance and context.run:
        home = Path(context.instance.root_directory)
        context.instance.add_run_tags(context.run.run_id, {PROCESS_TAG: sign_of_life(home, os.getpid())})


@cache
def sign_of_life(home: Path, pid: int) -> str:
    """The name of a file in `home` that this process holds locked until it ends, in whatever way and container."""
    file = processes(home) / f"{socket.gethostname()}-{pid}-{uuid4().hex[:8]}"
    lock = filelock.FileLock(file, timeout=5, mode=0o600)
    lock.acquire()
    atexit.register(lock.release)
    atexit.register(file.unlink, missing_ok=True)  # before that
    return file.name


def processes(home: Path) -> Path:
    files.make_directory(home / "processes")
    return home / "processes"


def end_dead_runs(instance: dg.DagsterInstance) -> list[str]:
    """Mark as failed the runs whose process is gone, and return their ids.

    Dagster cannot tell: such a run would count as under way, and keep all others waiting for the warehouse's pool.
    A host's name and a process's number say nothing, for a container made anew may have either again or another.
    """
    dead = {file.name: file for file in processes(Path(instance.root_directory)).iterdir() if is_free(file)}
    under_way = dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING])
    ended = [run for run in instance.get_runs(under_way) if run.tags.get(PROCESS_TAG) in dead] if dead else []
    for run in ended:
        instance.report_run_failed(run, "its process died. Committed data is kept; run it again")
    for file in dead.values():
        file.unlink(missing_ok=True)
    return [run.run_id for run in ended]


def is_free(lock: Path) -> bool:
    """Whether no process holds the file. Where locks cannot be had, nobody knows: then no run is ended by us."""
    try:
        with filelock.FileLock(lock, timeout=0, mode=0o600):
            return True
    except (filelock.Timeout, OSError):
        return False


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
