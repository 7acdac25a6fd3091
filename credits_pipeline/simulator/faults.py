"""How the simulated API can answer wrongly: as was seen in the wild, or as a client must survive."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from email.utils import format_datetime
from typing import Any

from credits_pipeline.simulator.wire import Literal

CHUNK = 64 * 1024
HTML = b"<!DOCTYPE html>\n<html><head><title>Just a moment...</title></head><body>Checking</body></html>\n"


@dataclass
class Reply:
    """What the server is about to send: the honest answer, until a fault spoils it."""

    payload: Any = None  # rendered as JSON, unless `body` is given
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    content_type: str = "application/json"
    body: Iterable[bytes] | None = None
    length: int | None = None  # Content-Length; needed with `body`
    send_share: float = 1.0  # less than 1: the connection ends before the body does
    wait_s: float = 0.0  # real seconds before the first byte
    byte_interval_s: float = 0.0  # real seconds between the bytes of the body
    reset: bool = False  # no reply: the connection is reset

    def raw(self, body: bytes, content_type: str) -> None:
        self.body, self.length, self.content_type = [body], len(body), content_type


@dataclass(frozen=True)
class Fault:
    """One way to answer wrongly. `Fault.status(503, retry_after=2)`, given to `SimulatedAPI.misbehave`."""

    name: str
    spoil: Callable[[Reply], None]

    def __and__(self, other: "Fault") -> "Fault":
        """Both at once, this one first."""

        def spoil(reply: Reply) -> None:
            self.spoil(reply)
            other.spoil(reply)

        return Fault(f"{self.name} & {other.name}", spoil)

    # Instead of an answer

    @classmethod
    def status(
        cls,
        code: int,
        *,
        retry_after: int | str | datetime | None = None,
        message: str = "Simulated fault",
        html: bool = False,
    ) -> "Fault":
        """A status code with the API's error body, or HTML as a CDN sends it.

        Retry-After is sent as given, a datetime as an HTTP date.
        """

        def spoil(reply: Reply) -> None:
            reply.status = code
            reply.payload = {"error": {"code": code, "message": message}}
            if html:
                reply.raw(HTML, "text/html; charset=UTF-8")
            if isinstance(retry_after, datetime):
                reply.headers["Retry-After"] = format_datetime(retry_after, usegmt=True)
            elif retry_after is not None:
                reply.headers["Retry-After"] = str(retry_after)

        return cls(f"status {code}", spoil)

    @classmethod
    def html(cls, status: int = 200) -> "Fault":
        """An HTML page where JSON should be, with status 200 unless told."""
        return cls.status(status, html=True)

    @classmethod
    def body(cls, body: bytes, *, status: int = 200, content_type: str = "application/json") -> "Fault":
        """Exactly these bytes."""

        def spoil(reply: Reply) -> None:
            reply.status = status
            reply.raw(body, content_type)

        return cls("body", spoil)

    @classmethod
    def redirect(cls, location: str, status: int = 307) -> "Fault":
        """A redirect: following it to another host would hand the key to a stranger."""

        def spoil(reply: Reply) -> None:
            reply.status, reply.payload = status, {}
            reply.headers["Location"] = location

        return cls(f"redirect {status}", spoil)

    @classmethod
    def reset(cls) -> "Fault":
        """The connection is reset before any byte."""
        return cls("reset", lambda reply: setattr(reply, "reset", True))

    @classmethod
    def huge_body(cls, size: int) -> "Fault":
        """Valid JSON of `size` bytes, made while it is sent."""
        head, tail = b'{"data":{"padding":"', b'"}}'

        def chunks() -> Iterator[bytes]:
            yield head
            left = size - len(head) - len(tail)
            while left > 0:
                yield b"x" * min(left, CHUNK)
                left -= CHUNK
            yield tail

        def spoil(reply: Reply) -> None:
            reply.body, reply.length = chunks(), size

        return cls(f"huge body of {size} bytes", spoil)

    @classmethod
    def nested(cls, depth: int) -> "Fault":
        """JSON arrays, `depth` deep: some parsers run out of stack."""
        return cls.body(b'{"data":' + b"[" * depth + b"]" * depth + b"}")

    # The honest answer, slowly or in part

    @classmethod
    def latency(cls, seconds: float) -> "Fault":
        """Wait (real time, whatever the clock says) before answering."""

        def spoil(reply: Reply) -> None:
            reply.wait_s += seconds

        return cls(f"latency {seconds} s", spoil)

    @classmethod
    def drip(cls, interval_s: float) -> "Fault":
        """The body one byte every `interval_s` real seconds: no single read times out."""
        return cls(f"drip {interval_s} s", lambda reply: setattr(reply, "byte_interval_s", interval_s))

    @classmethod
    def truncated_body(cls, share: float = 0.5) -> "Fault":
        """The connection ends after this share of the announced body."""
        return cls("truncated body", lambda reply: setattr(reply, "send_share", share))

    # The answer with other contents (only what was answered with 200)

    @classmethod
    def zeros(cls) -> "Fault":
        """200 with two zeros: what an ordinary key was seen to get on a funded account."""
        return cls.replace(total_credits="0", total_usage="0")

    @classmethod
    def replace(cls, **literals: str) -> "Fault":
        """Other JSON text for a field, in the data or in every row: `replace(total_usage="NaN")`."""
        values = {name: Literal(text) for name, text in literals.items()}
        return cls._rows("replace " + ", ".join(literals), lambda row: {**row, **values})

    @classmethod
    def without(cls, *names: str) -> "Fault":
        """Without these fields."""
        return cls._rows(
            "without " + ", ".join(names),
            lambda row: {name: value for name, value in row.items() if name not in names},
        )

    @classmethod
    def counts_as_numbers(cls) -> "Fault":
        """Counts as JSON numbers: both kinds occur."""
        return cls._values("counts as numbers", lambda name, v: Literal(v) if v.isdigit() else v)

    @classmethod
    def money_as_strings(cls) -> "Fault":
        """Every number in quotes."""
        return cls._rows(
            "money as strings",
            lambda row: {name: str(v) if isinstance(v, Literal) else v for name, v in row.items()},
        )

    @classmethod
    def iso_days(cls) -> "Fault":
        """`2026-05-19T00:00:00.000Z` where the day was."""
        return cls._values("ISO days", lambda name, v: f"{v}T00:00:00.000Z" if name in DAY_FIELDS else v)

    @classmethod
    def days_with_time(cls) -> "Fault":
        """`2026-05-19 00:00:00` where the day was."""
        return cls._values("days with time", lambda name, v: f"{v} 00:00:00" if name in DAY_FIELDS else v)

    @classmethod
    def created_at_day(cls) -> "Fault":
        """The day under `created_at__day`, the other name it goes by."""
        return cls._rows(
            "created_at__day",
            lambda row: {("created_at__day" if n == "date__day" else n): v for n, v in row.items()},
        )

    @classmethod
    def truncate(cls, rows: int) -> "Fault":
        """At most `rows` rows, and `truncated: true` where there were more."""

        def spoil(reply: Reply) -> None:
            data = reply.payload.get("data") if reply.status == 200 else None
            if isinstance(data, dict) and len(data.get("data", ())) > rows:
                data["data"] = data["data"][:rows]
                data["metadata"].update(row_count=rows, truncated=True)

        return cls(f"truncate at {rows} rows", spoil)

    @classmethod
    def more_rows(cls, *rows: dict[str, Any]) -> "Fault":
        """Further rows at the end of an analytics reply, such as days nobody asked for."""

        def spoil(reply: Reply) -> None:
            data = reply.payload.get("data") if reply.status == 200 else None
            if isinstance(data, dict) and "data" in data:
                data["data"] = [*data["data"], *rows]
                data["metadata"]["row_count"] = len(data["data"])

        return cls("more rows", spoil)

    @classmethod
    def _rows(cls, name: str, change: Callable[[dict[str, Any]], dict[str, Any]]) -> "Fault":
        def spoil(reply: Reply) -> None:
            if reply.status != 200:
                return
            data = reply.payload["data"]
            if isinstance(data, list):
                reply.payload["data"] = [change(row) for row in data]
            elif "metadata" in data:
                data["data"] = [change(row) for row in data["data"]]
            else:
                reply.payload["data"] = change(data)

        return cls(name, spoil)

    @classmethod
    def _values(cls, name: str, change: Callable[[str, str], str]) -> "Fault":
        """Change plain string values (not JSON literals), by field name."""

        def changed(row: dict[str, Any]) -> dict[str, Any]:
            return {
                key: change(key, value)
                if isinstance(value, str) and not isinstance(value, Literal)
                else value
                for key, value in row.items()
            }

        return cls._rows(name, changed)


DAY_FIELDS = ("date__day", "created_at__day", "date")
