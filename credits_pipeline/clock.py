"""The one clock: every "now", "today" and pause of the pipeline comes from here, in UTC.

Tests set it with `frozen`; a frozen clock's `sleep` moves its time on and does not wait.
"""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta


class SystemClock:
    """The machine's clock."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


class FrozenClock:
    """A clock that stands still until told to move."""

    def __init__(self, at: datetime) -> None:
        if at.tzinfo is None:
            raise ValueError("a clock needs an aware time: add tzinfo=UTC")
        self._now = at.astimezone(UTC)
        self._elapsed = 0.0

    def now(self) -> datetime:
        return self._now

    def monotonic(self) -> float:
        return self._elapsed

    def sleep(self, seconds: float) -> None:
        self.advance(timedelta(seconds=seconds))

    def advance(self, by: timedelta) -> None:
        self._now += by
        self._elapsed += by.total_seconds()

    def set(self, at: datetime) -> None:
        self._now = at.astimezone(UTC)


_clock: SystemClock | FrozenClock = SystemClock()


def now() -> datetime:
    """The present instant, aware, in UTC."""
    return _clock.now()


def today() -> date:
    """The running UTC day: the vendor bills by UTC days."""
    return _clock.now().date()


def monotonic() -> float:
    """Seconds since some fixed point, for deadlines."""
    return _clock.monotonic()


def sleep(seconds: float) -> None:
    """Wait; under a frozen clock, move its time on instead."""
    _clock.sleep(seconds)


async def pause(seconds: float) -> None:
    """`sleep` for coroutines: the others go on meanwhile."""
    if type(_clock) is SystemClock:
        await asyncio.sleep(seconds)
    else:
        _clock.sleep(seconds)
        await asyncio.sleep(0)


@contextmanager
def frozen(at: datetime) -> Iterator[FrozenClock]:
    """Hold the clock at `at` (aware) until the block ends, in every thread of this process."""
    global _clock
    before, held = _clock, FrozenClock(at)
    _clock = held
    try:
        yield held
    finally:
        _clock = before
