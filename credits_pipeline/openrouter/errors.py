"""What can go wrong with a call to OpenRouter, each in one sentence that says what to do."""

import re
from typing import Any

from credits_pipeline.config import MANAGEMENT_KEYS_PAGE
from credits_pipeline.errors import CreditsError
from credits_pipeline.openrouter.replies import shown


class OpenRouterError(CreditsError):
    """The API gave no answer that can be used. `retryable`: the same request may succeed later by itself."""

    attempts, retry_after_s = 1, 0.0

    def __init__(self, message: str, *, retryable: bool = False, status: int = 0) -> None:
        super().__init__(message)
        self.retryable, self.status = retryable, status

    def __str__(self) -> str:
        return super().__str__() + (f" (asked {self.attempts} times)" if self.attempts > 1 else "")


class Forbidden(OpenRouterError):
    """403: the key is known and may not do this, from here."""


class TookTooLong(OpenRouterError):
    """The server gave up, or we did: perhaps the question was too much for it."""


def failure(host: str, call: str, variable: str, status: int, document: dict[str, Any] | None) -> OpenRouterError:
    """Why a reply is no answer; `document`: its JSON, None for a web page."""
    if document is None:  # from what stands between us and the API, whatever the status: it says nothing of the key
        what, advice = f"{host} answered {call} with a web page", "check OPENROUTER_BASE_URL, then run again later"
        return OpenRouterError(f"{what} ({status}): {advice}", retryable=True)
    error = document.get("error") or {}
    words = shown(str(error.get("message") or "") if isinstance(error, dict) else str(error))
    create = f"create a management key under {MANAGEMENT_KEYS_PAGE} and put it there"
    kind, what, advice, retryable = OpenRouterError, f"{host} failed at {call}", "run again later", True
    if status == 401:
        what, advice, retryable = f"{host} does not know the key in {variable}", create, False
    elif status == 403:
        kind, what, advice, retryable = Forbidden, f"the key in {variable} is not a management key", create, False
        if not re.search("management|provisioning", words, re.IGNORECASE):
            what = f"{host} refuses {call} to the key in {variable}"
            advice = "if that speaks of an address, add this machine's to the key's allow-list under " + (
                MANAGEMENT_KEYS_PAGE
            )
    elif status in {408, 504, 524}:  # the last is the CDN's word for 504
        kind = TookTooLong
    elif status == 429:
        advice = "it is rate limiting us, fewer requests are needed, run again in some minutes"
    elif status < 400:
        advice = "redirects are not followed with a key, check OPENROUTER_BASE_URL, then run again later"
    elif status < 500 and status != 425:
        advice, retryable = "check OPENROUTER_BASE_URL, and look for a newer version of this program", False
    said = f'{status}: "{words}"' if words else f"{status}"
    return kind(f"{what} ({said}): {advice}", retryable=retryable, status=status)


def unreachable(host: str, error: Exception) -> OpenRouterError:
    import httpx

    reason = shown(f"{type(error).__name__}: {error}".removesuffix(": "))
    if "CERTIFICATE_VERIFY_FAILED" in str(error):
        return OpenRouterError(
            f"{host} could not prove that it is {host}, so no key was sent ({reason}): check the network and"
            " OPENROUTER_BASE_URL; where a company inspects TLS, set SSL_CERT_FILE"
        )
    kind = TookTooLong if isinstance(error, TimeoutError | httpx.ReadTimeout | httpx.WriteTimeout) else OpenRouterError
    advice = "check the network and OPENROUTER_BASE_URL, then run again"
    return kind(f"no complete reply from {host} ({reason}): {advice}", retryable=True)


def unbelievable(call: str, what: str, *, retryable: bool = False) -> OpenRouterError:
    """Status 200, and something else than what the contract promises."""
    return OpenRouterError(
        f"the reply to {call} was refused and nothing of it is used, because {what}: run again later, and if"
        " this persists, update this program",
        retryable=retryable,
    )
