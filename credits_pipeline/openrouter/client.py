"""The OpenRouter API as a Dagster resource: typed replies, or one sentence that says what to do.

This is the only module that speaks HTTP to the API. A key leaves it in one header, to the host that
`config.check_base_url` allows, over verified TLS; redirects, proxies and cookies have no part in it.
Nothing in a reply is believed before it was checked. Source of the calls: the vendor's OpenAPI document.
"""

import json
import logging
import re
import ssl
import sys
import threading
from base64 import b64encode, urlsafe_b64encode
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from dataclasses import fields as fields_of
from datetime import UTC, date, datetime, timedelta
from decimal import ROUND_HALF_EVEN, Context, Decimal
from email.utils import parsedate_to_datetime
from functools import lru_cache
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, cast
from urllib.parse import quote, urlsplit

import dagster as dg
import tenacity
from pydantic import Field, PrivateAttr

from credits_pipeline import clock, config, text
from credits_pipeline.config import MANAGEMENT_KEYS_PAGE, Account

if TYPE_CHECKING:  # httpx costs 0.15 s to import, and most that import this module never make a request
    import httpcore
    import httpx

T = TypeVar("T")

# The API documents 64 analytics queries a minute. Four are left to people and to clocks that disagree. A
# second process with the same key is not seen from here: the API tells one of them 429, which is waited out.
REQUESTS_PER_MINUTE = 60

# Documented limits of POST /analytics/query.
ROWS_PER_REPLY = 10_000
DAYS_PER_QUERY = 365

# /credits and /key answer with some hundred bytes, 10,000 usage rows with some 3 MB.
LARGEST_SMALL_REPLY = 100_000
LARGEST_USAGE_REPLY = 20_000_000

TIMED_OUT = {408, 504, 524}  # the last is the CDN's word for 504
RETRIED = {425}  # besides 408, 429 and 5xx
FIRST_WAIT_S = 1.0  # before the second attempt; doubled for each further one
LONGEST_WAIT_S = 120.0  # of any single wait, also where Retry-After asks for more: a run must come to an end
# A usage query that timed out is asked once more as it is, in case it was chance, and then for half the days;
# a half that times out is halved at once, as each attempt can take a minute.
ATTEMPTS_BEFORE_HALVING = 2

# Money as the tables hold it: DECIMAL(18,9).
NANO_DOLLAR = Decimal("1e-9")
NOTHING = Decimal("0.000000000")
DIGITS_BEFORE_POINT = 9
_ROUNDING = Context(prec=40, rounding=ROUND_HALF_EVEN)
# No model has used a quadrillion tokens in a day, and thousands of such counts still add up to a BIGINT.
LARGEST_COUNT = 10**15
# A bill beyond this is a mistake, and its account fails alone. Believed, it would stop the figures of all accounts: the
# sum of a year of such days would not fit DECIMAL(18,9).
LARGEST_DAY_USD = 2_500_000

LONGEST_MESSAGE = 300  # characters of the server's own words in an error
LONGEST_NAME = 200  # characters of a model's or a key's name
SHORTEST_KEY_TO_HIDE = 8  # real keys have 73 characters; hiding every "k" of a made-up one garbles all text
SHORTEST_PART_TO_HIDE = 16  # letters and digits of a key in a row: too few to guess the other 54 from
UNKNOWN_MODEL = "unknown"

KEEPALIVE_S = 5.0  # an idle connection older than this is not used again: the server may be closing it
# A reply's own Date, against our clock: beyond this the clock is wrong, and with it the day of whatever is stored.
# Far above any delay on the way, far below the two hours that the tables allow around a midnight.
CLOCK_TOLERANCE = timedelta(minutes=10)
OLDEST_CACHE = timedelta(days=1)  # a `cachedAt` further back, or ahead, is a mistake and says nothing


class OpenRouterError(Exception):
    """The API gave no answer that can be used. `retryable`: the same request may succeed later by itself."""

    retryable = False
    retry_after_s: float | None = None
    attempts = 1


class KeyRejected(OpenRouterError):
    """401: the API does not know the key."""


class Forbidden(OpenRouterError):
    """403: the key is known and may not do this, from here."""


class NotAManagementKey(Forbidden):
    """The key may use models, and not read the account."""


class BadRequest(OpenRouterError):
    """400, or another refusal that no other type names."""


class RateLimited(OpenRouterError):
    """429, also after waiting."""

    retryable = True


class ServerUnavailable(OpenRouterError):
    """5xx, or no connection, or no complete reply in time."""

    retryable = True


class RequestTimedOut(ServerUnavailable):
    """408, 504, 524, or one of our own time limits: perhaps the question was too much for the server."""


class UntrustedServer(OpenRouterError):
    """The certificate is not one for this host, so the key was not sent."""


class WrongClock(OpenRouterError):
    """The reply is good, and this machine's clock is not: it would be stored under a wrong day for ever."""


class UnbelievableReply(OpenRouterError):
    """Status 200, and something else than what the contract promises."""


class RowLimitExceeded(OpenRouterError):
    """A single day has more rows than a reply may hold."""


@dataclass(frozen=True)
class Credits:
    """An account's two lifetime counters in USD, with 9 decimals; the balance is their difference."""

    total_credits: Decimal
    total_usage: Decimal
    observed_at: datetime  # aware, UTC: when the reply had been read
    payload: str  # the reply as JSON text, ASCII only


@dataclass(frozen=True)
class KeyInfo:
    """What a key is."""

    is_management_key: bool
    label: str


@dataclass(frozen=True)
class UsageRow:
    """What one model was billed for on one UTC day. Money in USD; a correction is negative."""

    usage_date: date
    model: str
    credits_usd: Decimal
    byok_usd: Decimal
    requests: int
    prompt_tokens: int
    completion_tokens: int
    reasoning_tokens: int
    cached_tokens: int


@dataclass(frozen=True)
class Usage:
    """Everything billed on the UTC days `first` to `last`: a day without rows was billed nothing."""

    first: date
    last: date
    rows: tuple[UsageRow, ...]  # one per day and model, in this order
    fetched_at: datetime  # aware, UTC: the figures are at least as recent as this
    requests_made: int


class OpenRouter(dg.ConfigurableResource):  # type: ignore[type-arg]
    """The OpenRouter API.

    Keys come from OPENROUTER_API_KEY and OPENROUTER_API_KEY_<NAME> in the environment, the host from
    OPENROUTER_BASE_URL, both at run time: this configuration holds time limits only. Threads may share it.
    """

    connect_timeout_s: float = Field(default=10, gt=0, description="Seconds to reach the API.")
    read_timeout_s: float = Field(default=30, gt=0, description="Seconds without a byte before giving up.")
    total_timeout_s: float = Field(
        default=60, gt=0, description="Seconds for one request from start to end, however lively it looks."
    )
    max_attempts: int = Field(
        default=5,
        ge=1,
        description="Attempts at a request whose failure may pass: 408, 425, 429, 5xx, network.",
    )
    _opened: "_Api | None" = PrivateAttr(default=None)
    _opening: threading.Lock = PrivateAttr(default_factory=threading.Lock)

    def get_credits(self, *, account: Account) -> Credits:
        """The account's counters now. Raises OpenRouterError; {0,0} is believed of a management key only.

        An ordinary key has been seen to get two zeros, with status 200, on a funded account.
        """
        reply = self._api().ask(account, "GET", "/credits")
        found = Credits(
            total_credits=_counter(reply, "total_credits"),
            total_usage=_counter(reply, "total_usage"),
            observed_at=reply.read_at,
            payload=reply.text(),
        )
        if found.total_credits == found.total_usage == 0:
            self._refuse_unless_management_key(account)
        return found

    def get_key(self, *, account: Account) -> KeyInfo:
        """What the account's key is. Raises OpenRouterError."""
        reply = self._api().ask(account, "GET", "/key")
        is_management_key, label = reply.data.get("is_management_key"), reply.data.get("label")
        if not isinstance(is_management_key, bool):
            raise reply.unbelievable("is_management_key is not true or false")
        return KeyInfo(is_management_key, _name(label) if isinstance(label, str) else "")

    def get_usage(
        self,
        *,
        account: Account,
        first: date,
        last: date,
        on_progress: Callable[[date, date], None] | None = None,
    ) -> Usage:
        """What was billed on the UTC days `first` to `last`, both included, per model.

        One request for up to 365 days. Where the reply is truncated, or the server times out twice, the range
        is halved, down to one day. `on_progress` is told each range that is done. Raises OpenRouterError.
        """
        if first > last:
            raise ValueError(f"{first} lies after {last}")
        api, waiting, requests_made = self._api(), _queries(first, last), 0
        attempts_if_slow = ATTEMPTS_BEFORE_HALVING
        rows: list[UsageRow] = []
        recency: list[datetime] = []
        while waiting:
            begin, end = waiting.pop()
            answer = api.ask_for_usage(account, begin, end, attempts_if_slow)
            requests_made += answer.attempts
            if answer.rows is None:
                waiting += _halves(begin, end)
                attempts_if_slow = 1 if answer.was_slow else attempts_if_slow
                continue
            rows += answer.rows
            recency.append(answer.as_of)
            if on_progress:
                on_progress(begin, end)
        return Usage(first, last, tuple(sorted(rows, key=_day_and_model)), min(recency), requests_made)

    def close(self) -> None:
        """Close the connections; the next request opens new ones."""
        with self._opening:
            if self._opened:
                self._opened.close()
                self._opened = None

    def teardown_after_execution(self, context: dg.InitResourceContext) -> None:
        self.close()

    def _api(self) -> "_Api":
        with self._opening:
            if self._opened is None:
                settings = config.current().valid()
                config.check_base_url(settings.base_url, settings.allow_custom_host)
                self._opened = _Api(settings.base_url, self)
            return self._opened

    def _refuse_unless_management_key(self, account: Account) -> None:
        zeros = f"the API answered 0 credits and 0 usage to the key in {account.variable}"
        try:
            is_management_key = self.get_key(account=account).is_management_key
            unknown = None
        except OpenRouterError as error:
            is_management_key, unknown = False, error
        if unknown:
            refusal = UnbelievableReply(f"{zeros}, and the key could not be checked: {unknown}")
            refusal.retryable = unknown.retryable
            raise refusal
        if not is_management_key:
            raise NotAManagementKey(
                f"{zeros}, which is not a management key: create one under {MANAGEMENT_KEYS_PAGE} and put it"
                " there"
            )


# --- requests ---


@dataclass(frozen=True)
class _Reply:
    """A reply with status 200 whose body is a JSON object with an object under `data`."""

    call: str  # "GET /credits"
    json: dict[str, Any] = field(repr=False)  # numbers are Decimal
    data: dict[str, Any] = field(repr=False)
    asked_at: datetime
    read_at: datetime
    attempts: int

    def text(self) -> str:
        try:
            return _json_text(self.json)
        except RecursionError:
            pass  # what the parser survives, writing it again may not
        raise self.unbelievable(TOO_DEEP)

    def unbelievable(self, what: str) -> UnbelievableReply:
        return _unbelievable(self.call, what)


@dataclass(frozen=True)
class _UsageAnswer:
    rows: list[UsageRow] | None  # None: too much for one query, ask for fewer days
    as_of: datetime
    attempts: int
    was_slow: bool = False


@dataclass(frozen=True)
class _Body:
    content: bytes = field(repr=False)
    read_at: datetime
    asked_at: datetime


class _Api:
    """The API under one root, with its connections and its place in each key's rate limit."""

    def __init__(self, base_url: str, limits: OpenRouter) -> None:
        self._base_url = base_url
        self._host = urlsplit(base_url).netloc
        self._limits = limits
        self._http = _http_client(base_url, limits)
        self._queues: dict[str, _RateLimit] = {}
        self._lock = threading.Lock()

    def close(self) -> None:
        self._http.close()

    def ask_for_usage(self, account: Account, first: date, last: date, attempts_if_slow: int) -> _UsageAnswer:
        is_one_day = first == last
        try:
            reply = self.ask(
                account,
                "POST",
                "/analytics/query",
                question=_usage_query(first, last),
                largest=LARGEST_USAGE_REPLY,
                attempts_if_slow=None if is_one_day else attempts_if_slow,
            )
        except RequestTimedOut as error:
            if is_one_day:
                raise
            return _UsageAnswer(None, clock.now(), error.attempts, was_slow=True)
        if not _is_truncated(reply):
            return _UsageAnswer(_usage_rows(reply, first, last), _as_of(reply), reply.attempts)
        if is_one_day:
            raise RowLimitExceeded(
                f"{first} alone has more usage rows than one reply can hold ({ROWS_PER_REPLY}), so nothing was"
                " stored: fetch ranges that leave this day out"
            )
        return _UsageAnswer(None, reply.read_at, reply.attempts)

    def ask(
        self,
        account: Account,
        method: str,
        path: str,
        *,
        question: Mapping[str, object] | None = None,
        largest: int = LARGEST_SMALL_REPLY,
        attempts_if_slow: int | None = None,
    ) -> _Reply:
        """The reply to one call, after as many attempts as it may take."""
        call = f"{method} {path}"
        content = None if question is None else json.dumps(question).encode()

        def enough(state: tenacity.RetryCallState) -> bool:
            allowed = self._limits.max_attempts
            if attempts_if_slow and isinstance(_outcome(state), RequestTimedOut):
                allowed = min(allowed, attempts_if_slow)
            return state.attempt_number >= allowed

        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_result(lambda got: isinstance(got, OpenRouterError) and got.retryable),
            wait=_wait,
            stop=enough,
            sleep=lambda seconds: clock.sleep(float(seconds)),
            retry_error_callback=_outcome,
        )
        # Errors are returned, not raised, up to here: an exception raised inside httpx's handler would chain
        # the request, and with it the key.
        got = retrying(self._once, account, method, path, content, largest)
        attempts = int(retrying.statistics["attempt_number"])
        if isinstance(got, OpenRouterError):
            got.attempts = attempts
            if attempts > 1:
                got.args = (f"{got} (asked {attempts} times)",)
            raise got
        document = _json_object(got.content)
        if isinstance(document, str):
            error = _unbelievable(call, document)
            error.retryable = True  # what stands between us and the API answered: it may be gone in a while
            raise error
        data = document.get("data")
        if not isinstance(data, dict):
            raise _unbelievable(call, "there is no object under data")
        return _Reply(call, document, data, got.asked_at, got.read_at, attempts)

    def _once(
        self, account: Account, method: str, path: str, content: bytes | None, largest: int
    ) -> "_Body | OpenRouterError":
        import httpx

        _secrets.add(account.key)
        self._queue(account).wait_for_turn()
        _deadline.at = clock.monotonic() + self._limits.total_timeout_s
        headers = {"Authorization": f"Bearer {account.key}", "Content-Type": "application/json"}
        url = self._base_url + path
        response, body = None, None
        asked_at = clock.now()
        try:
            with self._http.stream(method, url, headers=headers, content=content) as response:
                body = _read(response, largest)
        except (httpx.HTTPError, httpx.StreamError, OSError) as error:
            # The status alone decides a refusal: the key is not sent again just to read the error's text.
            if response is None or response.status_code == 200:
                return self._unreachable(error)
        if response.status_code == 200:
            return self._accepted(response, body, f"{method} {path}", largest, asked_at)
        return self._refused(response, body, f"{method} {path}", account)

    def _accepted(
        self, response: "httpx.Response", body: bytes | None, call: str, largest: int, asked_at: datetime
    ) -> "_Body | OpenRouterError":
        if body is None:
            return _unbelievable(call, f"it is larger than {largest} bytes and was cut off")
        if response.headers.get("Content-Encoding", "identity") != "identity":
            return _unbelievable(call, "it is compressed, which was not asked for")
        now, server = clock.now(), _http_date(response.headers.get("Date", ""))
        if server and abs(server - now) > CLOCK_TOLERANCE:
            return WrongClock(
                f"this machine's clock says {now:%Y-%m-%d %H:%M} UTC, but {self._host} says"
                f" {server:%Y-%m-%d %H:%M}, so nothing was stored: set the clock, then run again"
            )
        return _Body(body, now, asked_at)

    def _refused(
        self, response: "httpx.Response", body: bytes | None, call: str, account: Account
    ) -> OpenRouterError:
        status = response.status_code
        said = f'{status}: "{message}"' if (message := _server_message(body)) else f"{status}"
        if status == 401:
            return KeyRejected(
                f"{self._host} does not know the key in {account.variable} ({said}): put a management key"
                f" there, created under {MANAGEMENT_KEYS_PAGE}"
            )
        if status == 403 and re.search("management|provisioning", message, re.IGNORECASE):
            return NotAManagementKey(
                f"the key in {account.variable} is not a management key ({said}): create one under"
                f" {MANAGEMENT_KEYS_PAGE} and put it there"
            )
        if status == 403:
            return Forbidden(
                f"{self._host} refuses {call} to the key in {account.variable} ({said}): if that speaks of an"
                f" address, add this machine's to the key's allow-list under {MANAGEMENT_KEYS_PAGE}"
            )
        error: OpenRouterError
        if 200 < status < 400:
            error = _unbelievable(call, f"its status is {status}, and redirects are not followed with a key")
        elif status == 429:
            error = RateLimited(
                f"{self._host} is rate limiting us ({said}): fewer requests are needed, run again in some minutes"
            )
        elif status in TIMED_OUT:
            error = RequestTimedOut(f"{self._host} took too long over {call} ({said}): run again later")
        elif status in RETRIED or status >= 500:
            error = ServerUnavailable(f"{self._host} failed at {call} ({said}): run again later")
        else:
            error = BadRequest(
                f"{self._host} rejected {call} ({said}): check OPENROUTER_BASE_URL, and look for a"
                " newer version of this program"
            )
        error.retry_after_s = _retry_after_s(response.headers.get("Retry-After", ""))
        return error

    def _unreachable(self, error: Exception) -> OpenRouterError:
        import httpx

        reason = shown(f"{type(error).__name__}: {error}")
        if _is_about_the_certificate(error):
            return UntrustedServer(
                f"{self._host} could not prove that it is {self._host}, so no key was sent ({reason}): check"
                " the network and OPENROUTER_BASE_URL; where a company inspects TLS, set SSL_CERT_FILE"
            )
        could_be_the_question = isinstance(error, httpx.TimeoutException)
        could_be_the_question &= not isinstance(error, httpx.ConnectTimeout)
        kind = RequestTimedOut if could_be_the_question else ServerUnavailable
        return kind(
            f"no complete reply from {self._host} ({reason}): check the network and OPENROUTER_BASE_URL, then"
            " run again"
        )

    def _queue(self, account: Account) -> "_RateLimit":
        with self._lock:
            return self._queues.setdefault(account.fingerprint, _RateLimit())


class _RateLimit:
    """At most REQUESTS_PER_MINUTE of one key's requests begin within any minute."""

    def __init__(self) -> None:
        self._begun: deque[float] = deque()
        self._lock = threading.Lock()

    def wait_for_turn(self) -> None:
        with self._lock:  # held while waiting: whoever comes later waits longer anyway
            while len(self._begun) >= REQUESTS_PER_MINUTE:
                left = self._begun[0] + 60.0 - clock.monotonic()
                if left <= 0:
                    self._begun.popleft()
                else:
                    clock.sleep(max(left, 0.01))  # a rounding error must not become a busy loop
            self._begun.append(clock.monotonic())


def _outcome(state: tenacity.RetryCallState) -> Any:
    return state.outcome.result() if state.outcome else None


_backoff = tenacity.wait_exponential_jitter(initial=FIRST_WAIT_S, max=LONGEST_WAIT_S, jitter=1.0)


def _wait(state: tenacity.RetryCallState) -> float:
    return max(_backoff(state), min(_outcome(state).retry_after_s or 0.0, LONGEST_WAIT_S))


def _retry_after_s(header: str) -> float | None:
    """Seconds from now; the header has them, or an HTTP date."""
    if re.fullmatch(r"[0-9]{1,9}", header.strip()):
        return float(header)
    at = _http_date(header)
    return max(0.0, (at - clock.now()).total_seconds()) if at else None


def _http_date(header: str) -> datetime | None:
    try:
        at = parsedate_to_datetime(header)
        return at.replace(tzinfo=at.tzinfo or UTC)
    except (ValueError, TypeError, OverflowError):
        return None


# --- the wire ---


def _http_client(base_url: str, limits: OpenRouter) -> "httpx.Client":
    """A client that reads nothing from the environment but SSL_CERT_FILE and SSL_CERT_DIR.

    Proxy variables would hand the key to the proxy (over plain http) or to whoever set them. The certificate
    variables are honoured: companies need them, and who can set them can read the key beside them anyway.
    """
    import httpcore
    import httpx

    _hide_keys_in_logs()
    certificates = _trusted_certificates(base_url)
    transport = httpx.HTTPTransport(verify=certificates, trust_env=False)
    # httpx has no limit for a request as a whole: a server that drips a byte now and then, in its headers as
    # well, would hold a run for ever. So its connection pool gets sockets that know the request's deadline.
    transport._pool = httpcore.ConnectionPool(
        ssl_context=certificates,
        keepalive_expiry=KEEPALIVE_S,
        max_connections=None,
        network_backend=cast("httpcore.NetworkBackend", _DeadlineBackend()),
    )
    return httpx.Client(
        transport=transport,
        trust_env=False,
        follow_redirects=False,
        # Nor are they looked at: httpx parses where they lead to, and fails on what is not a web address.
        event_hooks={"response": [lambda response: response.headers.pop("Location", None)]},
        # Accounts share this client, not a session.
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
        timeout=httpx.Timeout(limits.read_timeout_s, connect=limits.connect_timeout_s),
        # Replies are small, and a compressed one could unfold to any size.
        headers={
            "User-Agent": "credits-pipeline",
            "Accept": "application/json",
            "Accept-Encoding": "identity",
        },
    )


def _trusted_certificates(base_url: str) -> ssl.SSLContext:
    import httpx

    if not base_url.startswith("https:"):
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # trusts nobody
    try:
        context = httpx.create_ssl_context(trust_env=True)
    except OSError:
        raise config.ConfigError(
            "SSL_CERT_FILE or SSL_CERT_DIR names no readable certificates: correct it, or unset it to use the"
            " usual ones"
        ) from None
    # Not the session's secrets in SSLKEYLOGFILE, set for a browser's sake: they would decrypt recorded traffic.
    context.keylog_filename = None  # type: ignore[assignment]
    return context


_deadline = threading.local()  # .at: when this thread's request must be over, by clock.monotonic()


def _left(timeout: float | None) -> float:
    import httpcore

    left = float(_deadline.at - clock.monotonic())
    if left <= 0:
        raise httpcore.ReadTimeout("the time for the whole request is over")
    return left if timeout is None else min(timeout, left)


class _DeadlineBackend:
    """httpcore's sockets, none of which waits beyond its thread's deadline.

    Looking up the host's name is the one step that cannot be cut short: the system's resolver has its own
    limit.
    """

    def __init__(self) -> None:
        import httpcore

        self._sockets = httpcore.SyncBackend()

    def connect_tcp(
        self, host: str, port: int, timeout: float | None = None, **options: Any
    ) -> "_DeadlineStream":
        return _DeadlineStream(self._sockets.connect_tcp(host, port, timeout=_left(timeout), **options))


class _DeadlineStream:
    def __init__(self, stream: "httpcore.NetworkStream") -> None:
        self._stream = stream

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, timeout=_left(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, timeout=_left(timeout))

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> "_DeadlineStream":
        return _DeadlineStream(self._stream.start_tls(ssl_context, server_hostname, timeout=_left(timeout)))

    def close(self) -> None:
        self._stream.close()

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


def _read(response: "httpx.Response", largest: int) -> bytes | None:
    """The body's bytes; None, and no more of it is read, when they are more than `largest`."""
    content = bytearray()
    for chunk in response.iter_raw():
        content += chunk
        if len(content) > largest:
            return None
    return bytes(content)


def _is_about_the_certificate(error: BaseException | None) -> bool:
    while error:
        if isinstance(error, ssl.SSLCertVerificationError):
            return True
        error = error.__cause__ or error.__context__
    return False


# --- secrets and hostile text ---


class _Secrets:
    """Every key that this process has sent, and how to keep them out of text."""

    def __init__(self) -> None:
        self._adding = threading.Lock()
        self._keys: set[str] = set()
        # Length → all parts of that length: lower case, letters and digits only. Replaced whole: readers take no lock.
        self._parts: dict[int, frozenset[str]] = {}

    def add(self, key: str) -> None:
        with self._adding:
            if key in self._keys or len(key) < SHORTEST_KEY_TO_HIDE:
                return
            parts = dict(self._parts)
            for spelling in map(_letters_and_digits, _spellings(key)):
                if (size := min(SHORTEST_PART_TO_HIDE, len(spelling))) >= SHORTEST_KEY_TO_HIDE:
                    new = {spelling[at : at + size] for at in range(len(spelling) - size + 1)}
                    parts[size] = parts.get(size, frozenset()) | new
            self._parts = parts
            self._keys.add(key)
            _name.cache_clear()

    def removed_from(self, words: str) -> str:
        """`words` without any part of a key, however it is written, cut into pieces or mixed with other characters."""
        parts = self._parts
        if len(words) < min(parts, default=sys.maxsize):
            return words
        at = [place for place, character in enumerate(words) if character.isalnum()]
        flat = _letters_and_digits(words)
        hits = [
            (at[start], at[start + size - 1] + 1)
            for size, known in parts.items()
            for start in range(len(flat) - size + 1)
            if flat[start : start + size] in known
        ]
        shown, done = "", 0
        for begin, end in sorted(hits):
            if begin >= done:
                shown += words[done:begin] + "[key]"
            done = max(done, end)
        return shown + words[done:]


def _letters_and_digits(words: str) -> str:
    """The letters and digits of a text, one character each, capitals as small ones."""
    return "".join(c.lower()[0] for c in words if c.isalnum())


_secrets = _Secrets()


def _spellings(key: str) -> set[str]:
    """The key as it is, URL-encoded, in hex (which is also the URL encoding of all of it), and as inner base64."""
    raw = key.encode()
    spellings = {key, quote(key), quote(key, safe=""), raw.hex()}
    for encode in (b64encode, urlsafe_b64encode):
        for shift in range(3):  # base64 looks different depending on how many bytes stand before
            digits = encode(b"\0" * shift + raw).decode()
            spellings.add(digits[-(-shift * 8 // 6) : (shift + len(raw)) * 8 // 6])
    return spellings


def shown(words: str, longest: int = LONGEST_MESSAGE) -> str:
    """Text from outside on one line: no control characters, no key, not too long."""
    words = _secrets.removed_from(text.one_line(words))
    return words if len(words) <= longest else words[: longest - 1] + "…"


@lru_cache(maxsize=4096)  # a year of usage names the same few models thousands of times
def _name(words: str) -> str:
    return shown(words, LONGEST_NAME)


class _KeyFilter(logging.Filter):
    """httpcore logs a reply's headers at DEBUG, in which a hostile server may repeat the key."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = _secrets.removed_from(record.getMessage()), None
        return True


_key_filter = _KeyFilter()


def _hide_keys_in_logs() -> None:
    # A logger's filter does not hold for its children, so each one that a request uses gets it.
    for name in ("httpx", "httpcore", "httpcore.connection", "httpcore.http11"):
        logging.getLogger(name).addFilter(_key_filter)


# --- replies ---


def _unbelievable(call: str, what: str) -> UnbelievableReply:
    return UnbelievableReply(
        f"the reply to {call} was refused and nothing of it is used, because {what}: run again later, and if"
        " this persists, update this program"
    )


TOO_DEEP = "its JSON is nested too deeply"


def _json_object(content: bytes) -> dict[str, Any] | str:
    """The object in `content`, numbers as Decimal from their own text; or what is wrong with it."""
    try:
        document = json.loads(
            content.decode("utf-8"),
            parse_float=Decimal,
            parse_int=Decimal,
            parse_constant=_no_constant,
            object_pairs_hook=_no_name_twice,
        )
    except RecursionError:
        return TOO_DEEP
    except (ValueError, ArithmeticError):
        return "it is HTML, not JSON" if content.lstrip()[:1] == b"<" else "it is not complete and valid JSON"
    return document if isinstance(document, dict) else "it is not a JSON object"


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _no_name_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name occurs twice: which of the values is meant?")
    return found


def _json_text(value: Any) -> str:
    """JSON text with every number's own digits, ASCII only, without keys."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{_json_text(k)}:{_json_text(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_json_text, value)) + "]"
    if isinstance(value, Decimal):
        return str(value)
    if isinstance(value, str):
        # Half a surrogate pair is legal in JSON's escapes and in no Unicode text: databases refuse it.
        value = _secrets.removed_from(value.encode("utf-8", "replace").decode())
    return json.dumps(value)


def _server_message(body: bytes | None) -> str:
    """The `message` of the API's error body, made safe to show; "" when there is none."""
    try:
        message = json.loads(body or b"")["error"]["message"]
    except (ValueError, TypeError, LookupError, RecursionError):
        return ""
    return shown(message) if isinstance(message, str) else ""


def _amount(value: object) -> Decimal | None:
    """USD with 9 decimals, or None where `value` is no finite number or beyond DECIMAL(18,9).

    More decimals are rounded, half-even: the API computes in doubles, which may print with 17 digits, and a
    nano-dollar is below anything that is billed.
    """
    if not isinstance(value, Decimal) or (value and value.adjusted() >= DIGITS_BEFORE_POINT):
        return None
    rounded = value.quantize(NANO_DOLLAR, context=_ROUNDING) if value else NOTHING
    if rounded.adjusted() >= DIGITS_BEFORE_POINT:
        return None
    return rounded or NOTHING  # never -0


def _counter(reply: _Reply, name: str) -> Decimal:
    """A lifetime total of /credits: it can fall, but not below its start."""
    if name not in reply.data:
        raise reply.unbelievable(f"{name} is missing")
    amount = _amount(reply.data[name])
    if amount is None:
        raise reply.unbelievable(f"{name} is not a finite number below a billion dollars")
    if amount < 0:
        raise reply.unbelievable(f"{name} is below zero, which a lifetime total cannot be")
    return amount


# --- usage ---

_METRICS = {
    "requests": "request_count",
    "prompt_tokens": "tokens_prompt",
    "completion_tokens": "tokens_completion",
    "reasoning_tokens": "reasoning_tokens",
    "cached_tokens": "cached_tokens",
}


def _queries(first: date, last: date) -> list[tuple[date, date]]:
    """The range in pieces that one query may ask for, the earliest at the end."""
    pieces = []
    while first <= last:
        end = min(last, first + timedelta(days=DAYS_PER_QUERY - 1))
        pieces.append((first, end))
        first = end + timedelta(days=1)
    return pieces[::-1]


def _halves(first: date, last: date) -> list[tuple[date, date]]:
    middle = first + (last - first) // 2
    return [(middle + timedelta(days=1), last), (first, middle)]


def _usage_query(first: date, last: date) -> dict[str, object]:
    # `credits_usage` is what was billed and moves /credits.total_usage; the metric called total_usage adds
    # inference that was paid elsewhere (BYOK). Whether `end` belongs to the range is not documented, so the
    # next midnight is asked for and days outside are dropped.
    return {
        "metrics": ["credits_usage", "byok_usage", *_METRICS.values()],
        "dimensions": ["model"],
        "granularity": "day",
        "time_range": {"start": f"{first}T00:00:00Z", "end": f"{last + timedelta(days=1)}T00:00:00Z"},
        "limit": ROWS_PER_REPLY,
    }


def _is_truncated(reply: _Reply) -> bool:
    metadata = reply.data.get("metadata")
    truncated = metadata.get("truncated") if isinstance(metadata, dict) else None
    if not isinstance(truncated, bool):
        raise reply.unbelievable("it does not say whether it is truncated")
    return truncated


def _as_of(reply: _Reply) -> datetime:
    """When the figures were true: when they were asked for, or since when they are cached, as the reply says (ms).

    Not when they were read: a bill asked for before midnight lacks what came after, whenever the reply arrives.
    """
    cached_at = reply.data.get("cachedAt")
    if not isinstance(cached_at, Decimal) or not 0 < cached_at < 10**13:
        return reply.asked_at
    cached = datetime.fromtimestamp(float(cached_at) / 1000, UTC)
    return cached if reply.asked_at - OLDEST_CACHE < cached < reply.asked_at else reply.asked_at


def _usage_rows(reply: _Reply, first: date, last: date) -> list[UsageRow]:
    """One row per day and model within the range. Rows of the same day and model are summed."""
    given = reply.data.get("data")
    if not isinstance(given, list):
        raise reply.unbelievable("it has no list of rows")
    rows: dict[tuple[date, str], UsageRow] = {}
    for number, fields in enumerate(given, start=1):
        if not isinstance(fields, dict):
            raise reply.unbelievable(f"row {number} is not an object")
        day = _day(fields)
        if day is None:
            raise reply.unbelievable(f"row {number} names no UTC day")
        if first <= day <= last:
            row = _usage_row(reply, number, day, fields)
            other = rows.get(_day_and_model(row))
            rows[_day_and_model(row)] = _sum(reply, other, row) if other else row
    _refuse_impossible_days(reply, rows.values())
    return list(rows.values())


def _refuse_impossible_days(reply: _Reply, rows: Iterable[UsageRow]) -> None:
    days: dict[date, Decimal] = defaultdict(Decimal)
    for row in rows:
        days[row.usage_date] += row.credits_usd
    for day, usd in days.items():
        if abs(usd) > LARGEST_DAY_USD:
            raise reply.unbelievable(f"the rows of {day} add up to more than {LARGEST_DAY_USD:,} dollars")


def _usage_row(reply: _Reply, number: int, day: date, fields: dict[str, Any]) -> UsageRow:
    """A row of the reply. Its bill must be there; null in the rest is the API's way to say "not used"."""
    byok, model = fields.get("byok_usage"), fields.get("model")
    values: dict[str, Any] = {
        "credits_usd": _amount(_number(fields.get("credits_usage"))),
        "byok_usd": _amount(_number(byok)) if byok is not None else NOTHING,
    }
    for name, metric in _METRICS.items():
        count = fields.get(metric)
        values[name] = _count(count) if count is not None else 0
    for name, value in values.items():
        if value is None:
            raise reply.unbelievable(f"{name} in row {number} ({day}) is not a believable number")
    if model is not None and not isinstance(model, str):
        raise reply.unbelievable(f"model in row {number} ({day}) is not a name")
    # Money without a model is money all the same: it keeps its row, under a name that says so.
    return UsageRow(usage_date=day, model=_name(model) if model else UNKNOWN_MODEL, **values)


def _sum(reply: _Reply, one: UsageRow, other: UsageRow) -> UsageRow:
    names = [column.name for column in fields_of(UsageRow)][2:]
    total = replace(one, **{name: getattr(one, name) + getattr(other, name) for name in names})
    money, counts = (total.credits_usd, total.byok_usd), [getattr(total, name) for name in _METRICS]
    if None in map(_amount, money) or max(counts) > LARGEST_COUNT:
        raise reply.unbelievable(f"the rows of {one.usage_date} add up to more than any bill")
    return total


def _day_and_model(row: UsageRow) -> tuple[date, str]:
    return row.usage_date, row.model


_MIDNIGHT = re.compile(r"([0-9]{4}-[0-9]{2}-[0-9]{2})([T ]00:00(:00(\.0{1,9})?)?)?(Z|[+-]00:?00)?", re.ASCII)


def _day(fields: dict[str, Any]) -> date | None:
    """The row's UTC day. Seen: date__day and created_at__day, as a date or as the day's midnight."""
    value = fields.get("date__day")
    if value is None:
        value = fields.get("created_at__day")
    match = _MIDNIGHT.fullmatch(value) if isinstance(value, str) else None
    try:
        return date.fromisoformat(match[1]) if match else None
    except ValueError:
        return None


_NUMBER = re.compile(r"-?[0-9]{1,40}(\.[0-9]{1,40})?([eE][+-]?[0-9]{1,2})?", re.ASCII)


def _number(value: object) -> object:
    """Numbers in quotes are numbers here: the analytics database quotes those that a double might round."""
    return Decimal(value) if isinstance(value, str) and _NUMBER.fullmatch(value) else value


def _count(value: object) -> int | None:
    if isinstance(value, str) and len(value) < 19 and value.isascii() and value.isdigit():
        return int(value)  # what nearly all are
    number = _number(value)
    if not isinstance(number, Decimal) or number < 0 or number > LARGEST_COUNT or number != number // 1:
        return None
    return int(number)
