"""The simulated API when it answers wrongly: as was seen in the wild, or as a client must survive."""

import contextlib
import os
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from http.server import BaseHTTPRequestHandler
from typing import Any, Self

from credits_pipeline.simulator import SimulatedAPI
from credits_pipeline.simulator.replies import CALLS, Request
from credits_pipeline.simulator.server import ROOT, Reply
from credits_pipeline.simulator.wire import to_json

HTML = b"<!DOCTYPE html>\n<html><head><title>Just a moment...</title></head><body>Checking</body></html>\n"


@dataclass
class Spoiled(Reply):
    """The honest reply, until a fault spoils it."""

    body: bytes | None = None  # instead of the payload
    send_share: float = 1.0  # less than 1: the connection ends before the body does
    reset: bool = False  # no reply: the connection is reset

    def send(self, handler: BaseHTTPRequestHandler) -> None:
        if self.reset:  # close so that the client sees RST, no orderly end: linger for 0 s
            handler.close_connection = True
            handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            os.close(handler.connection.detach())
            return
        body = to_json(self.payload).encode() if self.body is None else self.body
        sent = body[: int(len(body) * self.send_share)]
        handler.close_connection = handler.close_connection or len(sent) < len(body)
        with contextlib.suppress(ConnectionError):
            handler.wfile.write(self.head(len(body)) + sent)


@dataclass(frozen=True)
class Fault:
    """One way to answer wrongly. `Fault.status(503, retry_after=2)`, given to `FaultyAPI.misbehave`."""

    name: str
    spoil: Callable[[Spoiled, Request], None]

    def __str__(self) -> str:
        return self.name

    @classmethod
    def status(
        cls, code: int, *, retry_after: Any = None, message: str = "Simulated fault", html: bool = False
    ) -> Self:
        """A status code with the API's error body, or HTML as a CDN sends it."""

        def spoil(reply: Spoiled, _: Request) -> None:
            reply.status = code
            reply.payload = {"error": {"code": code, "message": message}}
            if html:
                reply.body, reply.headers["Content-Type"] = HTML, "text/html; charset=UTF-8"
            if retry_after is not None:
                reply.headers["Retry-After"] = str(retry_after)

        return cls(f"status {code}" + (" with a page" if html else ""), spoil)

    @classmethod
    def body(cls, body: bytes) -> Self:
        """Exactly these bytes, with status 200."""
        return cls("body", lambda reply, _: vars(reply).update(status=200, body=body))

    @classmethod
    def redirect(cls, location: str, status: int = 307) -> Self:
        """A redirect: following it to another host would hand the key to a stranger."""

        def spoil(reply: Spoiled, _: Request) -> None:
            reply.status, reply.payload = status, {}
            reply.headers["Location"] = location

        return cls(f"redirect {status}", spoil)

    @classmethod
    def reset(cls) -> Self:
        """The connection is reset before any byte."""
        return cls("reset", lambda reply, _: setattr(reply, "reset", True))

    @classmethod
    def only_hours_ago(cls, hours: int) -> Self:
        """A vendor that counts in hours: what begins further back is refused."""

        def spoil(reply: Spoiled, request: Request) -> None:
            begin = datetime.fromisoformat(request.body["time_range"]["start"])
            if begin < request.at - timedelta(hours=hours):
                cls.status(400, message="time_range goes back too far").spoil(reply, request)

        return cls(f"only {hours} hours", spoil)

    @classmethod
    def truncated_body(cls) -> Self:
        """The connection ends after half of the announced body."""
        return cls("truncated body", lambda reply, _: setattr(reply, "send_share", 0.5))

    @classmethod
    def zeros(cls) -> Self:
        """200 with two zeros: what an ordinary key was seen to get on a funded account."""
        return cls.body(b'{"data": {"total_credits": 0, "total_usage": 0}}')

    @classmethod
    def truncate(cls, rows: int) -> Self:
        """At most `rows` rows, and `truncated: true` where there were more."""

        def spoil(reply: Spoiled, _: Request) -> None:
            data = reply.payload.get("data", {}) if reply.status == 200 else {}
            if len(data.get("data", ())) > rows:
                data["data"] = data["data"][:rows]
                data["metadata"].update(row_count=rows, truncated=True)

        return cls(f"truncate at {rows} rows", spoil)


@dataclass
class _Order:
    """A fault that waits for its requests."""

    fault: Fault
    left: int | None
    path: str | None
    account: str | None

    def concerns(self, request: Request) -> bool:
        return self.left != 0 and self.path in (None, request.path) and self.account in (None, request.account)


class FaultyAPI(SimulatedAPI):
    """An honest simulated API that knows what it was asked, and answers wrongly when told to."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.requests: list[Request] = []  # oldest first
        self._orders: list[_Order] = []

    def __enter__(self) -> "FaultyAPI":
        super().__enter__()
        return self

    def misbehave(
        self, fault: Fault, *, times: int | None = 1, path: str | None = None, account: str | None = None
    ) -> None:
        """Answer the next `times` matching requests (None: all) so. Of several faults the oldest is used."""
        assert path in (None, *(known for _, known in CALLS)), f"give the path without {ROOT}"
        assert account in (None, *self.accounts)
        self._orders.append(_Order(fault, times, path, account))

    def behave(self) -> None:
        """Forget every fault that was asked for."""
        self._orders.clear()

    def begin_anew(self) -> None:
        """As if it had just been started."""
        self.behave()
        self.requests.clear()
        self._queries.clear()

    def answer(self, request: Request) -> Reply:
        with self._lock:
            self.requests.append(request)
            order = next((order for order in self._orders if order.concerns(request)), None)
            if order and order.left is not None:
                order.left -= 1
        honest = super().answer(request)
        if not order:
            return honest
        reply = Spoiled(honest.payload, honest.status, honest.headers)
        order.fault.spoil(reply, request)
        return reply
