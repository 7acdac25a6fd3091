"""The honest answers to the calls that the pipeline makes, worked out from an account's ledger.

Where the contract is silent, this is what the simulator does:

- A range may begin on any UTC day from today - 365 on; older is a 400.
- `time_range` is [start, end): a day of which only a part lies inside is billed for that part.
- Rows come by day and model, and by one dimension more if asked for: at most `limit` (10,000), with `truncated: true`
  where there were more.
- A breakdown gives names, and those that a key had when it was used: keys of one name are one, a renamed one is two.
- Keys are listed by workspace in pages of 100, those of the default one unless another is asked for.
- What the contract knows and the pipeline never asks for is refused with 400 rather than ignored.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from hashlib import sha256
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from credits_pipeline.simulator.accounts import SimulatedAccount
from credits_pipeline.simulator.keys import DEFAULT_WORKSPACE, SimulatedKey
from credits_pipeline.simulator.ledger import Counts, midnight
from credits_pipeline.simulator.wire import NANO, Literal, Row, money

DAYS_OF_ANALYTICS = 365
MAX_LIMIT = 10_000
PAGE = 100  # keys or workspaces at a time
DIMENSIONS = {"api_key_id": "api_key", "workspace": "workspace", "user": "user", "app": "app"}

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
    body: Any  # parsed JSON; of a GET the parameters of its query
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


def keys_reply(account: SimulatedAccount, request: Request) -> list[dict[str, Any]]:
    ids = {workspace_id(account, name): name for name in workspaces(account)}
    workspace = ids.get(request.body.get("workspace_id", workspace_id(account, DEFAULT_WORKSPACE)))
    listed = [
        _key(account, number, key, request.at)
        for number, key in enumerate(account.keys)
        if key.workspace == workspace and key.since <= request.at < key.until
        if not key.is_disabled or request.body.get("include_disabled") == "true"
    ]
    offset = int(request.body.get("offset", 0))
    return listed[offset : offset + PAGE]


def _key(account: SimulatedAccount, number: int, key: SimulatedKey, at: datetime) -> dict[str, Any]:
    digest = sha256(f"{account.name} {number}".encode()).hexdigest()
    begins = {
        "": date.min,
        "_daily": at.date(),
        "_weekly": at.date() - timedelta(days=at.weekday()),
        "_monthly": at.date().replace(day=1),
    }
    costs = {period: account.key_ledger.cost(key, first, at) for period, first in begins.items()}
    left = key.limit_usd and max(key.limit_usd * NANO - costs[f"_{key.limit_reset}" if key.limit_reset else ""], 0)
    said = costs if key.has_counters else {"": costs[""]}
    return {
        "hash": digest,
        "name": key.name_at(at),
        "label": f"sk-or-v1-{digest[:3]}...{digest[-3:]}",
        "disabled": key.is_disabled,
        "limit": key.limit_usd,
        "limit_remaining": None if left is None else money(left),
        "limit_reset": key.limit_reset,
        "include_byok_in_limit": False,
        **{f"usage{period}": money(cost) for period, cost in said.items()},
        **{f"byok_usage{period}": 0 for period in said},
        "created_at": key.since.isoformat(),
        "updated_at": None,
        "expires_at": key.expires_at and key.expires_at.isoformat(),
        "creator_user_id": "user_" + uuid5(NAMESPACE_URL, key.user).hex[:27],
        "workspace_id": workspace_id(account, key.workspace),
    }


def workspaces(account: SimulatedAccount) -> list[str]:
    return sorted({DEFAULT_WORKSPACE, *(key.workspace for key in account.keys)})


def workspace_id(account: SimulatedAccount, name: str) -> str:
    return str(uuid5(NAMESPACE_URL, f"{account.name} {name}"))


def workspaces_reply(account: SimulatedAccount, request: Request) -> list[dict[str, Any]]:
    unset = ("description", "default_text_model", "default_image_model", "default_provider_sort", "updated_at")
    listed = [
        {
            "id": (known_as := workspace_id(account, name)),
            "name": name,
            "slug": name.lower(),
            "default_guardrail_id": known_as,
            "created_at": "2024-01-01T00:00:00Z",
            "created_by": None,
            "is_data_discount_logging_enabled": False,
            "is_observability_broadcast_enabled": False,
            "is_observability_io_logging_enabled": False,
            "io_logging_sampling_rate": 1,
            "io_logging_api_key_ids": None,
            **dict.fromkeys(unset),
        }
        for name in workspaces(account)
    ]
    offset, limit = int(request.body.get("offset", 0)), int(request.body.get("limit", 50))
    return listed[offset : offset + min(limit, PAGE)]


def analytics_reply(account: SimulatedAccount, request: Request) -> dict[str, Any]:
    metrics, dimension, start, end, limit = _checked(request.body, request.at)
    rows, day, until = [], start.date(), min(end, request.at)
    while midnight(day) < until:
        if dimension:
            parts = account.key_ledger.used(DIMENSIONS[dimension], day, until)
        else:
            parts = {("", model): counts for model, counts in account.ledger.used(day, start, until).items()}
        rows += [_row(metrics, day, dimension, *part, counts) for part, counts in sorted(parts.items())]
        day += timedelta(days=1)
    metadata = {"query_time_ms": 42, "row_count": len(rows[:limit]), "truncated": len(rows) > limit}
    return {"data": rows[:limit], "metadata": metadata, "cachedAt": int(request.at.timestamp() * 1000)}


# Ledgers are shared and the past does not change: 200 accounts that ask for their year find most rows made.
@lru_cache(maxsize=40_000)
def _row(metrics: tuple[str, ...], day: date, dimension: str, member: str, model: str, counts: Counts) -> Row:
    figures = {metric: METRICS[metric](counts) for metric in metrics}
    named = {dimension: member} if dimension else {}
    if dimension == "user":
        named["user_email"] = f"{member.partition(' ')[0].lower()}@example.com"
    return Row({"date__day": day.isoformat(), "model": model, **named, **figures})


def _checked(body: Any, now: datetime) -> tuple[tuple[str, ...], str, datetime, datetime, int]:
    """The metrics, dimension beside the model, range and limit of a query that may be answered."""
    if not isinstance(body, dict) or body.keys() != {
        "metrics", "dimensions", "granularity", "time_range", "limit",
    }:  # fmt: skip
        raise _invalid("metrics, dimensions, granularity, time_range and limit are needed")
    metrics, limit, span = body["metrics"], body["limit"], body["time_range"]
    if not isinstance(metrics, list) or not metrics or not METRICS.keys() >= set(map(str, metrics)):
        raise _invalid(f"metrics are {', '.join(METRICS)}")
    model, *others = body["dimensions"]
    if model != "model" or len(others) > 1 or not DIMENSIONS.keys() >= set(others) or body["granularity"] != "day":
        raise _invalid("only days by model, and by one more dimension, are simulated")
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
    return tuple(metrics), "".join(others), start, end, limit


def _invalid(what: str) -> Refused:
    return Refused(400, f"Invalid request parameters: {what}")


CREDITS, KEY, ANALYTICS_QUERY = ("GET", "/credits"), ("GET", "/key"), ("POST", "/analytics/query")
CALLS: dict[tuple[str, str], Callable[[SimulatedAccount, Request], dict[str, Any] | list[dict[str, Any]]]] = {
    CREDITS: credits_reply,
    KEY: key_reply,
    ANALYTICS_QUERY: analytics_reply,
    ("GET", "/keys"): keys_reply,
    ("GET", "/workspaces"): workspaces_reply,
}
