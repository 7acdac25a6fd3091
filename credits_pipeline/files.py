"""Files that appear whole or not at all, locks between processes, and file systems that cannot do all of that."""

import errno
import functools
import itertools
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import filelock

from credits_pipeline import clock
from credits_pipeline.errors import CreditsError

UNSUPPORTED: Final = {
    errno.EBADF, errno.EBUSY, errno.EINVAL, errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM, errno.ETXTBSY
}  # fmt: skip
"""What shared folders, network and memory-card file systems answer to a call that they do not know."""

_POLL_S: Final = 0.1
"""Between two attempts at a lock: short compared with a run (seconds), long with one attempt (under 1 ms)."""


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
    held = filelock.FileLock(lock, mode=0o600, preserve_lock_file=True, thread_local=False)
    deadline = clock.monotonic() + timeout_s
    while not held.is_locked:
        try:
            held.acquire(blocking=False)
        except filelock.Timeout:
            if clock.monotonic() >= deadline:
                raise (otherwise() if callable(otherwise) else otherwise) from None
            clock.sleep(_POLL_S)
        except OSError as error:
            if error.errno not in UNSUPPORTED:
                raise
            raise CreditsError(
                f"{lock} cannot be locked, since {file_system(lock)} keeps no locks ({error.strerror}): keep the data"
                " on a local disk."
            ) from error
    try:
        yield
    finally:
        held.release()


def write(path: Path, content: str, *, mode: int = 0o600) -> None:
    """Put `content` (as UTF-8) at `path`: a crash or a full disk leaves the old file or the new one. Raises OSError."""
    fresh = path.with_name(f".{path.name}.new")
    fresh.unlink(missing_ok=True)
    try:
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w", encoding="utf-8") as file:
            file.write(content)
        move_into_place(fresh, path)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise


def move_into_place(fresh: Path, path: Path) -> None:
    """Give a finished file its name, so that a crash leaves the old file or the new one, whole.

    Raises CreditsError where the file system replaces no open file, as Windows shares do not.
    """
    sync(fresh)
    try:
        fresh.replace(path)
    except OSError as error:
        if error.errno not in UNSUPPORTED - {errno.EPERM}:
            raise
        raise CreditsError(
            f"{path} cannot be replaced ({error.strerror}): close the program that has it open, or keep it on a local"
            f" disk, since {file_system(path)} lets no open file be replaced."
        ) from error
    sync(path.parent)


def sync(path: Path) -> None:
    """Have a file, or the entries of a directory, on the disk before going on, where the file system can."""
    with _as_far_as_supported("fsync", path):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def set_mode(path: Path, mode: int) -> None:
    """chmod, where the file system has modes."""
    with _as_far_as_supported("chmod", path):
        path.chmod(mode)


@contextmanager
def _as_far_as_supported(call: str, path: Path) -> Iterator[None]:
    """Go on, with one warning, where the file system does not know a call that no figure depends on."""
    try:
        yield
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
        _warn_once(
            f"{file_system(path)} does not support {call} ({error.strerror}): going on without. A power failure may"
            " cost the newest files there, and others may be able to read them."
        )


@functools.cache
def _warn_once(message: str) -> None:
    logging.getLogger("credits_pipeline").warning(message)


def file_system(path: Path) -> str:
    """Which file system `path` is on, for people: "the file system at /mnt/share (cifs)"."""
    try:
        mounts = [line.split(" ")[1:3] for line in Path("/proc/self/mounts").read_text().splitlines()]
    except OSError:  # not Linux
        return f"the file system of {path.parent}"
    path = path.resolve()
    found = [(Path(place.replace("\\040", " ")), kind) for place, kind in mounts]
    place, kind = max(((p, k) for p, k in found if path.is_relative_to(p)), key=lambda m: len(m[0].parts))
    return f"the file system at {place} ({kind})"


def absolute(path: Path) -> Path:
    """Absolute, with symlinks left as the user chose them."""
    return Path(os.path.abspath(path))  # noqa: PTH100


def beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def unused(path: Path) -> Path:
    """`path`, or the first of `path-2`, `path-3`, … that is not there yet."""
    names = itertools.chain([path], (beside(path, f"-{number}") for number in itertools.count(2)))
    return next(name for name in names if not name.exists())


def refuse_what_is_no_file(path: Path) -> None:
    """Reading a pipe would block, and a link to an unmounted disk would get an empty file in place of the data."""
    if path.is_file() or not os.path.lexists(path):
        return
    leads = f"leads to {path.readlink()}, where there is" if path.is_symlink() else "is"
    raise CreditsError(f"{path} {leads} no file: mount its disk or move it away, then run this again.")


def make_directory(path: Path) -> None:
    """For our eyes only, unless it is there already."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise CreditsError(f"{path} is no directory: name another one.") from None


def is_alive(pid: int) -> bool:
    """Whether a process of this machine goes on; one that we may not ask about does."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
