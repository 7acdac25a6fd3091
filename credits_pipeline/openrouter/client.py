"""The only code that speaks HTTP to OpenRouter.

A key leaves it in one header, to the host that `config.check_base_url` allows, over verified TLS; redirects, proxies
and cookies have no part in it. Nothing in a reply is believed before it was checked.
"""

import asyncio
import logging
import random
import ssl
from collections import Counter, defaultdict, deque
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from email.utils import parsedate_to_datetime
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from pydantic import ValidationError

from credits_pipeline import clock, config
from credits_pipeline.config import MANAGEMENT_KEYS_PAGE, Account
from credits_pipeline.openrouter import errors, replies
from credits_pipeline.openrouter.errors import Forbidden, OpenRouterError, TookTooLong
from credits_pipeline.openrouter.replies import Credits, Keys, Usage, shown

if TYPE_CHECKING:  # httpx costs 0.15 s to import, and most that import this module never make a request
    import httpx

    from credits_pipeline.openrouter.resource import OpenRouter

R = TypeVar("R", bound=replies.Reply)
P = TypeVar("P", bound=replies.Item)

# The API documents 64 analytics queries a minute. Four are left to people and to clocks that disagree. A
# second process with the same key is not seen from here: the API tells one of them 429, which is waited out.
REQUESTS_PER_MINUTE = 60
ROWS_PER_REPLY, DAYS_PER_QUERY = 10_000, 365  # documented limits of POST /analytics/query
ROWS_PER_PAGE = 100  # of GET /keys and GET /workspaces
LARGEST_REPLY = 10_000_000  # bytes; 10,000 rows are some 3 MB
DIMENSIONS = {name: name for name in config.BREAKDOWNS} | {"api_key": "api_key_id"}  # as the API calls them
LONGEST_WAIT_S = 120.0  # of any single wait, also where Retry-After asks for more: a run must come to an end
# A reply's own Date, against our clock: beyond this the clock is wrong, and with it the day of whatever is stored.
# Far above any delay on the way, far below the two hours that the tables allow around a midnight.
CLOCK_TOLERANCE = timedelta(minutes=10)
DAY = timedelta(days=1)

Question = dict[str, Any] | None  # the body of a POST, the parameters of a GET


class RateLimit:
    """At most REQUESTS_PER_MINUTE of one key's requests begin within any minute."""

    def __init__(self) -> None:
        self._begun = deque[float](maxlen=REQUESTS_PER_MINUTE)

    async def turn(self) -> None:
        while len(self._begun) == REQUESTS_PER_MINUTE and (left := self._begun[0] + 60 - clock.monotonic()) > 0:
            await clock.pause(max(left, 0.01))  # a rounding error must not become a busy loop
        self._begun.append(clock.monotonic())


RateLimits = defaultdict[str, RateLimit]  # by the key's fingerprint: accounts may share a key


class Client:
    """The API under one root, within one event loop. `async with Client(...)`; its tasks may share it."""

    def __init__(self, base_url: str, limits: "OpenRouter", rate_limits: RateLimits) -> None:
        import httpx

        self._base_url, self._limits, self._rate_limits = base_url, limits, rate_limits
        self._host, self._requests = urlsplit(base_url).netloc, Counter[str]()
        # They would log a reply's status line and headers, in which a hostile server may repeat the key.
        for name in ("httpx", "httpcore.connection", "httpcore.http11"):
            logging.getLogger(name).disabled = True
        self._http = httpx.AsyncClient(
            verify=_trusted_certificates(),
            trust_env=False,  # proxy variables would hand the key to the proxy, or to whoever set them
            follow_redirects=False,
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),  # accounts share no session
            timeout=httpx.Timeout(limits.read_timeout_s, connect=limits.connect_timeout_s),
            # Replies are small, and a compressed one could unfold to any size.
            headers={"User-Agent": "credits-pipeline", "Accept-Encoding": "identity"},
        )

    async def __aenter__(self) -> "Client":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def credits(self, account: Account) -> Credits:
        """The counters now. Raises OpenRouterError; {0,0} is believed of a management key only.

        An ordinary key has been seen to get two zeros, with status 200, on a funded account.
        """
        found, content = await self._ask(account, replies.Counters)
        observed_at = clock.now()
        if found.total_credits == found.total_usage == 0:
            key, _ = await self._ask(account, replies.KeyInfo)
            if not key.is_management_key:
                raise Forbidden(
                    f"the API answered 0 credits and 0 usage to the key in {account.variable}, which is not a"
                    f" management key: create one under {MANAGEMENT_KEYS_PAGE} and put it there"
                )
        return Credits(found.total_credits, found.total_usage, observed_at, replies.hidden(content.decode()))

    async def usage(self, account: Account, first: date, last: date, dimension: str = "") -> Usage:
        """What was billed on the UTC days `first` to `last`, both included, per model. Raises OpenRouterError.

        With a `dimension` of `config.BREAKDOWNS`, per member and model. A first day that the API refuses as too old is
        left out: the result says where it begins.
        """

        async def billed(begin: date, end: date) -> tuple[list[replies.UsageRow], datetime]:
            """One request for up to 365 days; half of them, where it takes too long or not all rows fit in a reply."""
            if (end - begin).days < DAYS_PER_QUERY:
                asked_at, query = clock.now(), _usage_query(begin, end, dimension)
                try:
                    reply, _ = await self._ask(account, replies.UsageReply, query, is_divisible=begin < end)
                    if not reply.metadata.truncated:
                        return reply.summed(), reply.as_of(asked_at)
                except TookTooLong:
                    if begin == end:
                        raise
                if begin == end:
                    raise OpenRouterError(
                        f"{begin} alone has more usage rows than one reply can hold ({ROWS_PER_REPLY}), so nothing"
                        " was stored: fetch ranges that leave this day out"
                    )
            middle = begin + (end - begin) // 2
            earlier, later = await billed(begin, middle), await billed(middle + DAY, end)
            return earlier[0] + later[0], min(earlier[1], later[1])

        requests, oldest = self._requests[account.name], clock.today() - DAY * DAYS_PER_QUERY
        for _ in range(2):
            try:
                rows, as_of = await billed(first, last)
                break
            except OpenRouterError as error:
                if error.status != 400 or not first < last or first > oldest:
                    raise
            first += DAY  # the API may count 365 days, or as many hours
        rows.sort(key=lambda row: (row.usage_date, row.member, row.model))
        return Usage(first, last, tuple(rows), as_of, self._requests[account.name] - requests)

    async def keys(self, account: Account) -> Keys:
        """Every API key of the account as it is now, in all workspaces, disabled ones too. Raises OpenRouterError."""
        workspaces: list[replies.Item | None] = [None]  # the default one, which needs no name
        try:
            workspaces = [*await self._pages(account, replies.WorkspacesReply, {"limit": ROWS_PER_PAGE})] or workspaces
        except OpenRouterError as error:
            if error.status not in {403, 404}:
                raise
        found: dict[str, replies.ApiKey] = {}
        for workspace in workspaces:
            of_workspace = {"workspace_id": workspace.id} if workspace else {}
            for key in await self._pages(account, replies.KeysReply, {"include_disabled": "true", **of_workspace}):
                found[key.id] = key.model_copy(update={"workspace": workspace.name}) if workspace else key
        return Keys(tuple(found.values()), clock.now())

    async def _pages(self, account: Account, kind: type[replies.Page[P]], question: dict[str, object]) -> list[P]:
        """All items of a list, each once: it may grow and shrink between two pages."""
        items: dict[str, P] = {}
        while True:
            reply, _ = await self._ask(account, kind, {**question, "offset": len(items)})
            page = {item.id: item for item in reply.items}
            is_last = len(page) < ROWS_PER_PAGE or page.keys() <= items.keys()
            items |= page
            if is_last:
                return list(items.values())

    async def _ask(
        self, account: Account, kind: type[R], question: Question = None, *, is_divisible: bool = False
    ) -> tuple[R, bytes]:
        """The answer to one call, after as many attempts as it may take; one, if a part can be asked for instead."""
        attempt = 0
        while True:
            attempt += 1
            await self._rate_limits[account.fingerprint].turn()
            self._requests[account.name] += 1
            # Errors are returned, not raised, up to here: an exception raised inside httpx's handler would chain
            # the request, and with it the key.
            got = await self._once(account, kind, question)
            if not isinstance(got, OpenRouterError):
                return got
            got.attempts = attempt
            is_too_much = is_divisible and isinstance(got, TookTooLong)
            if not got.retryable or attempt >= self._limits.max_attempts or is_too_much:
                raise got
            backoff = 2 ** (attempt - 1) + random.random()  # noqa: S311 - no secret
            await clock.pause(min(max(backoff, got.retry_after_s), LONGEST_WAIT_S))

    async def _once(self, account: Account, kind: type[R], question: Question) -> tuple[R, bytes] | OpenRouterError:
        import httpx

        method, path = kind.call.split()
        asked: dict[str, Any] = {"json" if method == "POST" else "params": question}
        headers = {"Authorization": f"Bearer {account.key}"}
        replies.keys_sent.add(account.key)
        response, content = None, bytearray()
        try:
            # httpx has no limit for a request as a whole: a server may drip a byte now and then for ever.
            async with (
                asyncio.timeout(self._limits.total_timeout_s),
                self._http.stream(method, self._base_url + path, headers=headers, **asked) as response,
            ):
                async for chunk in response.aiter_raw():
                    content += chunk
                    if len(content) > LARGEST_REPLY:
                        return errors.unbelievable(kind.call, f"it is larger than {LARGEST_REPLY} bytes")
        except (httpx.HTTPError, httpx.StreamError, httpx.InvalidURL, OSError) as error:
            # The status alone decides a refusal: the key is not sent again just to read the error's text.
            if response is None or response.status_code == 200:
                return errors.unreachable(self._host, error)
        return self._judged(account, kind, question, response, bytes(content))

    def _judged(
        self, account: Account, kind: type[R], question: Question, response: "httpx.Response", content: bytes
    ) -> tuple[R, bytes] | OpenRouterError:
        """What a reply says, or why it is refused. An error that comes with status 200 is known by its own code."""
        now, status = clock.now(), response.status_code
        document = None if content.lstrip()[:1] == b"<" else replies.json_object(content)
        if status == 200 and document and (error := document.get("error")):
            code = error.get("code") if isinstance(error, dict) else None
            status = code if isinstance(code, int) and 400 <= code < 600 else 500
        if document is None or status != 200:
            failed = errors.failure(self._host, kind.call, account.variable, status, document)
            with suppress(ValueError):  # the contract says seconds
                failed.retry_after_s = float(response.headers.get("Retry-After", ""))
            return failed
        data = document.get("data")
        if not isinstance(data, list if issubclass(kind, replies.Page) else dict):
            return errors.unbelievable(kind.call, "it is no JSON with the data that were asked for", retryable=True)
        at = now
        with suppress(ValueError):
            at = parsedate_to_datetime(response.headers.get("Date", "")).astimezone(UTC)
        if abs(at - now) > CLOCK_TOLERANCE:
            return OpenRouterError(
                f"this machine's clock says {now:%Y-%m-%d %H:%M} UTC, but {self._host} says {at:%Y-%m-%d %H:%M},"
                " so nothing was stored: set the clock, then run again"
            )
        try:
            return kind.model_validate({"items": data} if isinstance(data, list) else data, context=question), content
        except ValidationError as wrong:
            first = wrong.errors()[0]
            where = "".join(f"{part}: " for part in first["loc"])
            return errors.unbelievable(kind.call, shown(where + first["msg"]))


def _usage_query(first: date, last: date, dimension: str) -> dict[str, object]:
    # `credits_usage` is what was billed and moves /credits.total_usage; the metric called total_usage adds
    # inference that was paid elsewhere (BYOK). Whether `end` belongs to the range is not documented, so the
    # next midnight is asked for and days outside are dropped.
    span = {"start": f"{first}T00:00:00Z", "end": f"{last + DAY}T00:00:00Z"}
    dimensions = ["model", DIMENSIONS[dimension]] if dimension else ["model"]
    question = {"metrics": replies.METRICS, "dimensions": dimensions, "granularity": "day"}
    return {**question, "time_range": span, "limit": ROWS_PER_REPLY}


def _trusted_certificates() -> ssl.SSLContext:
    """SSL_CERT_FILE and SSL_CERT_DIR are honoured: companies need them, and who can set them can read the key too."""
    import httpx

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
