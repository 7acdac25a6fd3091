"""What an axis of UTC days labels, and how a legend is laid out."""

from collections.abc import Callable, Sequence
from datetime import date, timedelta
from typing import Any

from credits_pipeline import wording
from credits_pipeline.report.drawing import WIDTH

DAY, DAY_MS = timedelta(days=1), 86_400_000
LETTER_PX = 8  # on average, in the widest of the usual fonts

# Which days an axis may label, from every day to every hundredth January: the first that labels few enough.
LABELLED: Sequence[Callable[[date], bool]] = (
    *(lambda day, step=step: day.toordinal() % step == 0 for step in (1, 2, 3)),
    *(lambda day, step=step: day.toordinal() % step == 1 for step in (7, 14)),  # Mondays
    *(lambda day, step=step: day.day == 1 and (day.month - 1) % step == 0 for step in (1, 2, 3, 6)),
    *(lambda day, step=step: day.day == day.month == 1 and day.year % step == 0 for step in (1, 2, 5, 10, 20, 100)),
)  # fmt: skip


def legend(kinds: Sequence[str]) -> dict[str, Any]:
    return {
        "kinds": kinds,
        "columns": max(1, min(len(kinds), WIDTH // (36 + max(map(len, kinds)) * LETTER_PX))),
    }


def day_axis(first: date, end: date, *, margin: float = 0.08, most: int = 5) -> dict[str, Any]:
    """An axis of days: its ends, and the days to label, "12 Mar", "Mar" or "2026", the year once where it is not said.

    There is no label in the `margin` at either end, where the unit or the edge of the picture is.
    """
    span = (end - first).days
    inner = [first + n * DAY for n in range(span) if margin <= (n + 0.5) / span <= 1 - margin] or [first]
    ticks = next(found for rule in LABELLED if 0 < len(found := [day for day in inner if rule(day)]) <= most)
    by_month = len(ticks) > 1 and all(day.day == 1 for day in ticks)
    by_year = by_month and all(day.month == 1 for day in ticks)
    labels: list[Any] = []
    for before, day in zip([None, *ticks], ticks, strict=False):
        label = wording.day(day, year=False).split()[-1] if by_month else wording.day(day, year=False)
        new = before is None or before.year != day.year
        labels.append(str(day.year) if by_year else [label, str(day.year)] if new else label)
    return {
        "span": [_ms(first), _ms(end)],
        "days": [_ms(day) + (0 if by_month else 43_200_000) for day in ticks],
        "labels": labels,
    }


def _ms(day: date) -> int:
    return (day - date(1970, 1, 1)).days * DAY_MS
