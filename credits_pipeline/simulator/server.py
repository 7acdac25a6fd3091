"""A local HTTP server that speaks OpenRouter's contract for the five calls this project knows.

GET /credits, GET /key, POST /analytics/query, GET /analytics/meta, GET /activity, below /api/v1, on the
loopback interface only. Where the contract is silent, this is what the simulator does:

- A range may begin on any UTC day from today - 365 on (31 days back with `provider`); older is a 400.
- `time_range` is [start, end): a day of which only a part lies inside is billed for that part. Without a
  range, the last 30 days.
- Granularities are day, week, month, or none; without order, rows come by day and name. At most `limit`
  rows (1,000 unless told, 10,000 at most), with `truncated: true` where there were more.
- Filters, classifiers and `group_limit` are refused with 400 rather than ignored.
- More than 64 analytics queries in a minute, by the pipeline's clock, are a 429 with Retry-After.
"""

import contextlib
import hashlib
import json
import os
import socket
import socketserver
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from email.utils import format_datetime
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, TypeAlias, cast
from urllib.parse import parse_qsl, urlsplit
from uuid import NAMESPACE_URL, uuid5

from credits_pipeline import clock
from credits_pipeline.simulator.faults import Fault, Reply
from credits_pipeline.simulator.ledger import Counts, SimulatedAccount, midnight
from credits_pipeline.simulator.models import MODELS
from credits_pipeline.simulator.wire import Literal, money, to_json

ROOT = "/api/v1"
LOOPBACK = "127.0.0.1"
DAYS_OF_ANALYTICS = 365
DAYS_OF_PROVIDER = 31
DAYS_OF_ACTIVITY = 30
DEFAULT_LIMIT = 1_000
MAX_LIMIT = 10_000
MAX_BODY_BYTES = 1_000_000
RATE_WINDOW = timedelta(minutes=1)
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
    key_fingerprint: str  # first 8 hex digits of the key's SHA-256, "" without a key
    account: str | None
    fault: str | None


@dataclass
class _Order:
    """A fault that waits for its requests."""

    fault: Fault
    left: int | None
    path: str | None
    account: str | None

    def concerns(self, path: str, account: str | None) -> bool:
        return self.left != 0 and self.path in (None, path) and self.account in (None, account)


class SimulatedAPI:
    """The simulated API over some accounts; `now` is the simulated time.

    with SimulatedAPI([account]) as api: ...; `api.environment()` is what the pipeline needs to read from it.
    `latency_s` is real time added to every reply; `requests_per_minute=None` lifts the analytics rate limit.
    """

    def __init__(
        self,
        accounts: Iterable[SimulatedAccount],
        now: Callable[[], datetime] = clock.now,
        *,
        port: int = 0,
        latency_s: float = 0.0,
        requests_per_minute: int | None = 64,
        log: Callable[[str], None] | None = None,
    ) -> None:
        self.accounts = {account.name: account for account in accounts}
        self.now = now
        self.latency_s = latency_s
        self.requests_per_minute = requests_per_minute
        self.log = log
        self._by_key = {account.key: account for account in self.accounts.values()}
        self._orders: list[_Order] = []
        self._requests: deque[Request] = deque(maxlen=100_000)
        self._queries: dict[str, deque[datetime]] = {}
        self._lock = threading.Lock()
        self._server = _Server(self, port)
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.02,), name="simulated-api", daemon=True
        )

    def __enter__(self) -> "SimulatedAPI":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop answering, end every connection, and wait for the threads."""
        self._server.closing.set()
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()

    @property
    def base_url(self) -> str:
        return f"http://{LOOPBACK}:{self._server.server_address[1]}{ROOT}"

    def environment(self) -> dict[str, str]:
        """The variables that make the pipeline read these accounts from here."""
        keys = {
            "OPENROUTER_API_KEY" + ("" if name == "default" else f"_{name.upper()}"): account.key
            for name, account in self.accounts.items()
        }
        return {"OPENROUTER_BASE_URL": self.base_url, "OPENROUTER_ALLOW_CUSTOM_HOST": "1", **keys}

    def misbehave(
        self, fault: Fault, *, times: int | None = 1, path: str | None = None, account: str | None = None
    ) -> None:
        """Answer the next `times` matching requests (None: all) so. Of several faults the oldest is used."""
        with self._lock:
            self._orders.append(_Order(fault, times, path, account))

    def behave(self) -> None:
        """Forget every fault that was asked for."""
        with self._lock:
            self._orders.clear()

    @property
    def requests(self) -> list[Request]:
        """What was asked, oldest first."""
        with self._lock:
            return list(self._requests)

    def answer(self, method: str, target: str, authorization: str | None, body: bytes) -> Reply:
        """The reply to one request, spoiled by the fault whose turn it is."""
        url, now = urlsplit(target), self.now()
        path = url.path.removeprefix(ROOT) if url.path.startswith(ROOT + "/") else url.path
        query = dict(parse_qsl(url.query, keep_blank_values=True))
        key = (authorization or "").removeprefix("Bearer ").strip()
        account = self._by_key.get(key)
        try:
            parsed = json.loads(body) if body else None
        except ValueError:
            parsed = None
        with self._lock:
            order = self._next_order(path, account.name if account else None)
            fingerprint = hashlib.sha256(key.encode()).hexdigest()[:8] if key else ""
            request = Request(
                at=now,
                method=method,
                path=path,
                query=query,
                body=parsed,
                key_fingerprint=fingerprint,
                account=account.name if account else None,
                fault=order.fault.name if order else None,
            )
            self._requests.append(request)
        try:
            if not key:
                raise Refused(401, "Missing Authentication header")
            if account is None:
                raise Refused(401, "User not found.")
            reply = Reply(self._honest(request, account))
        except Refused as refused:
            reply = refused.reply
        reply.wait_s = self.latency_s
        if order:
            order.fault.spoil(reply)
        if self.log:
            self.log(f"{now:%H:%M:%S} {request.account or '?'} {method} {path} {reply.status}")
        return reply

    def _next_order(self, path: str, account: str | None) -> _Order | None:
        for order in self._orders:
            if order.concerns(path, account):
                if order.left is not None:
                    order.left -= 1
                return order
        return None

    def _honest(self, request: Request, account: SimulatedAccount) -> dict[str, Any]:
        call = (request.method, request.path)
        now = request.at
        if call == ("GET", "/key"):
            return {"data": key_info(account, now)}
        if call == ("GET", "/credits") and account.reads_zeros and not account.is_management_key:
            return {"data": {"total_credits": 0, "total_usage": 0}}
        if call not in CALLS:
            raise Refused(404, "Resource not found")
        if not account.is_management_key:
            raise Refused(403, "Only management keys can perform this operation")
        if call == ("POST", "/analytics/query"):
            self._count_query(account, now)
        return CALLS[call](account, request, now)

    def _count_query(self, account: SimulatedAccount, now: datetime) -> None:
        if self.requests_per_minute is None:
            return
        with self._lock:
            recent = self._queries.setdefault(account.key, deque())
            while recent and recent[0] <= now - RATE_WINDOW:
                recent.popleft()
            if len(recent) >= self.requests_per_minute:
                seconds = (recent[0] + RATE_WINDOW - now) // timedelta(seconds=1) + 1
                raise Refused(429, "Rate limit exceeded", Retry_After=str(seconds))
            recent.append(now)


def credits_reply(account: SimulatedAccount, request: Request, now: datetime) -> dict[str, Any]:
    ledger = account.ledger
    return {
        "data": {
            "total_credits": money(ledger.credits_at(now)),
            "total_usage": money(ledger.usage_at(now)),
        }
    }


def key_info(account: SimulatedAccount, now: datetime) -> dict[str, Any]:
    """What a key is. A management key cannot ask models, so its own usage is 0."""
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
    return {
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


@dataclass(frozen=True)
class _Query:
    """An analytics query that may be answered."""

    metrics: list[str]
    dimensions: list[str]
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


def _names(body: dict[str, Any], field: str, known: Iterable[str]) -> list[str]:
    names = body.get(field, [])
    if not isinstance(names, list) or any(not isinstance(name, str) for name in names):
        raise Refused(400, f"Invalid request parameters: {field} must be a list of names")
    if unknown := [name for name in names if name not in known]:
        raise Refused(400, f"Invalid request parameters: unknown {field}: {', '.join(unknown)}")
    return names


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


def analytics_reply(account: SimulatedAccount, request: Request, now: datetime) -> dict[str, Any]:
    query = _Query.checked(request.body, now)
    groups = _grouped(account, query, min(query.end, now))
    keys = sorted(groups, key=lambda key: (key[0], tuple(name or "" for name in key[1])))
    if query.order_by:
        field, descending = query.order_by
        keys.sort(key=lambda key: _order_value(field, key, groups[key], query), reverse=descending)
    rows = [_row(query, day, names, groups[day, names]) for day, names in keys[: query.limit]]
    metadata = {"query_time_ms": 42, "row_count": len(rows), "truncated": len(keys) > len(rows)}
    return {"data": {"data": rows, "metadata": metadata, "cachedAt": int(now.timestamp() * 1000)}}


_Group: TypeAlias = tuple[date, tuple[str | None, ...]]


def _grouped(account: SimulatedAccount, query: _Query, end: datetime) -> dict[_Group, Counts]:
    groups: dict[_Group, Counts] = {}
    for day in _days(query.start, end):
        bucket = GRANULARITIES[query.granularity](day) if query.granularity else NO_DAY
        for model, counts in account.ledger.used(day, query.start, end).items():
            group = bucket, tuple(DIMENSIONS[name](model) for name in query.dimensions)
            groups[group] = groups[group].plus(counts) if group in groups else counts
    return groups


def _row(query: _Query, day: date, names: tuple[str | None, ...], counts: Counts) -> dict[str, Any]:
    row: dict[str, Any] = {f"date__{query.granularity}": day.isoformat()} if query.granularity else {}
    row.update(zip(query.dimensions, names, strict=True))
    row.update((metric, METRICS[metric](counts)) for metric in query.metrics)
    return row


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


def meta_reply(account: SimulatedAccount, request: Request, now: datetime) -> dict[str, Any]:
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


def activity_reply(account: SimulatedAccount, request: Request, now: datetime) -> dict[str, Any]:
    """The last 30 completed UTC days, newest first, per model (each is served by one endpoint)."""
    if unknown := sorted(request.query.keys() - {"date", "group_by"}):
        raise Refused(400, f"Invalid request parameters: not simulated: {', '.join(unknown)}")
    if request.query.get("group_by", "workspace") != "workspace":
        raise Refused(400, "Invalid request parameters: group_by must be workspace")
    days = [now.date() - timedelta(days=back) for back in range(1, DAYS_OF_ACTIVITY + 1)]
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


CALLS: dict[tuple[str, str], Callable[[SimulatedAccount, Request, datetime], dict[str, Any]]] = {
    ("GET", "/credits"): credits_reply,
    ("POST", "/analytics/query"): analytics_reply,
    ("GET", "/analytics/meta"): meta_reply,
    ("GET", "/activity"): activity_reply,
}


class _Server(ThreadingHTTPServer):
    """Loopback only; knows its connections, so that closing leaves none behind."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, api: SimulatedAPI, port: int) -> None:
        self.api = api
        self.closing = threading.Event()
        self._connections: dict[socket.socket, threading.Thread] = {}
        super().__init__((LOOPBACK, port), _Handler)

    def server_bind(self) -> None:
        # HTTPServer would ask the resolver for this host's name, which can take seconds.
        socketserver.TCPServer.server_bind(self)

    def process_request(self, request: Any, client_address: Any) -> None:
        thread = threading.Thread(
            target=self.process_request_thread, args=(request, client_address), daemon=True
        )
        self._connections[request] = thread
        thread.start()

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._connections.pop(request, None)

    def server_close(self) -> None:
        super().server_close()
        for connection, thread in list(self._connections.items()):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            thread.join(timeout=5)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that go away are no news; anything else is a bug and is printed."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    @property
    def _owner(self) -> _Server:
        return cast(_Server, self.server)

    def _answer(self) -> None:
        length = self.headers.get("Content-Length", "0")
        if not length.isdigit() or int(length) > MAX_BODY_BYTES or "Transfer-Encoding" in self.headers:
            self.send_error(413)
            self.close_connection = True
            return
        body = self.rfile.read(int(length))
        api = self._owner.api
        self._send(api.answer(self.command, self.path, self.headers.get("Authorization"), body))

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _answer

    def _send(self, reply: Reply) -> None:
        if reply.reset:
            self._reset()
        elif not self._owner.closing.wait(reply.wait_s):
            try:
                self._write(reply)
            except ConnectionError:
                self.close_connection = True

    def _write(self, reply: Reply) -> None:
        if reply.body is None:
            body = to_json(reply.payload).encode()
            chunks, length = iter([body]), len(body)
        else:
            chunks, length = iter(reply.body), reply.length or 0
        left = int(length * reply.send_share)
        self.close_connection = self.close_connection or left < length
        pending = self._head(reply, length)
        for chunk in chunks:
            for piece in _pieces(chunk[:left], bool(reply.byte_interval_s)):
                self.wfile.write(pending + piece)  # head and body leave together: no wait for a late ACK
                pending = b""
                if reply.byte_interval_s and self._owner.closing.wait(reply.byte_interval_s):
                    self.close_connection = True
                    return
            left -= len(chunk[:left])
        if pending:
            self.wfile.write(pending)

    def _head(self, reply: Reply, length: int) -> bytes:
        reasons = {status.value: status.phrase for status in HTTPStatus}
        headers = {
            "Date": format_datetime(self._owner.api.now(), usegmt=True),
            "Content-Type": reply.content_type,
            "Content-Length": str(length),
            **reply.headers,
        }
        lines = [f"HTTP/1.1 {reply.status} {reasons.get(reply.status, 'Unknown')}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        return "\r\n".join([*lines, "", ""]).encode("latin-1")

    def _reset(self) -> None:
        """Close so that the client sees RST, no orderly end: linger for 0 s, before socketserver says FIN."""
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        os.close(self.connection.detach())

    def log_message(self, format: str, *args: Any) -> None:
        """Silent: `SimulatedAPI(log=…)` is the log."""


def _pieces(chunk: bytes, one_by_one: bool) -> Iterator[bytes]:
    if one_by_one:
        yield from (chunk[index : index + 1] for index in range(len(chunk)))
    elif chunk:
        yield chunk
