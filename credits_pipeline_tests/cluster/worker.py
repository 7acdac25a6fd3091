"""What a worker of the tests is given beyond its configuration (`dask worker --preload`): the test's clock, and a fate.

The clock is in the file that TEST_CLOCK names. A worker whose TEST_FATE names a file kills itself in the midst of its
first build, once: the file is gone then.
"""

import os
import signal
import time
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from credits_pipeline import clock
from credits_pipeline.sql_project import SqlProject


class FileClock(clock.FrozenClock):
    """Stands where the file says; pauses are real."""

    def __init__(self) -> None:
        pass

    @property
    def now(self) -> datetime:  # type: ignore[override]
        return datetime.fromisoformat(Path(os.environ["TEST_CLOCK"]).read_text())

    @property
    def elapsed(self) -> float:  # type: ignore[override]
        return time.monotonic()

    def advance(self, by: timedelta) -> None:
        time.sleep(by.total_seconds())


def dask_setup(_: Any) -> None:
    clock._held = FileClock()
    if fate := os.environ.get("TEST_FATE"):
        tested = SqlProject.test

        def die_once(self: SqlProject, *arguments: Any) -> Any:
            if Path(fate).exists():
                Path(fate).unlink()
                os.kill(os.getpid(), signal.SIGKILL)
                time.sleep(60)
            return tested(self, *arguments)

        SqlProject.test = die_once  # type: ignore[method-assign]
