"""A local HTTP server that speaks OpenRouter's contract for the five calls this project knows.

GET /credits, GET /key, POST /analytics/query, GET /analytics/meta, GET /activity, below /api/v1, on the
loopback interface only. More than 64 analytics queries a minute, by the pipeline's clock, are a 429.
"""

import contextlib
import hashlib
import json
import os
import socket
import socketserver
import struct
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from email.utils import format_datetime
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, cast
from urllib.parse import parse_qsl, urlsplit

from credits_pipeline import clock
from credits_pipeline.simulator.faults import Fault, Reply
from credits_pipeline.simulator.ledger import SimulatedAccount
from credits_pipeline.simulator.replies import ANALYTICS_QUERY, CALLS, CREDITS, KEY, Refused, Request
from credits_pipeline.simulator.wire import to_json

ROOT = "/api/v1"
LOOPBACK = "127.0.0.1"
MAX_BODY_BYTES = 1_000_000
RATE_WINDOW = timedelta(minutes=1)
ACCEPT_POLL_S = 0.05  # how soon the accepting thread notices that it is to end
FINGERPRINT_DIGITS = 12


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
        if len(self._by_key) < len(self.accounts):
            raise ValueError("two simulated accounts have the same key: an account is known by its key")
        self._orders: list[_Order] = []
        self._requests: deque[Request] = deque(maxlen=100_000)
        self._queries: dict[str, deque[datetime]] = {}
        self._lock = threading.Lock()
        self._server = _Server(self, port)
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(ACCEPT_POLL_S,), name="simulated-api", daemon=True
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
        host = {"OPENROUTER_BASE_URL": self.base_url, "OPENROUTER_ALLOW_CUSTOM_HOST": "1"}
        return {**host, "CREDITS_ENV_FILE": "", **keys}  # with the real keys in `.env` left out

    def misbehave(
        self, fault: Fault, *, times: int | None = 1, path: str | None = None, account: str | None = None
    ) -> None:
        """Answer the next `times` matching requests (None: all) so. Of several faults the oldest is used."""
        if path not in (None, *(known for _, known in CALLS)):
            raise ValueError(f"the simulated API has no {path!r}: give the path without {ROOT}")
        if account not in (None, *self.accounts):
            raise ValueError(f"no simulated account {account!r}")
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
        key = (authorization or "").removeprefix("Bearer ").strip()
        account = self._by_key.get(key)
        request, order = self._noted(method, target, key, account, body)
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
            self.log(f"{request.at:%H:%M:%S} {request.account or '?'} {method} {request.path} {reply.status}")
        return reply

    def _noted(
        self, method: str, target: str, key: str, account: SimulatedAccount | None, body: bytes
    ) -> tuple[Request, _Order | None]:
        url, name = urlsplit(target), account.name if account else None
        path = url.path.removeprefix(ROOT)
        with self._lock:
            order = self._next_order(path, name)
            request = Request(
                at=self.now(),
                method=method,
                path=path if url.path.startswith(ROOT) else f"outside {ROOT}: {url.path}",
                query=dict(parse_qsl(url.query, keep_blank_values=True)),
                body=_parsed(body),
                key_fingerprint=hashlib.sha256(key.encode()).hexdigest()[:FINGERPRINT_DIGITS] if key else "",
                account=name,
                fault=order.fault.name if order else None,
            )
            self._requests.append(request)
        return request, order

    def _next_order(self, path: str, account: str | None) -> _Order | None:
        for order in self._orders:
            if order.concerns(path, account):
                if order.left is not None:
                    order.left -= 1
                return order
        return None

    def _honest(self, request: Request, account: SimulatedAccount) -> dict[str, Any]:
        call = request.method, request.path
        if call not in CALLS:
            raise Refused(404, "Resource not found")
        if call != KEY and not account.is_management_key:
            if call == CREDITS and account.reads_zeros:
                return {"data": {"total_credits": 0, "total_usage": 0}}
            raise Refused(403, "Only management keys can perform this operation")
        if call == ANALYTICS_QUERY:
            self._count_query(account, request.at)
        return CALLS[call](account, request)

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


def _parsed(body: bytes) -> Any:
    """JSON, or None where there is none."""
    try:
        return json.loads(body)
    except ValueError:
        return None


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
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        os.close(self.connection.detach())

    def log_message(self, format: str, *args: Any) -> None:
        """Silent: `SimulatedAPI(log=…)` is the log."""


def _pieces(chunk: bytes, one_by_one: bool) -> Iterator[bytes]:
    if one_by_one:
        yield from (chunk[index : index + 1] for index in range(len(chunk)))
    elif chunk:
        yield chunk
