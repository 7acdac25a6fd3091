"""A local HTTP server that speaks OpenRouter's contract for the calls that the pipeline makes.

Below /api/v1, on the loopback interface only. More than 64 analytics
queries a minute, by the pipeline's clock, are a 429.
"""

import contextlib
import json
import socket
import socketserver
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from email.utils import format_datetime
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, cast
from urllib.parse import parse_qsl, urlsplit

from credits_pipeline import clock
from credits_pipeline.simulator.accounts import SimulatedAccount
from credits_pipeline.simulator.replies import ANALYTICS_QUERY, CALLS, CREDITS, KEY, Refused, Request, workspaces
from credits_pipeline.simulator.wire import to_json

ROOT = "/api/v1"
LOOPBACK = "127.0.0.1"
MAX_BODY_BYTES = 1_000_000
RATE_WINDOW = timedelta(minutes=1)
ACCEPT_POLL_S = 0.05  # how soon the accepting thread notices that it is to end


@dataclass
class Reply:
    """What the server is about to send."""

    payload: Any
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)

    def send(self, handler: BaseHTTPRequestHandler) -> None:
        body = to_json(self.payload).encode()
        handler.wfile.write(self.head(len(body)) + body)  # together: no wait for a late ACK

    def head(self, length: int) -> bytes:
        reasons = {status.value: status.phrase for status in HTTPStatus}
        lines = [f"HTTP/1.1 {self.status} {reasons.get(self.status, 'Unknown')}"]
        headers = {"Content-Type": "application/json", "Content-Length": str(length), **self.headers}
        lines += [f"{name}: {value}" for name, value in headers.items()]
        return "\r\n".join([*lines, "", ""]).encode("latin-1")


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
        log: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.accounts = {account.name: account for account in accounts}
        self.now = now
        self.latency_s = latency_s
        self.requests_per_minute = requests_per_minute
        self.log = log
        self._by_key = {account.key: account for account in self.accounts.values()}
        if len(self._by_key) < len(self.accounts):
            raise ValueError("two simulated accounts have the same key: an account is known by its key")
        self._queries: dict[str, deque[datetime]] = {}
        self._lock = threading.Lock()
        self._server = _Server(self, port)
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(ACCEPT_POLL_S,), name="simulated-api", daemon=True
        )

    def __enter__(self) -> "SimulatedAPI":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop answering, and end every connection."""
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

    def reply(self, method: str, target: str, authorization: str | None, body: bytes) -> Reply:
        """The reply to what came over the wire."""
        key = (authorization or "").removeprefix("Bearer ").strip()
        account, (_, _, path, query, _) = self._by_key.get(key), urlsplit(target)
        request = Request(
            at=self.now(),
            method=method,
            path=path.removeprefix(ROOT) if path.startswith(ROOT) else f"outside {ROOT}: {path}",
            body=json.loads(body) if body else dict(parse_qsl(query)),
            account=account.name if account else None,
        )
        reply = self.answer(request)
        reply.headers.setdefault("Date", format_datetime(self.now(), usegmt=True))
        self.log(f"{request.at:%H:%M:%S} {request.account or '?'} {method} {request.path} {reply.status}")
        time.sleep(self.latency_s)
        return reply

    def answer(self, request: Request) -> Reply:
        """The honest reply to one request."""
        try:
            payload: dict[str, Any] = {"data": self._data(request)}
            if request.path == "/workspaces":
                payload["total_count"] = len(workspaces(self.accounts[request.account or ""]))
            return Reply(payload)
        except Refused as refused:
            error = {"code": refused.status, "message": str(refused)}
            return Reply({"error": error}, refused.status, refused.headers)

    def _data(self, request: Request) -> dict[str, Any] | list[dict[str, Any]]:
        if request.account is None:
            raise Refused(401, "User not found.")
        account, call = self.accounts[request.account], (request.method, request.path)
        if call not in CALLS:
            raise Refused(404, "Resource not found")
        if call != KEY and not account.is_management_key:
            if call == CREDITS and account.reads_zeros:
                return {"total_credits": 0, "total_usage": 0}
            raise Refused(403, "Only management keys can perform this operation")
        if call == ANALYTICS_QUERY and self.requests_per_minute:
            self._count_query(account, request.at, self.requests_per_minute)
        return CALLS[call](account, request)

    def _count_query(self, account: SimulatedAccount, now: datetime, most: int) -> None:
        with self._lock:
            recent = self._queries.setdefault(account.key, deque())
            while recent and recent[0] <= now - RATE_WINDOW:
                recent.popleft()
            if len(recent) >= most:
                seconds = (recent[0] + RATE_WINDOW - now) // timedelta(seconds=1) + 1
                raise Refused(429, "Rate limit exceeded", Retry_After=str(seconds))
            recent.append(now)


class _Server(ThreadingHTTPServer):
    """Loopback only; knows its connections, so that closing leaves none behind."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, api: SimulatedAPI, port: int) -> None:
        self.api = api
        self._connections: set[socket.socket] = set()
        super().__init__((LOOPBACK, port), _Handler)

    def server_bind(self) -> None:
        # HTTPServer would ask the resolver for this host's name, which can take seconds.
        socketserver.TCPServer.server_bind(self)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._connections.discard(request)
        super().shutdown_request(request)

    def server_close(self) -> None:
        super().server_close()
        for connection in list(self._connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that go away are no news; anything else is a bug and is printed."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def _answer(self) -> None:
        length = self.headers.get("Content-Length", "0")
        if not length.isdigit() or int(length) > MAX_BODY_BYTES:
            self.send_error(413)
            self.close_connection = True
            return
        body = self.rfile.read(int(length))
        api = cast(_Server, self.server).api
        api.reply(self.command, self.path, self.headers.get("Authorization"), body).send(self)

    do_GET = do_POST = _answer

    def log_message(self, format: str, *args: Any) -> None:
        """Silent: `SimulatedAPI(log=…)` is the log."""
