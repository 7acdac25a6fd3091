"""What the API may answer, what is made of it, and that a key goes nowhere else."""

import contextlib
import json
import logging
import socket
import socketserver
import ssl
import threading
import traceback
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeVar

import pytest

from credits_pipeline import clock, config
from credits_pipeline.config import Account
from credits_pipeline.openrouter import Client, Credits, Forbidden, OpenRouter, OpenRouterError, Usage
from credits_pipeline.openrouter.errors import TookTooLong
from credits_pipeline.openrouter.replies import LARGEST_COUNT, LARGEST_DAY_USD, UsageRow
from credits_pipeline.simulator import SimulatedAccount
from credits_pipeline_tests.conftest import NOW, TODAY
from credits_pipeline_tests.faulty import Fault, FaultyAPI

T = TypeVar("T")
KEY = "sk-or-v1-5ecre7~0123456789/abcdef+0123456789=0123456789abcdef"
ACCOUNT = Account("default", KEY, "OPENROUTER_API_KEY")
YESTERDAY = TODAY - timedelta(days=1)
WEEK_AGO = TODAY - timedelta(days=7)
YEAR_AGO = TODAY - timedelta(days=365)

_YEAR = SimulatedAccount("default", KEY, anchor=TODAY)  # its ledger is made once


class Asked(OpenRouter):
    """The resource, for one account."""

    def get_credits(self, *, account: Account) -> Credits:
        return self.only(account, Client.credits)

    def get_usage(self, *, account: Account, first: date, last: date) -> Usage:
        return self.only(account, lambda client, of: client.usage(of, first, last))

    def only(self, account: Account, ask: Callable[[Client, Account], Awaitable[T]]) -> T:
        replies, failures = self.ask_each([account], ask)
        for error in failures.values():
            raise error
        return replies[account.name]


@pytest.fixture(scope="module")
def one_server() -> Iterator[FaultyAPI]:
    """Started once: most tests below need a fresh answer, not a fresh server."""
    with FaultyAPI([_YEAR]) as api:
        yield api


@pytest.fixture
def api(one_server, monkeypatch, now) -> FaultyAPI:
    """An honest API at five past midnight that nobody has asked anything yet."""
    one_server.begin_anew()
    for name, value in one_server.environment().items():
        monkeypatch.setenv(name, value)
    return one_server


@pytest.fixture
def openrouter() -> Asked:
    return Asked()


def failure(ask: Callable[[], object]) -> OpenRouterError:
    """The error, after everything that might show a key was looked at."""
    with pytest.raises(OpenRouterError) as raised:
        ask()
    error = raised.value
    assert error.__cause__ is None
    assert error.__context__ is None
    assert KEY not in "".join(traceback.TracebackException.from_exception(error, capture_locals=True).format())
    assert "unforeseen" not in str(error)
    assert str(error).isprintable()
    assert len(str(error)) < 800
    return error


def credits_body(total_credits: str = "10", total_usage: str = "4") -> bytes:
    return f'{{"data":{{"total_credits":{total_credits},"total_usage":{total_usage}}}}}'.encode()


def usage_body(*rows: object, **data: object) -> bytes:
    metadata = {"query_time_ms": 1, "row_count": len(rows), "truncated": False}
    return json.dumps({"data": {"data": rows, "metadata": metadata, **data}}).encode()


def usage_row(**fields: object) -> dict[str, object]:
    return {"date__day": str(YESTERDAY), "model": "a/b", "credits_usage": 1, "byok_usage": 0, **fields}


def test_credits_are_the_counters_to_the_last_digit(api, openrouter):
    credits = openrouter.get_credits(account=ACCOUNT)
    assert credits.total_credits == _YEAR.credits_at(NOW)
    assert credits.total_usage == _YEAR.usage_at(NOW)
    assert credits.observed_at == NOW
    assert json.loads(credits.payload, parse_float=Decimal) == {
        "data": {"total_credits": credits.total_credits, "total_usage": credits.total_usage}
    }


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff\xfe",
        b'{"data":[]}',
        *(credits_body(number) for number in ("NaN", "00", "+1", "1.")),
        b'{"error":"upstream timed out"}',
        b'{"data":{"total_credits":10,"total_usage":4},"error":{"code":502,"message":"x"}}',
    ],
    ids=range(9),
)
def test_status_200_with_something_else_than_an_answer_is_asked_again_like_a_5xx(api, openrouter, body):
    api.misbehave(Fault.body(body), times=4)
    assert openrouter.get_credits(account=ACCOUNT).total_usage == _YEAR.usage_at(clock.now())
    assert timedelta(seconds=1 + 2 + 4 + 8) <= clock.now() - NOW <= timedelta(seconds=15 + 4)  # doubled, with jitter


def test_two_zeros_are_believed_of_a_management_key_that_never_bought_or_spent_anything(simulate, openrouter):
    api = simulate(SimulatedAccount.from_ledger("default", KEY, days={}, credits=[]))
    credits = openrouter.get_credits(account=ACCOUNT)
    assert credits.total_credits == credits.total_usage == 0
    assert [r.path for r in api.requests] == ["/credits", "/key"]
    usage = openrouter.get_usage(account=ACCOUNT, first=WEEK_AGO, last=TODAY)
    assert usage == Usage(WEEK_AGO, TODAY, (), NOW, 1)


def test_two_zeros_from_an_ordinary_key_are_refused(simulate, openrouter):
    # Seen in the wild: an ordinary key of a funded account got 200 and two zeros where a 403 was due.
    simulate(SimulatedAccount("default", KEY, anchor=TODAY, is_management_key=False, reads_zeros=True))
    error = failure(lambda: openrouter.get_credits(account=ACCOUNT))
    assert type(error) is Forbidden
    assert "settings/management-keys" in str(error)


@pytest.mark.parametrize(
    ("fault", "kind", "attempts", "says"),
    [
        (Fault.status(401, message="User not found."), OpenRouterError, 1, "does not know the key in OPEN"),
        (Fault.status(404), OpenRouterError, 1, "check OPENROUTER_BASE_URL"),
        (Fault.status(403, message="Only management keys can"), Forbidden, 1, "is not a management key"),
        (Fault.status(403, message="IP 192.0.2.1 not allowed"), Forbidden, 1, '(403: "IP 192.0.2.1 not'),
        (Fault.status(403, message="\x1b]0;a\x07 b\r\nc \u202e"), Forbidden, 1, '403: "\ufffd]0;a\ufffd b c \ufffd"'),
        (Fault.body(b'{"error":{"code":408}}'), TookTooLong, 5, "(asked 5 times)"),  # an error inside status 200
        (Fault.status(429), OpenRouterError, 5, "fewer requests"),
        (Fault.status(524), TookTooLong, 5, "524"),
        (Fault.redirect("https://elsewhere.example/", 302), OpenRouterError, 5, "redirects are not followed"),
        (Fault.reset(), OpenRouterError, 5, "no complete reply"),
        (Fault.truncated_body(), OpenRouterError, 5, "no complete reply"),
        # A page of the CDN's, or of a hotel's, says nothing of the key.
        *[(Fault.status(code, html=True), OpenRouterError, 5, "a web page") for code in (200, 302, 403)],
    ],
    ids=str,
)
def test_each_failure_is_one_kind_and_only_passing_ones_are_asked_again(api, openrouter, fault, kind, attempts, says):
    api.misbehave(fault, times=None)
    error = failure(lambda: openrouter.get_credits(account=ACCOUNT))
    assert type(error) is kind
    assert says in str(error)
    assert len(api.requests) == error.attempts == attempts
    assert error.retryable == (attempts > 1)


@pytest.mark.parametrize(
    ("header", "at_least", "at_most"),  # a date is none: the contract says seconds
    [(30, 30, 30), (86_400, 120, 120), ("-5", 1, 2), ("Wed, 17 Jun 2026 00:05:40 GMT", 1, 2)],
)
def test_retry_after_is_honoured_and_capped(api, openrouter, header, at_least, at_most):
    api.misbehave(Fault.status(429, retry_after=header))
    openrouter.get_credits(account=ACCOUNT)
    assert at_least <= (clock.now() - NOW).total_seconds() <= at_most


def test_a_refusal_whose_body_breaks_off_is_not_asked_again(monkeypatch):
    broken = response(b'{"error":{"message":"x"}}' * 100, status="401 Unauthorized")[:-50]
    with serving(monkeypatch, send(broken), max_attempts=5) as (server, resource):
        assert "401" in str(failure(lambda: resource.get_credits(account=ACCOUNT)))
    assert len(server.received) == 1


def row(day: date, model: str, **figures: object) -> UsageRow:
    return UsageRow.model_construct(usage_date=day, model=model, **figures)


def billed(first: date, last: date, at: datetime = NOW) -> tuple[UsageRow, ...]:
    days = [first + timedelta(days=n) for n in range((last - first).days + 1)]
    return tuple(row(day, model, **vars(used)) for day in days for model, used in sorted(_YEAR.billed(day, at).items()))


def of_yesterday(openrouter: Asked) -> Usage:
    return openrouter.get_usage(account=ACCOUNT, first=YESTERDAY, last=YESTERDAY)


def test_a_year_is_one_request_and_equals_the_ledger(api, openrouter):
    usage = openrouter.get_usage(account=ACCOUNT, first=YEAR_AGO, last=YESTERDAY)
    assert usage == Usage(YEAR_AGO, YESTERDAY, billed(YEAR_AGO, YESTERDAY), NOW, 1)
    (request,) = api.requests
    assert request.body == {
        "metrics": ["credits_usage", "byok_usage", "request_count", "tokens_prompt", "tokens_completion",
                    "reasoning_tokens", "cached_tokens"],
        "dimensions": ["model"],
        "granularity": "day",
        "time_range": {"start": "2025-06-17T00:00:00Z", "end": "2026-06-17T00:00:00Z"},
        "limit": 10000,
    }  # fmt: skip


def test_a_truncated_reply_is_halved_until_it_fits_and_a_single_day_that_does_not_is_named(api, openrouter):
    first = TODAY - timedelta(days=16)
    api.misbehave(Fault.truncate(20), times=None)
    usage = openrouter.get_usage(account=ACCOUNT, first=first, last=YESTERDAY)
    assert usage.rows == billed(first, YESTERDAY)
    assert usage.requests_made == len(api.requests) > 1
    api.behave()
    api.misbehave(Fault.truncate(2), times=None)
    error = failure(lambda: openrouter.get_usage(account=ACCOUNT, first=WEEK_AGO, last=YESTERDAY))
    assert str(error).startswith(f"{WEEK_AGO} alone has more usage rows")
    assert not error.retryable


def test_any_other_refusal_of_a_range_is_not_asked_day_by_day(api, openrouter):
    api.misbehave(Fault.status(400), times=None)
    for first, requests in [(WEEK_AGO, 1), (YEAR_AGO, 1 + 2)]:
        with pytest.raises(OpenRouterError, match="400"):
            openrouter.get_usage(account=ACCOUNT, first=first, last=YESTERDAY)
        assert len(api.requests) == requests


def test_a_query_that_takes_too_long_is_halved_down_to_the_day_that_always_does(api, openrouter):
    api.misbehave(Fault.status(408))
    usage = openrouter.get_usage(account=ACCOUNT, first=WEEK_AGO, last=YESTERDAY)
    assert usage.requests_made == 3
    asked = [request.body["time_range"]["end"][:10] for request in api.requests]
    assert asked == ["2026-06-17", "2026-06-14", "2026-06-17"]
    api.begin_anew()
    api.misbehave(Fault.status(408), times=None)
    error = failure(lambda: openrouter.get_usage(account=ACCOUNT, first=WEEK_AGO, last=YESTERDAY))
    assert type(error) is TookTooLong
    assert len(api.requests) == 1 + 1 + 1 + 5  # 7 days, 4, 2, then one day with all attempts


@pytest.mark.parametrize("last", [TODAY, WEEK_AGO])
def test_the_oldest_day_refused_as_it_began_more_than_365_times_24_hours_ago_costs_that_day_only(api, openrouter, last):
    api.misbehave(Fault.only_hours_ago(365 * 24), times=None)
    usage = openrouter.get_usage(account=ACCOUNT, first=YEAR_AGO, last=last)
    assert usage.first == YEAR_AGO + timedelta(days=1)
    assert usage.rows == billed(usage.first, last)
    assert usage.requests_made == len(api.requests)


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([usage_row(credits_usage=-0.5)], {"credits_usd": Decimal("-0.5")}),  # a correction
        ([usage_row(credits_usage=1.5), usage_row(credits_usage=2)], {"credits_usd": Decimal("3.5")}),
        ([usage_row(byok_usage=None, request_count=None)], {"requests": 0, "byok_usd": 0}),
        ([usage_row(model=None)], {"model": "unknown"}),
        ([usage_row(model=f"a\x1b[2J\n\u202e/{KEY}")], {"model": "a\ufffd[2J \ufffd/[key]"}),
        ([usage_row(credits_usage="1.5", request_count="2")], {"credits_usd": Decimal("1.5"), "requests": 2}),
        ([usage_row(request_count=2)], {"requests": 2}),  # both kinds of numbers and three kinds of days occur
        ([usage_row(date__day=f"{YESTERDAY} 00:00:00")], {"usage_date": YESTERDAY}),
        ([{"created_at__day": str(YESTERDAY), "model": "a/b", "credits_usage": 1}], {"usage_date": YESTERDAY}),
        ([usage_row(), usage_row(date__day=str(TODAY)), {"date__day": "2020-01-01T00:00:00Z"}], {"credits_usd": 1}),
    ],
)
def test_what_a_row_may_hold(api, openrouter, rows, expected):
    api.misbehave(Fault.body(usage_body(*rows)))
    (found,) = of_yesterday(openrouter).rows
    assert {name: getattr(found, name) for name in expected} == expected


@pytest.mark.parametrize(
    "rows",
    [
        [usage_row(credits_usage=None)],  # the bill is never made up
        [usage_row(credits_usage=LARGEST_DAY_USD)],  # with the other row's dollar
        [usage_row(model="a", credits_usage=6e8), usage_row(model="b", credits_usage=-6e8)],
        [usage_row(model="a", cached_tokens=LARGEST_COUNT), usage_row(model="b", cached_tokens=1)],
        [usage_row(date__day="2026-06-16T05:00:00Z")],
        ["row"],
    ],
)
def test_a_row_that_cannot_be_believed_refuses_the_whole_reply(api, openrouter, rows):
    api.misbehave(Fault.body(usage_body(usage_row(), *rows)))
    error = failure(lambda: of_yesterday(openrouter))
    assert "nothing of it is used" in str(error)
    assert not error.retryable


@pytest.mark.parametrize(
    ("cached_at", "as_of"),
    [(NOW - timedelta(minutes=10), NOW - timedelta(minutes=10)), (NOW + timedelta(minutes=10), NOW),
     (NOW - timedelta(days=2), NOW), (None, NOW)],
)  # fmt: skip
def test_a_reply_out_of_a_cache_is_as_old_as_the_cache(api, openrouter, cached_at, as_of):
    ms = "yesterday" if cached_at is None else int(cached_at.timestamp() * 1000)
    api.misbehave(Fault.body(usage_body(usage_row(), cachedAt=ms)))
    assert of_yesterday(openrouter).fetched_at == as_of


def test_a_bill_asked_for_before_midnight_and_answered_after_is_not_the_whole_days(api, openrouter, now, monkeypatch):
    asked_at = NOW + timedelta(hours=23, minutes=54, seconds=59)
    now.set(asked_at)

    def slow_server() -> datetime:
        now.advance(timedelta(seconds=2))
        return clock.now()

    monkeypatch.setattr(api, "now", slow_server)
    assert openrouter.get_usage(account=ACCOUNT, first=TODAY, last=TODAY).fetched_at == asked_at


def keys_body(**fields: object) -> bytes:
    whole = {"hash": "ab" * 32, "name": "batch", "label": "sk-or-v1-abc...def", "disabled": False, "limit": None}
    return json.dumps({"data": [{**whole, **fields}]}).encode()


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, {"limit_usd": None, "usage_usd": None, "expires_at": None, "has_byok_in_limit": False}),
        ({"limit": 5, "limit_remaining": -0.25, "limit_reset": "weekly"}, {"limit_remaining_usd": Decimal("-0.25")}),
        ({"name": f"my {KEY}", "label": KEY}, {"name": "my [key]", "label": "[key]"}),
        ({"expires_at": "2026-07-01T02:00:00+02:00"}, {"expires_at": datetime(2026, 7, 1, tzinfo=UTC)}),
    ],
)
def test_what_a_listed_key_may_hold(api, openrouter, fields, expected):
    api.misbehave(Fault.body(keys_body(**fields)), path="/keys")
    (key,) = openrouter.ask_each([ACCOUNT], Client.keys)[0]["default"].keys
    assert {name: getattr(key, name) for name in expected} == expected
    assert key.workspace == "Default"


@pytest.mark.parametrize("fields", [{"hash": KEY}, {"limit": "lots"}])
def test_a_list_of_keys_that_cannot_be_believed_is_refused(api, openrouter, fields):
    api.misbehave(Fault.body(keys_body(**fields)), path="/keys")
    error = failure(lambda: openrouter.only(ACCOUNT, Client.keys))
    assert "nothing of it is used" in str(error)
    assert KEY not in str(error)


def test_keys_of_the_default_workspace_are_listed_where_workspaces_are_not(api, openrouter):
    api.misbehave(Fault.status(404), path="/workspaces")
    (key,) = openrouter.only(ACCOUNT, Client.keys).keys
    assert (key.name, key.workspace) == ("app", None)


def test_all_accounts_are_asked_at_once_and_what_one_breaks_costs_the_others_nothing(simulate, openrouter):
    names = ["good", "refused", "broken", "other"]
    api = simulate(*(SimulatedAccount(name, f"sk-or-v1-{name}", anchor=TODAY) for name in names))
    api.misbehave(Fault.status(401), account="refused")
    accounts = config.current().accounts

    async def ask(client: Client, account: Account) -> object:
        return 1 / 0 if account.name == "broken" else await client.credits(account)

    replies, failures = openrouter.ask_each(accounts, ask)
    assert replies.keys() == {"good", "other"}
    assert "does not know the key in OPENROUTER_API_KEY_REFUSED" in str(failures["refused"])
    assert "something unforeseen happened (ZeroDivisionError" in str(failures["broken"])


TWINS = [Account("a", KEY, "OPENROUTER_API_KEY_A"), Account("b", KEY, "OPENROUTER_API_KEY_B")]


def test_the_rate_limit_holds_for_a_key_across_accounts_and_calls_and_none_is_lost(api, openrouter):
    async def many(client: Client, account: Account) -> list[Usage]:
        return [await client.usage(account, YESTERDAY, YESTERDAY) for _ in range(50)]

    replies, _ = openrouter.ask_each(TWINS, many)
    openrouter.ask_each([ACCOUNT], many)
    assert len({usage.rows for of_one in replies.values() for usage in of_one}) == 1
    assert len(api.requests) == 150  # none was answered 429 and asked again
    # The first 64 at once, 64 more a minute later, the rest after another. When each arrived is not compared: one that
    # is on its way is stamped late where the clock moves on meanwhile.
    assert clock.now() - NOW == timedelta(minutes=2)


class RawServer(socketserver.ThreadingTCPServer):
    """Answers each connection with what `script` does to it, and keeps what was sent."""

    def __init__(self, script: "Script", context: ssl.SSLContext | None = None) -> None:
        super().__init__(("127.0.0.1", 0), socketserver.BaseRequestHandler)
        self._script, self._context, self._over = script, context, threading.Event()
        self.received: list[bytes] = []

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    def __enter__(self) -> "RawServer":
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.shutdown()
        self.server_close()

    def pause(self, seconds: float) -> None:
        if self._over.wait(seconds):
            raise ConnectionError

    def finish_request(self, connection: Any, _: object) -> None:
        with contextlib.suppress(OSError):
            if self._context:
                connection = self._context.wrap_socket(connection, server_side=True)
            with connection:
                connection.settimeout(5)
                self.received.append(connection.recv(65536))
                self._script(self, connection)


Script = Callable[[RawServer, socket.socket], None]


@contextlib.contextmanager
def serving(
    monkeypatch: pytest.MonkeyPatch, script: Script, context: ssl.SSLContext | None = None, **limits: float
) -> Iterator[tuple[RawServer, Asked]]:
    """A raw server and a resource that asks it once, within short limits."""
    scheme = "https" if context else "http"
    with RawServer(script, context) as server:
        monkeypatch.setenv("OPENROUTER_BASE_URL", f"{scheme}://127.0.0.1:{server.port}/api/v1")
        monkeypatch.setenv("OPENROUTER_ALLOW_CUSTOM_HOST", "1")
        yield server, Asked(**{"max_attempts": 1, **limits})


def send(data: bytes) -> Script:
    return lambda server, connection: connection.sendall(data)


def response(body: bytes, *headers: str, status: str = "200 OK") -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


GOOD = response(credits_body())


def drip(data: bytes, at_once: int) -> Script:
    """After its first bytes one byte every 50 ms: no read ever waits long."""

    def script(server: RawServer, connection: socket.socket) -> None:
        connection.sendall(data[:at_once])
        for index in range(at_once, len(data)):
            connection.sendall(data[index : index + 1])
            server.pause(0.05)

    return script


@pytest.mark.parametrize(
    ("script", "limits"),
    [
        (drip(GOOD, at_once=GOOD.index(b"\r\n\r\n") + 4), {"total_timeout_s": 0.3}),  # the body
        (lambda server, connection: server.pause(5), {"read_timeout_s": 0.2}),
    ],
    ids=["dripping", "silent"],
)
def test_a_server_that_drips_or_is_silent_is_cut_off(monkeypatch, script, limits):
    with serving(monkeypatch, script, **limits) as (_, resource):
        begun = clock.monotonic()
        assert type(failure(lambda: resource.get_credits(account=ACCOUNT))) is TookTooLong
        assert clock.monotonic() - begun < 2


def test_what_never_ends_is_cut_off_after_a_small_part_of_it(monkeypatch):
    sent = []

    def endless(server: RawServer, connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n")
        while sum(sent) < 100_000_000:
            connection.sendall(b"x" * 65536)
            sent.append(65536)

    with serving(monkeypatch, endless) as (_, resource):
        assert "larger than" in str(failure(lambda: resource.get_credits(account=ACCOUNT)))
    assert sum(sent) < 20_000_000, "what the buffers of both ends hold, not what was offered"


@pytest.fixture
def evil() -> Iterator[RawServer]:
    """Somebody else's server, which should not hear of us."""
    with RawServer(send(GOOD)) as server:
        yield server
        assert server.received == []


def test_the_key_is_sent_in_one_header_and_nowhere_else_whatever_the_environment_says(monkeypatch, tmp_path, evil):
    netrc = tmp_path / "netrc"
    netrc.write_text("default login evil password evil\n", encoding="utf-8")
    monkeypatch.setenv("NETRC", str(netrc))
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{evil.port}")
    with serving(monkeypatch, send(GOOD)) as (server, resource):
        resource.get_credits(account=ACCOUNT)
    (request,) = server.received
    assert request.startswith(b"GET /api/v1/credits HTTP/1.1\r\n")
    assert request.count(KEY.encode()) == 1
    assert b"\r\nAuthorization: Bearer " + KEY.encode() + b"\r\n" in request
    assert b"\r\nAccept-Encoding: identity\r\n" in request


def test_no_cookie_is_kept_as_accounts_share_the_connections(monkeypatch):
    reply = response(credits_body(), "Set-Cookie: session=abc; Path=/")
    with serving(monkeypatch, send(reply)) as (server, resource):
        resource.ask_each(TWINS, Client.credits)
        resource.ask_each(TWINS, Client.credits)
    assert len(server.received) == 4
    assert b"cookie" not in b"".join(server.received).lower()


def test_a_host_that_is_not_allowed_gets_no_connection(monkeypatch, evil):
    monkeypatch.setenv("OPENROUTER_BASE_URL", f"http://127.0.0.1:{evil.port}/api/v1")
    with pytest.raises(config.ConfigError, match=r"^OPENROUTER_BASE_URL"):
        Asked().get_credits(account=ACCOUNT)


OTHER_KEY = "sk-or-v1-" + "5ecre7" * 10  # of another process: it is hidden for what it looks like


@pytest.mark.parametrize(
    ("status", "echo"), [("200 OK", KEY), ("401 Unauthorized", KEY), ("401 Unauthorized", OTHER_KEY), ("307 Go", KEY)]
)
def test_a_server_that_repeats_the_key_does_not_get_it_into_logs_errors_or_payloads(monkeypatch, caplog, echo, status):
    caplog.set_level(logging.DEBUG)
    for name in ("httpx", "httpcore", "httpcore.http11", "httpcore.connection"):
        caplog.set_level(logging.DEBUG, logger=name)
    body: dict[str, object] = {"data": {"total_credits": 1, "total_usage": 0, echo: [echo]}}
    if status != "200 OK":
        body["error"] = {"message": f"no {echo} here"}
    reply = response(json.dumps(body).encode(), f"X-Echo: {echo}", f"Location: /{echo}", status=f"{status} {echo}")
    with serving(monkeypatch, send(reply)) as (_, resource):
        if status == "200 OK":
            assert echo not in resource.get_credits(account=ACCOUNT).payload
        else:
            said = str(failure(lambda: resource.get_credits(account=ACCOUNT)))
            assert "no [key] here" in said
            assert echo not in said
    assert echo not in caplog.text


def certificate(folder: Path, name: str) -> tuple[ssl.SSLContext, Path]:
    """A fresh self-signed certificate for an address or a name, and a server context that shows it."""
    from ipaddress import ip_address

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    issuer = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    alternatives = [x509.IPAddress(ip_address(name)) if name[0].isdigit() else x509.DNSName(name)]
    now = clock.now()
    built = (
        x509.CertificateBuilder(issuer, issuer, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = folder / "certificate.pem"
    private = folder / "private.pem"
    path.write_bytes(built.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path, private)
    return context, path


@pytest.mark.parametrize(("name", "is_trusted"), [("127.0.0.1", False), ("openrouter.ai", True)])
def test_a_certificate_that_nobody_vouches_for_or_of_another_name_is_refused_at_once_and_gets_no_key(
    monkeypatch, tmp_path, name, is_trusted
):
    context, path = certificate(tmp_path, name)
    if is_trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(path))
    with serving(monkeypatch, send(GOOD), context, max_attempts=5) as (server, resource):
        error = failure(lambda: resource.get_credits(account=ACCOUNT))
    assert error.attempts == 1
    assert "so no key was sent" in str(error)
    assert server.received == []


def test_the_secrets_of_a_session_are_written_nowhere(monkeypatch, tmp_path):
    """With SSLKEYLOGFILE, which developers set to look into a browser's traffic, recorded traffic tells the key."""
    context, path = certificate(tmp_path, "127.0.0.1")
    monkeypatch.setenv("SSL_CERT_FILE", str(path))
    monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "keys.log"))
    assert ssl.create_default_context().keylog_filename, "Python honours it by itself"
    with serving(monkeypatch, send(GOOD), context) as (_, resource):
        assert resource.get_credits(account=ACCOUNT).total_credits == 10
    assert "SECRET" not in (tmp_path / "keys.log").read_text(encoding="ascii")


@pytest.mark.parametrize(
    ("number", "believed"),
    [("-0", 0), ("1e-999", 0), ("0." + "9" * 30, 1), ('"1"', 1), ("990000000", 990_000_000)],
)
def test_a_counter_is_rounded_to_nine_decimals_and_its_reply_kept_as_it_was(api, openrouter, number, believed):
    api.misbehave(Fault.body(credits_body(number, "0.5")))
    credits = openrouter.get_credits(account=ACCOUNT)
    assert credits.total_credits == believed
    assert f'"total_credits":{number},' in credits.payload


NO_COUNTERS = [credits_body(number) for number in ("-0.01", "1e999", "9" * 30, "[1]", "null", "990000000.01")]


@pytest.mark.parametrize("body", [*NO_COUNTERS, b'{"data":{"total_usage":4}}'])
def test_a_counter_that_cannot_be_is_refused_at_once(api, openrouter, body):
    api.misbehave(Fault.body(body))
    error = failure(lambda: openrouter.get_credits(account=ACCOUNT))
    assert "total_credits: " in str(error)
    assert not error.retryable
