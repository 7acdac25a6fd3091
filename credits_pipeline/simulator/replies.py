"""The honest answers to the five calls, worked out from an account's ledger.

Where the contract is silent, this is what the simulator does:

- A range may begin on any UTC day from today - 365 on (31 days back with `provider`); older is a 400.
- `time_range` is [start, end): a day of which only a part lies inside is billed for that part. Without a
  range, the last 30 days.
- Granularities are day, week, month, or none; without order, rows come by day and name. At most `limit`
  rows (1,000 unless told, 10,000 at most), with `truncated: true` where there were more.
- Filters, classifiers and `group_limit` are refused with 400 rather than ignored.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from typing import Any, TypeAlias
from uuid import NAMESPACE_URL, uuid5

from credits_pipeline.simulator.faults import Reply
from credits_pipeline.simulator.ledger import Counts, SimulatedAccount, midnight
from credits_pipeline.simulator.models import MODELS
from credits_pipeline.simulator.wire import Literal, Row, money

DAYS_OF_ANALYTICS = 365
DAYS_OF_PROVIDER = 31
DAYS_OF_ACTIVITY = 30
DEFAULT_LIMIT = 1_000
MAX_LIMIT = 10_000
NO_DAY = date.min  # the one bucket of a query without granularity

METRICS: dict[str, Callable[[Counts], Literal | str]] = {
    "credits_usage": lambda counts: money(counts.credits),
    "total_usage": lambda counts: money(counts.credits + counts.byok),
    "byok_usage": lambda counts: money(counts.byok),
    "request_count": lambda counts: str(counts.requests),
    "tokens_total": lambda counts: str(counts.prompt + counts.completion),
    "tokens_prompt": lambda counts: str(counts.prompt),
    "tokens_completion": lambda counts: str(counts.completion),
    "reasoning_tokens": lambda counts: str(counts.reasoning),
    "cached_tokens": lambda counts: str(counts.cached),
}
CURRENCY = ("credits_usage", "total_usage", "byok_usage")
# Everything an account does comes from one key, one workspace and one app.
DIMENSIONS: dict[str, Callable[[str], str | None]] = {
    "model": lambda model: model,
    "variant": lambda model: model.partition(":")[2] or "standard",
    "api_key_id": lambda model: "Production",
    "user": lambda model: None,
    "workspace": lambda model: "Default Workspace",
    "app": lambda model: "Simulated app",
    "provider": lambda model: provider_of(model),
}
GRANULARITIES: dict[str, Callable[[date], date]] = {
    "day": lambda day: day,
    "week": lambda day: day - timedelta(days=day.weekday()),
    "month": lambda day: day.replace(day=1),
}
QUERY_FIELDS = {"metrics", "dimensions", "granularity", "time_range", "limit", "order_by"}


class Refused(Exception):
    """The request gets an error reply."""

    def __init__(self, status: int, message: str, **headers: str) -> None:
        super().__init__(message)
        self.reply = Reply(
            {"error": {"code": status, "message": message}},
            status,
            {name.replace("_", "-"): value for name, value in headers.items()},
        )


@dataclass(frozen=True)
class Request:
    """One request as the server saw it: a fingerprint stands for the key."""

    at: datetime
    method: str
    path: str  # without /api/v1 and without the query
    query: dict[str, str]
    body: Any  # parsed JSON, None without a body
    key_fingerprint: str  # first 12 hex digits of the key's SHA-256, "" without a key
    account: str | None
    fault: str | None


def credits_reply(account: SimulatedAccount, request: Request) -> dict[str, Any]:
    credits, usage = account.ledger.credits_at(request.at), account.ledger.usage_at(request.at)
    return {"data": {"total_credits": money(credits), "total_usage": money(usage)}}


def key_reply(account: SimulatedAccount, request: Request) -> dict[str, Any]:
    """What a key is. A management key cannot ask models, so its own usage is 0."""
    now = request.at
    today = midnight(now.date())
    periods = {
        "": datetime.min.replace(tzinfo=UTC),
        "_daily": today,
        "_weekly": today - timedelta(days=now.weekday()),
        "_monthly": today.replace(day=1),
    }
    used = account.ledger.usage_at
    usage = {
        f"usage{period}": money(0 if account.is_management_key else used(now) - used(begin))
        for period, begin in periods.items()
    }
    info = {
        "label": f"{account.key[:12]}...{account.key[-3:]}",
        "is_management_key": account.is_management_key,
        "is_provisioning_key": account.is_management_key,
        "is_free_tier": False,
        **usage,
        **{f"byok_usage{period}": 0 for period in periods},
        "limit": None,
        "limit_remaining": None,
        "limit_reset": None,
        "include_byok_in_limit": False,
        "creator_user_id": "user_" + uuid5(NAMESPACE_URL, account.name).hex[:27],
        "expires_at": None,
        "rate_limit": {
            "requests": -1,
            "interval": "10s",
            "note": "This field is deprecated and safe to ignore.",
        },
    }
    return {"data": info}


@dataclass(frozen=True)
class _Query:
    """An analytics query that may be answered."""

    metrics: tuple[str, ...]
    dimensions: tuple[str, ...]
    granularity: str | None
    start: datetime
    end: datetime
    limit: int
    order_by: tuple[str, bool] | None  # field, descending

    @classmethod
    def checked(cls, body: Any, now: datetime) -> "_Query":
        if not isinstance(body, dict):
            raise Refused(400, "Invalid request parameters: the body is no JSON object")
        if unknown := sorted(body.keys() - QUERY_FIELDS):
            raise Refused(400, f"Invalid request parameters: not simulated: {', '.join(unknown)}")
        metrics = _names(body, "metrics", METRICS)
        if not metrics:
            raise Refused(400, "Invalid request parameters: metrics needs at least one name")
        dimensions = _names(body, "dimensions", DIMENSIONS)
        if len(dimensions) > 2:
            raise Refused(400, "Invalid request parameters: at most 2 dimensions")
        granularity = body.get("granularity")
        if granularity is not None and granularity not in GRANULARITIES:
            raise Refused(400, f"Invalid request parameters: unknown granularity {granularity!r}")
        limit = body.get("limit", DEFAULT_LIMIT)
        if type(limit) is not int or not 1 <= limit <= MAX_LIMIT:
            raise Refused(400, f"Invalid request parameters: limit must be 1 to {MAX_LIMIT}")
        start, end = _time_range(body, now)
        days = DAYS_OF_PROVIDER if "provider" in dimensions else DAYS_OF_ANALYTICS
        if start < midnight(now.date() - timedelta(days=days)):
            raise Refused(400, f"Invalid request parameters: time_range goes back more than {days} days")
        order_by = _order_by(body, {*metrics, *dimensions, "request_count", "date"})
        return cls(metrics, dimensions, granularity, start, end, limit, order_by)


def _names(body: dict[str, Any], field: str, known: Iterable[str]) -> tuple[str, ...]:
    names = body.get(field, [])
    if not isinstance(names, list) or any(not isinstance(name, str) for name in names):
        raise Refused(400, f"Invalid request parameters: {field} must be a list of names")
    if unknown := [name for name in names if name not in known]:
        raise Refused(400, f"Invalid request parameters: unknown {field}: {', '.join(unknown)}")
    return tuple(names)


def _time_range(body: dict[str, Any], now: datetime) -> tuple[datetime, datetime]:
    given = body.get("time_range", {"start": (now - timedelta(days=30)).isoformat(), "end": now.isoformat()})
    try:
        start, end = (datetime.fromisoformat(given[name]) for name in ("start", "end"))
    except (TypeError, KeyError, ValueError):
        raise Refused(400, "Invalid request parameters: time_range needs start and end, date-times") from None
    if start.tzinfo is None or end.tzinfo is None:
        raise Refused(400, "Invalid request parameters: time_range needs a zone, such as Z")
    if start >= end:
        raise Refused(400, "Invalid request parameters: time_range.start must be before end")
    return start.astimezone(UTC), end.astimezone(UTC)


def _order_by(body: dict[str, Any], fields: set[str]) -> tuple[str, bool] | None:
    order = body.get("order_by")
    if order is None:
        return None
    is_order = isinstance(order, dict) and order.get("direction") in ("asc", "desc")
    if not is_order or order.get("field") not in fields:
        raise Refused(400, "Invalid request parameters: order_by needs a known field and asc or desc")
    return order["field"], order["direction"] == "desc"


def analytics_reply(account: SimulatedAccount, request: Request) -> dict[str, Any]:
    query = _Query.checked(request.body, request.at)
    groups = _grouped(account, query, min(query.end, request.at))
    keys = sorted(groups, key=lambda key: (key[0], tuple(name or "" for name in key[1])))
    if query.order_by:
        field, descending = query.order_by
        keys.sort(key=lambda key: _order_value(field, key, groups[key], query), reverse=descending)
    asked = query.granularity, query.dimensions, query.metrics
    rows = [_row(*asked, day, names, groups[day, names]) for day, names in keys[: query.limit]]
    metadata = {"query_time_ms": 42, "row_count": len(rows), "truncated": len(keys) > len(rows)}
    return {"data": {"data": rows, "metadata": metadata, "cachedAt": int(request.at.timestamp() * 1000)}}


_Group: TypeAlias = tuple[date, tuple[str | None, ...]]


def _grouped(account: SimulatedAccount, query: _Query, end: datetime) -> dict[_Group, Counts]:
    groups: dict[_Group, Counts] = {}
    for day in _days(query.start, end):
        bucket = GRANULARITIES[query.granularity](day) if query.granularity else NO_DAY
        for model, counts in account.ledger.used(day, query.start, end).items():
            group = bucket, tuple(DIMENSIONS[name](model) for name in query.dimensions)
            groups[group] = groups[group].plus(counts) if group in groups else counts
    return groups


# Ledgers are shared and the past does not change: 200 accounts that ask for their year find most rows made.
@lru_cache(maxsize=40_000)
def _row(
    granularity: str | None,
    dimensions: tuple[str, ...],
    metrics: tuple[str, ...],
    day: date,
    names: tuple[str | None, ...],
    counts: Counts,
) -> Row:
    row: dict[str, Any] = {f"date__{granularity}": day.isoformat()} if granularity else {}
    row.update(zip(dimensions, names, strict=True))
    row.update((metric, METRICS[metric](counts)) for metric in metrics)
    return Row(row)


def _order_value(field: str, group: _Group, counts: Counts, query: _Query) -> Any:
    if field == "date":
        return group[0]
    if field in DIMENSIONS:
        return group[1][query.dimensions.index(field)] or ""
    return float(METRICS[field](counts))  # only for the order


def _days(start: datetime, end: datetime) -> Iterator[date]:
    day = start.date()
    while midnight(day) < end:
        yield day
        day += timedelta(days=1)


def meta_reply(account: SimulatedAccount, request: Request) -> dict[str, Any]:
    def named(name: str) -> dict[str, Any]:
        return {"name": name, "display_label": name.replace("_", " ").title()}

    metrics = [
        {
            **named(name),
            "is_rate": False,
            "display_format": "currency" if name in CURRENCY else "number",
        }
        for name in METRICS
    ]
    return {
        "data": {
            "metrics": metrics,
            "dimensions": [named(name) for name in DIMENSIONS],
            "operators": [],
            "granularities": [named(name) for name in GRANULARITIES],
        }
    }


def activity_reply(account: SimulatedAccount, request: Request) -> dict[str, Any]:
    """The last 30 completed UTC days, newest first, per model (each is served by one endpoint)."""
    if unknown := sorted(request.query.keys() - {"date", "group_by"}):
        raise Refused(400, f"Invalid request parameters: not simulated: {', '.join(unknown)}")
    if request.query.get("group_by", "workspace") != "workspace":
        raise Refused(400, "Invalid request parameters: group_by must be workspace")
    days = [request.at.date() - timedelta(days=back) for back in range(1, DAYS_OF_ACTIVITY + 1)]
    if "date" in request.query:
        days = [day for day in days if day.isoformat() == request.query["date"]]
        if not days:
            raise Refused(400, "Date must be within the last 30 (completed) UTC days")
    workspace = (
        {"workspace_id": str(uuid5(NAMESPACE_URL, account.name))} if "group_by" in request.query else {}
    )
    rows = []
    for day in days:
        for model, counts in account.ledger.used(day).items():
            known = MODELS.get(model)
            rows.append(
                {
                    "date": day.isoformat(),
                    "model": model,
                    "model_permaslug": known.permaslug if known else model,
                    "endpoint_id": str(uuid5(NAMESPACE_URL, model)),
                    "provider_name": provider_of(model),
                    "usage": money(counts.credits),
                    "byok_usage_inference": money(counts.byok),
                    "requests": counts.requests,
                    "prompt_tokens": counts.prompt,
                    "completion_tokens": counts.completion,
                    "reasoning_tokens": counts.reasoning,
                    **workspace,
                }
            )
    return {"data": rows}


def provider_of(model: str) -> str:
    known = MODELS.get(model)
    return known.provider if known else model.partition("/")[0]


CREDITS = ("GET", "/credits")
KEY = ("GET", "/key")
ANALYTICS_QUERY = ("POST", "/analytics/query")
CALLS: dict[tuple[str, str], Callable[[SimulatedAccount, Request], dict[str, Any]]] = {
    CREDITS: credits_reply,
    KEY: key_reply,
    ANALYTICS_QUERY: analytics_reply,
    ("GET", "/analytics/meta"): meta_reply,
    ("GET", "/activity"): activity_reply,
}
