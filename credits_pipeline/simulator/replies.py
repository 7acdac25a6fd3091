"""The honest answers to the three calls that the pipeline makes, worked out from an account's ledger.

Where the contract is silent, this is what the simulator does:

- A range may begin on any UTC day from today - 365 on; older is a 400.
- `time_range` is [start, end): a day of which only a part lies inside is billed for that part.
- Rows come by day and model, at most `limit` (10,000), with `truncated: true` where there were more.
- What the contract knows and the pipeline never asks for is refused with 400 rather than ignored.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from credits_pipeline.simulator.ledger import Counts, SimulatedAccount, midnight
from credits_pipeline.simulator.wire import Literal, Row, money

DAYS_OF_ANALYTICS = 365
MAX_LIMIT = 10_000

METRICS: dict[str, Callable[[Counts], Literal | str]] = {
    "credits_usage": lambda counts: money(counts.credits),
    "byok_usage": lambda counts: money(counts.byok),
    "request_count": lambda counts: str(counts.requests),
    "tokens_prompt": lambda counts: str(counts.prompt),
    "tokens_completion": lambda counts: str(counts.completion),
    "reasoning_tokens": lambda counts: str(counts.reasoning),
    "cached_tokens": lambda counts: str(counts.cached),
}


class Refused(Exception):
    """The request gets an error reply."""

    def __init__(self, status: int, message: str, **headers: str) -> None:
        super().__init__(message)
        self.status = status
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


@dataclass(frozen=True)
class Request:
    """One request as the server saw it; the key is not among it."""

    at: datetime
    method: str
    path: str  # without /api/v1
    body: Any  # parsed JSON, None without a body
    account: str | None


def credits_reply(account: SimulatedAccount, request: Request) -> dict[str, Any]:
    credits, usage = account.ledger.credits_at(request.at), account.ledger.usage_at(request.at)
    return {"total_credits": money(credits), "total_usage": money(usage)}


def key_reply(account: SimulatedAccount, request: Request) -> dict[str, Any]:
    """What a key is. A management key cannot ask models, so its own usage is 0."""
    periods = ("", "_daily", "_weekly", "_monthly")
    return {
        "label": f"{account.key[:12]}...{account.key[-3:]}",
        "is_management_key": account.is_management_key,
        "is_provisioning_key": account.is_management_key,
        "is_free_tier": False,
        **{f"{usage}{period}": 0 for usage in ("usage", "byok_usage") for period in periods},
        "limit": None,
        "limit_remaining": None,
        "limit_reset": None,
        "include_byok_in_limit": False,
        "creator_user_id": "user_" + uuid5(NAMESPACE_URL, account.name).hex[:27],
        "expires_at": None,
        "rate_limit": {"requests": -1, "interval": "10s", "note": "This field is deprecated."},
    }


def analytics_reply(account: SimulatedAccount, request: Request) -> dict[str, Any]:
    metrics, start, end, limit = _checked(request.body, request.at)
    rows, day = [], start.date()
    while midnight(day) < min(end, request.at):
        used = account.ledger.used(day, start, min(end, request.at))
        rows += [_row(metrics, day, model, counts) for model, counts in sorted(used.items())]
        day += timedelta(days=1)
    metadata = {"query_time_ms": 42, "row_count": len(rows[:limit]), "truncated": len(rows) > limit}
    return {"data": rows[:limit], "metadata": metadata, "cachedAt": int(request.at.timestamp() * 1000)}


# Ledgers are shared and the past does not change: 200 accounts that ask for their year find most rows made.
@lru_cache(maxsize=40_000)
def _row(metrics: tuple[str, ...], day: date, model: str, counts: Counts) -> Row:
    figures = {metric: METRICS[metric](counts) for metric in metrics}
    return Row({"date__day": day.isoformat(), "model": model, **figures})


def _checked(body: Any, now: datetime) -> tuple[tuple[str, ...], datetime, datetime, int]:
    """The metrics, range and limit of a query that may be answered."""
    if not isinstance(body, dict) or body.keys() != {
        "metrics", "dimensions", "granularity", "time_range", "limit",
    }:  # fmt: skip
        raise _invalid("metrics, dimensions, granularity, time_range and limit are needed")
    metrics, limit, span = body["metrics"], body["limit"], body["time_range"]
    if not isinstance(metrics, list) or not metrics or not METRICS.keys() >= set(map(str, metrics)):
        raise _invalid(f"metrics are {', '.join(METRICS)}")
    if body["dimensions"] != ["model"] or body["granularity"] != "day":
        raise _invalid("only days by model are simulated")
    if type(limit) is not int or not 1 <= limit <= MAX_LIMIT:
        raise _invalid(f"limit must be 1 to {MAX_LIMIT}")
    try:
        start, end = (datetime.fromisoformat(span[name]).astimezone(UTC) for name in ("start", "end"))
    except (TypeError, KeyError, ValueError):
        raise _invalid("time_range needs start and end, date-times") from None
    if start >= end:
        raise _invalid("time_range.start must be before end")
    if start < midnight(now.date() - timedelta(days=DAYS_OF_ANALYTICS)):
        raise _invalid(f"time_range goes back more than {DAYS_OF_ANALYTICS} days")
    return tuple(metrics), start, end, limit


def _invalid(what: str) -> Refused:
    return Refused(400, f"Invalid request parameters: {what}")


CREDITS, KEY, ANALYTICS_QUERY = ("GET", "/credits"), ("GET", "/key"), ("POST", "/analytics/query")
CALLS: dict[tuple[str, str], Callable[[SimulatedAccount, Request], dict[str, Any]]] = {
    CREDITS: credits_reply,
    KEY: key_reply,
    ANALYTICS_QUERY: analytics_reply,
}
