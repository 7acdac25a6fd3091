"""What can go wrong with a call to OpenRouter, each in one sentence that says what to do."""

import re
from typing import Any

from credits_pipeline.config import MANAGEMENT_KEYS_PAGE
from credits_pipeline.errors import CreditsError
from credits_pipeline.openrouter.replies import shown

CHECK_ADDRESS = "check OPENROUTER_BASE_URL"


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


def failure(
    host: str, call: str, variable: str, status: int, content: bytes, document: dict[str, Any]
) -> OpenRouterError | None:
    """Why a reply is no answer; None if it may be one. An error that comes with status 200 is known by its own code."""
    error = document.get("error") or {}
    error = error if isinstance(error, dict) else {"message": error}
    if error and status == 200:
        code = error.get("code")
        status = code if isinstance(code, int) and 400 <= code < 600 else 500
    words = shown(str(error.get("message") or ""))
    said = f'{status}: "{words}"' if words else f"{status}"
    kind, what, advice, retryable = OpenRouterError, f"{host} failed at {call}", "run again later", True
    if content.lstrip()[:1] == b"<":
        # From what stands between us and the API, whatever the status: it says nothing of the key.
        what, advice, status = f"{host} answered {call} with a web page", f"{CHECK_ADDRESS}, then run again later", 0
    elif status == 200:
        return None
    elif status in {401, 403}:
        what, advice = _refused(host, call, variable, is_known=status == 403, words=words)
        kind, retryable = (Forbidden if status == 403 else OpenRouterError), False
    elif status in {408, 504, 524}:  # the last is the CDN's word for 504
        kind = TookTooLong
    elif status == 429:
        advice = "it is rate limiting us, fewer requests are needed, run again in some minutes"
    elif status < 400:
        advice = f"redirects are not followed with a key, {CHECK_ADDRESS}, then run again later"
    elif status < 500 and status != 425:
        advice, retryable = f"{CHECK_ADDRESS}, and look for a newer version of this program", False
    return kind(f"{what} ({said}): {advice}", retryable=retryable, status=status)


def _refused(host: str, call: str, variable: str, *, is_known: bool, words: str) -> tuple[str, str]:
    create = f"create a management key under {MANAGEMENT_KEYS_PAGE} and put it there"
    if not is_known:
        return f"{host} does not know the key in {variable}", create
    if re.search("management|provisioning", words, re.IGNORECASE):
        return f"the key in {variable} is not a management key", create
    allow = f"if that speaks of an address, add this machine's to the key's allow-list under {MANAGEMENT_KEYS_PAGE}"
    return f"{host} refuses {call} to the key in {variable}", allow


def unreachable(host: str, error: Exception) -> OpenRouterError:
    """No complete reply came."""
    import httpx

    reason = shown(f"{type(error).__name__}: {error}".removesuffix(": "))
    if "CERTIFICATE_VERIFY_FAILED" in str(error):
        return OpenRouterError(
            f"{host} could not prove that it is {host}, so no key was sent ({reason}): check the network and"
            " OPENROUTER_BASE_URL; where a company inspects TLS, set SSL_CERT_FILE"
        )
    slow = isinstance(error, TimeoutError | httpx.ReadTimeout | httpx.WriteTimeout)
    advice = "check the network and OPENROUTER_BASE_URL, then run again"
    return (TookTooLong if slow else OpenRouterError)(
        f"no complete reply from {host} ({reason}): {advice}", retryable=True
    )


def unbelievable(call: str, what: str, *, retryable: bool = False) -> OpenRouterError:
    """Status 200, and something else than what the contract promises."""
    return OpenRouterError(
        f"the reply to {call} was refused and nothing of it is used, because {what}: run again later, and if"
        " this persists, update this program",
        retryable=retryable,
    )
