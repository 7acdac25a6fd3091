"""The one clock: every "now", "today" and pause of the pipeline comes from here, in UTC.

Tests set it with `frozen`; under a frozen clock a `sleep` moves its time on and does not wait.
"""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta


class FrozenClock:
    """A clock that stands still until told to move."""

    def __init__(self, at: datetime) -> None:
        self.elapsed = 0.0
        self.set(at)

    def set(self, at: datetime) -> None:
        if at.tzinfo is None:
            raise ValueError("a clock needs an aware time: add tzinfo=UTC")
        self.now = at.astimezone(UTC)

    def advance(self, by: timedelta) -> None:
        self.now += by
        self.elapsed += by.total_seconds()


_held: FrozenClock | None = None  # None: the machine's clock


def now() -> datetime:
    """The present instant, aware, in UTC."""
    return _held.now if _held else datetime.now(UTC)


def today() -> date:
    """The running UTC day: the vendor bills by UTC days."""
    return now().date()


def monotonic() -> float:
    """Seconds since some fixed point, for deadlines."""
    return _held.elapsed if _held else time.monotonic()


def sleep(seconds: float) -> None:
    """Wait; under a frozen clock, move its time on instead."""
    if _held:
        _held.advance(timedelta(seconds=seconds))
    else:
        time.sleep(seconds)


async def pause(seconds: float) -> None:
    """`sleep` for coroutines: the others go on meanwhile."""
    if _held:
        sleep(seconds)
    await asyncio.sleep(0 if _held else seconds)


@contextmanager
def frozen(at: datetime) -> Iterator[FrozenClock]:
    """Hold the clock at `at` (aware) until the block ends, in every thread of this process."""
    global _held
    before, _held = _held, FrozenClock(at)
    try:
        yield _held
    finally:
        _held = before
