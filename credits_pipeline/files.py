"""Files that appear whole or not at all, and locks between processes."""

import errno
import itertools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import filelock

from credits_pipeline.errors import CreditsError


@contextmanager
def only_one(
    lock: Path, *, otherwise: CreditsError | Callable[[], CreditsError], timeout_s: float = 0
) -> Iterator[None]:
    """Hold the file `lock` until the block ends.

    Raises `otherwise` (called then, if it is a function) where another process holds it for `timeout_s`, and
    CreditsError where the file system keeps no locks: without one, two writers would spoil each other's work.
    """
    make_directory(lock.parent)
    # `preserve_lock_file`: no lock at all rather than one that a killed process leaves behind.
    held = filelock.FileLock(lock, timeout=timeout_s, mode=0o600, preserve_lock_file=True, thread_local=False)
    try:
        held.acquire(poll_interval=0.1)
    except filelock.Timeout:
        raise (otherwise() if callable(otherwise) else otherwise) from None
    except OSError as error:
        if error.errno not in {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}:
            raise
        raise CreditsError(f"{lock} cannot be locked ({error.strerror}): keep the data on a local disk.") from error
    try:
        yield
    finally:
        held.release()


def write(path: Path, content: str, *, mode: int = 0o600) -> None:
    """Put `content` (as UTF-8) at `path`: a crash or a full disk leaves the old file or the new one. Raises OSError."""
    fresh = path.with_name(f".{path.name}.new")
    try:
        fresh.unlink(missing_ok=True)
        fresh.touch(0o600)
        fresh.write_text(content, encoding="utf-8")
        set_mode(fresh, mode)
        move_into_place(fresh, path)
    finally:
        fresh.unlink(missing_ok=True)


def set_mode(path: Path, mode: int) -> None:
    with suppress(PermissionError):  # of a file system without modes
        path.chmod(mode)


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
    except OSError as error:
        if error.errno != errno.EINVAL:  # what shared folders say that know no fsync
            raise
    finally:
        os.close(descriptor)


def beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def unused(path: Path) -> Path:
    """`path`, or the first of `path-2`, `path-3`, … that is not there yet."""
    names = itertools.chain([path], (beside(path, f"-{number}") for number in itertools.count(2)))
    return next(name for name in names if not name.exists())


def refuse_what_is_no_file(path: Path) -> None:
    """Reading a pipe would block, and a link to an unmounted disk would get an empty file in place of the data."""
    if os.path.lexists(path) and not path.is_file():
        raise CreditsError(f"{path} is no file, or a link to none: mount its disk or move it away, then run it again.")


def make_directory(path: Path) -> None:
    """For our eyes only, unless it is there already."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
