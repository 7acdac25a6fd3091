"""The command line in real processes that can really die, without importing Dagster for each of them.

One warm process forks a child per command. A child can be told to meet its fate at a named point of the pipeline:
that is a fault injector, nothing of what the pipeline does is replaced. Its clock stands where it is told, goes on
at the real pace, and does not wait in `sleep` unless asked to.
"""

import ctypes
import functools
import json
import logging
import os
import resource
import signal
import subprocess
import sys
import textwrap
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from credits_pipeline import clock

NOBODY = 65534
DEADLOCKED_AFTER_S = 600
"""Far beyond any run, also on a busy machine: a child that lives so long hangs, and SIGALRM ends it."""

_SMALL = 64 * 1024


@dataclass(frozen=True)
class Ended:
    """How a child ended; `returncode` is minus the signal that killed it."""

    returncode: int
    stdout: str
    stderr: str


def python(code: str, *arguments: object, **options: Any) -> "subprocess.Popen[str]":
    """A new process that runs `code`; its standard input stays open until we close it."""
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    return subprocess.Popen(command, text=True, **pipes, **options)


@contextmanager
def running(code: str, *arguments: object) -> Iterator["subprocess.Popen[str]"]:
    """A new process, from its first line of output on; it is killed at the end of the block if it goes on."""
    with python(code, *arguments) as process:
        assert process.stdout
        assert process.stdout.readline(), process.communicate()[1]
        try:
            yield process
        finally:
            process.kill()
            process.communicate()


class Children:
    """The warm process. Use as a context manager."""

    def __enter__(self) -> "Children":
        code = "from credits_pipeline_tests.children import serve; serve()"
        project = Path(__file__).parent.parent
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self._server = subprocess.Popen([sys.executable, "-c", code], cwd=project, text=True, **pipes)
        return self

    def __exit__(self, *_: object) -> None:
        self._server.communicate()

    def start(
        self, arguments: Sequence[str], *, environ: Mapping[str, str], folder: Path, now: datetime, **options: object
    ) -> "Child":
        """Begin `python -m credits_pipeline <arguments>` with this environment; its output goes into `folder`.

        Options: `stage` and `fate`, `waits` of its clock, `debug` for every log.
        """
        folder.mkdir(parents=True, exist_ok=True)
        out, err = (folder / f"{time.monotonic_ns()}.{end}" for end in ("out", "err"))
        told = {"arguments": list(arguments), "environ": dict(environ), "now": now.isoformat()}
        told |= {"out": str(out), "err": str(err), **options}
        return Child(self, int(self._ask(told)), out, err)

    def run(self, arguments: Sequence[str], **options: Any) -> Ended:
        return self.start(arguments, **options).wait()

    def _ask(self, told: object) -> str:
        assert self._server.stdin
        assert self._server.stdout
        print(json.dumps(told, default=str), file=self._server.stdin, flush=True)
        answer = self._server.stdout.readline()
        assert answer, "the warm process died"
        return answer


@dataclass(frozen=True)
class Child:
    of: Children
    pid: int
    out: Path
    err: Path

    def wait(self) -> Ended:
        code = int(self.of._ask({"wait": self.pid}))
        assert code != -signal.SIGALRM, f"deadlock: {self.err.read_text(encoding='utf-8')}"
        return Ended(code, *(file.read_text(encoding="utf-8") for file in (self.out, self.err)))


# -- in the warm process -------------------------------------------------------------------------


def serve() -> None:
    """Import everything once, then fork a child per line of standard input."""
    import encodings.idna  # noqa: F401  (a child that becomes nobody may not be able to read it any more)

    import httpx  # noqa: F401
    import vl_convert  # noqa: F401

    from credits_pipeline.report import page as report  # noqa: F401

    for line in sys.stdin:
        told = json.loads(line)
        if "wait" in told:
            _, status = os.waitpid(told["wait"], 0)
            print(os.waitstatus_to_exitcode(status), flush=True)
            continue
        if (pid := os.fork()) == 0:
            become(told)
        print(pid, flush=True)


def become(told: dict[str, Any]) -> None:
    """Be `python -m credits_pipeline` until the end."""
    code = 70
    try:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for number, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(told[name], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644), number)
        signal.alarm(DEADLOCKED_AFTER_S)
        os.environ.clear()
        os.environ.update(told["environ"])
        clock._held = Pace(datetime.fromisoformat(told["now"]), waits=bool(told.get("waits")))
        if told.get("debug"):
            logging.basicConfig(level=logging.DEBUG, force=True)
        if told.get("stage"):
            arm(told["stage"], FATES[told["fate"]])
        from credits_pipeline.__main__ import main

        code = main(told["arguments"])
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
        code = 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


class Pace(clock.FrozenClock):
    """A clock that starts where it is told and goes on; `sleep` moves it on, and waits only if asked to."""

    def __init__(self, at: datetime, *, waits: bool) -> None:
        self._at, self._waits = at.astimezone(UTC), waits
        self._begun, self._slept = time.monotonic(), 0.0

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self._begun + self._slept

    @property
    def now(self) -> datetime:
        return self._at + timedelta(seconds=self.elapsed)

    def advance(self, by: timedelta) -> None:
        if self._waits:
            time.sleep(by.total_seconds())
        else:
            self._slept += by.total_seconds()


# -- where, and what -----------------------------------------------------------------------------


def arm(stage: str, fate: Callable[[], None]) -> None:
    """Have this process meet its fate the first time it comes to the stage."""
    import httpx

    from credits_pipeline import files
    from credits_pipeline.openrouter import client
    from credits_pipeline.sql_project import SqlProject
    from credits_pipeline.warehouse import Warehouse, published, tables

    fates = [fate]

    def before(*_: Any) -> None:
        if fates:
            fates.pop()()

    def half_a_page(path: Path, page: str) -> None:
        if path.name == "report.html":
            path.with_name(f".{path.name}.new").write_text(page[: len(page) // 2], encoding="utf-8")
            before()

    def nothing(*_: Any) -> None:
        pass

    owner, name, first, last = {
        "before the request": (client.Client, "credits", before, nothing),
        "mid-body": (httpx.Response, "aiter_raw", before, nothing),
        "before the write": (Warehouse, "writing", before, nothing),
        "mid-transaction of the readings": (tables, "insert", nothing, before),
        "mid-transaction of the SQL": (SqlProject, "build", nothing, before),
        "between commit and publish": (Warehouse, "publish", before, nothing),
        "mid-publish": (published, "write_published", before, nothing),
        "before the copy gets its name": (published, "replace_published", before, nothing),
        "mid-report": (files, "write", half_a_page, nothing),
    }[stage]
    real = getattr(owner, name)

    @functools.wraps(real)
    def fateful(*args: Any, **options: Any) -> Any:
        first(*args)
        result = real(*args, **options)
        last()
        return result

    setattr(owner, name, fateful)


def die(number: int) -> None:
    os.kill(os.getpid(), number)
    time.sleep(0.05)  # a handled signal reaches the main thread before this one goes on


def limit_file_size() -> None:
    """As a quota: nothing grows any more."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (_SMALL, resource.RLIM_INFINITY))


def fill_disk() -> None:
    """Not a byte left on the file system of the data."""
    with (data_dir() / "filler").open("wb", buffering=0) as filler:
        for size in (1 << 20, 4096, 1):
            with suppress(OSError):
                while filler.write(b"\0" * size) == size:
                    pass


def forbid_writing() -> None:
    """The data's file system becomes read-only, as a disk does that has had an error."""
    subprocess.run(["mount", "-o", "remount,ro", str(data_dir())], check=True)


def become_nobody() -> None:
    """Go on as a user who may use the history of Dagster, and not the data."""
    home = Path(os.environ["DAGSTER_HOME"])
    for path in (home, *home.rglob("*")):
        os.chown(path, NOBODY, NOBODY)
    # For every thread at once, which the bare system call would not do.
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.setresuid(NOBODY, NOBODY, NOBODY) == 0


def data_dir() -> Path:
    return Path(os.environ["CREDITS_DATA_DIR"])


FATES: dict[str, Callable[[], None]] = {
    "SIGKILL": functools.partial(die, signal.SIGKILL),
    "SIGTERM": functools.partial(die, signal.SIGTERM),
    "Ctrl-C": functools.partial(die, signal.SIGINT),
    "file size limit": limit_file_size,
    "disk full": fill_disk,
    "read-only": forbid_writing,
    "permission denied": become_nobody,
}
