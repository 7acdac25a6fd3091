"""Files that appear whole or not at all, folders for our eyes only, and locks between processes."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock

from credits_pipeline.errors import CreditsError


@contextmanager
def only_one(lock: Path, *, otherwise: CreditsError, timeout_s: float = 0) -> Iterator[None]:
    """Hold the file `lock` until the block ends; raise `otherwise` if another process holds it for `timeout_s`."""
    lock.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    held = filelock.FileLock(lock, timeout=timeout_s, mode=0o600)
    try:
        held.acquire()
    except filelock.Timeout:
        raise otherwise from None
    try:
        yield
    finally:
        held.release()


def write(path: Path, content: str, *, mode: int = 0o600) -> None:
    """Put `content` (as UTF-8) at `path`: a crash or a full disk leaves the old file or the new one. Raises OSError."""
    fresh = path.with_name(f".{path.name}.new")
    fresh.unlink(missing_ok=True)
    try:
        with os.fdopen(
            os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w", encoding="utf-8"
        ) as file:
            file.write(content)
        move_into_place(fresh, path)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise


def move_into_place(fresh: Path, path: Path) -> None:
    """Give a finished file its name, so that a crash leaves the old file or the new one, whole."""
    sync(fresh)
    fresh.replace(path)
    sync(path.parent)


def sync(path: Path) -> None:
    """Have a file, or the entries of a directory, on the disk before going on."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def is_alive(pid: int) -> bool:
    """Whether a process of this machine goes on; one that we may not ask about does."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
