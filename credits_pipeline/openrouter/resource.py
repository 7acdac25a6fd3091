"""The OpenRouter API as a Dagster resource: typed replies, or one sentence that says what to do."""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import dagster as dg
from pydantic import Field, PrivateAttr

from credits_pipeline import config
from credits_pipeline.config import Account
from credits_pipeline.openrouter.client import Client, RateLimit, RateLimits
from credits_pipeline.openrouter.errors import OpenRouterError
from credits_pipeline.openrouter.replies import shown

T = TypeVar("T")

# Accounts asked at the same time. Round trips dominate; 16 keeps 200 accounts under 2 s at 100 ms each without
# looking like a flood to the API.
CONCURRENT_ACCOUNTS = 16


class OpenRouter(dg.ConfigurableResource):  # type: ignore[type-arg]
    """The OpenRouter API.

    Keys come from OPENROUTER_API_KEY, OPENROUTER_API_KEY_<NAME> and OPENROUTER_API_KEYS_FILE, the host from
    OPENROUTER_BASE_URL, all at run time: this configuration holds time limits only.
    """

    connect_timeout_s: float = Field(default=10, gt=0, description="Seconds to reach the API.")
    read_timeout_s: float = Field(default=30, gt=0, description="Seconds without a byte before giving up.")
    total_timeout_s: float = Field(
        default=60, gt=0, description="Seconds for one request from start to end, however lively it looks."
    )
    max_attempts: int = Field(
        default=5,
        ge=1,
        description="Attempts at a request whose failure may pass: 408, 425, 429, 5xx, a web page, network.",
    )
    _rate_limits: RateLimits = PrivateAttr(default_factory=lambda: defaultdict(RateLimit))

    def __reduce__(self) -> tuple[Any, ...]:
        """Its limits travel to where a shard is worked on, and nothing of the run that uses it."""
        return partial(type(self), **{name: getattr(self, name) for name in type(self).model_fields}), ()

    def ask_each(
        self, accounts: Sequence[Account], ask: Callable[[Client, Account], Awaitable[T]]
    ) -> tuple[dict[str, T], dict[str, OpenRouterError]]:
        """Ask for all accounts at once: replies by account's name, and the error of each that failed.

        A bug that one account's reply brings to light costs the others nothing either: a lost reading is lost for
        good. Raises ConfigError.
        """
        settings = config.current().valid()
        config.check_base_url(settings.base_url, settings.allow_custom_host)

        async def outcomes() -> list[T | OpenRouterError]:
            free = asyncio.Semaphore(CONCURRENT_ACCOUNTS)
            async with Client(settings.base_url, self, self._rate_limits) as client:

                async def outcome(account: Account) -> T | OpenRouterError:
                    async with free:
                        try:
                            return await ask(client, account)
                        except OpenRouterError as error:
                            return error
                        except Exception as error:
                            said = f"{type(error).__name__}: {shown(str(error))}"
                            return OpenRouterError(f"something unforeseen happened ({said}): please report it as a bug")

                return await asyncio.gather(*map(outcome, accounts))

        told = dict(zip((account.name for account in accounts), asyncio.run(outcomes()), strict=True))
        failures = {name: got for name, got in told.items() if isinstance(got, OpenRouterError)}
        return {n: got for n, got in told.items() if not isinstance(got, OpenRouterError)}, failures
