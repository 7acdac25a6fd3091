"""What the API may answer, as types: anything else is refused, and nothing is ever defaulted to zero.

Money is USD with nine decimals, days are UTC days. A further call is one more `Reply` and a method of `Client`.
Source: the vendor's OpenAPI document.
"""

import json
import re
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from decimal import Decimal
from functools import lru_cache, partial
from operator import attrgetter
from typing import Annotated, Any, ClassVar, Generic, TypeVar

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    PlainValidator,
    StrictBool,
    ValidationInfo,
    field_validator,
    model_validator,
)

from credits_pipeline import text
from credits_pipeline.config import LARGEST_TOTAL_USD

TOO_MUCH_USD = Decimal(10**9)
NANO_DOLLAR = Decimal("1e-9")  # below anything that is billed; the API's doubles may print with more digits
# Of an account and day. Believed, more than these would stop the figures of all: sums would not fit their columns.
LARGEST_DAY_USD, LARGEST_COUNT = 2_500_000, 10**15
OLDEST_CACHE_MS = 86_400_000  # a `cachedAt` further back, or ahead, is a mistake and says nothing
LONGEST_MESSAGE, LONGEST_NAME = 300, 200  # characters of the server's own words, and of a model's name

_KEY_LIKE = re.compile(r"sk-or-[\w-]{8,}|(?=[0-9eE]*[a-dA-DfF])[0-9a-fA-F]{32,}")  # and no long number
keys_sent: set[str] = set()


def hidden(words: str) -> str:
    """`words` without the keys that were sent, and without whatever looks like one."""
    for key in keys_sent:
        words = words.replace(key, "[key]")
    return _KEY_LIKE.sub("[key]", words)


def shown(words: str, longest: int = LONGEST_MESSAGE) -> str:
    """Text from outside on one line: no key, no control characters, not too long."""
    return text.one_line(hidden(words), longest)


def _usd(value: Any) -> Decimal:  # in half the time of pydantic's own: a year has many rows
    try:
        if type(value) is not bool and abs(amount := Decimal(value)) < TOO_MUCH_USD:
            return amount.quantize(NANO_DOLLAR) + 0  # half-even, never -0
    except (ArithmeticError, TypeError, ValueError):
        pass
    raise ValueError("not a number of dollars")


@lru_cache(maxsize=2_000)
def _utc_day(value: str) -> date:
    """A date, or the midnight that begins it, in any of the spellings seen."""
    if value[10:].strip("T :0.Z+-"):
        raise ValueError("not a UTC day")
    return date.fromisoformat(value[:10])


@lru_cache(maxsize=4_000)  # a year of usage names the same few models and members thousands of times
def _member(value: str, nameless: str = "") -> str:
    return shown(value, LONGEST_NAME) or nameless


_name = partial(_member, nameless="unknown")


def _identifier(value: str) -> str:
    if not re.fullmatch(r"[\w-]{1,128}", value, re.ASCII) or value.startswith("sk-"):
        raise ValueError("no identifier that may be stored")  # least of all a key
    return value


Billed = Annotated[Decimal, PlainValidator(_usd)]
Total = Annotated[Billed, Field(ge=0, le=LARGEST_TOTAL_USD)]
Count = Annotated[int, Field(ge=0)]


class Reply(BaseModel):
    """The object under `data` of a reply to `call`."""

    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)
    call: ClassVar[str]


class Counters(Reply):
    call = "GET /credits"

    total_credits: Total
    total_usage: Total


class KeyInfo(Reply):
    call = "GET /key"

    is_management_key: StrictBool


class Item(Reply):
    """One of a list that comes in pages."""

    id: Annotated[str, AfterValidator(_identifier)]
    name: Annotated[str, AfterValidator(_name)]


P = TypeVar("P", bound=Item)


class Page(Reply, Generic[P]):
    items: list[P]


class WorkspacesReply(Page[Item]):
    call = "GET /workspaces"


class ApiKey(Item):
    """An API key as it is now, never the key itself: `id` is its hash. Money in USD; None: not said, and unknown."""

    id: Annotated[str, AfterValidator(_identifier)] = Field(validation_alias="hash")
    label: Annotated[str, AfterValidator(_name)]
    workspace: str | None = None  # its name, filled in by the client
    limit_usd: Billed | None = Field(validation_alias="limit")
    limit_remaining_usd: Billed | None = Field(default=None, validation_alias="limit_remaining")
    limit_reset: Annotated[str, AfterValidator(_name)] | None = None
    has_byok_in_limit: StrictBool = Field(default=False, validation_alias="include_byok_in_limit")
    usage_usd: Billed | None = Field(default=None, validation_alias="usage")
    usage_daily_usd: Billed | None = Field(default=None, validation_alias="usage_daily")
    usage_weekly_usd: Billed | None = Field(default=None, validation_alias="usage_weekly")
    usage_monthly_usd: Billed | None = Field(default=None, validation_alias="usage_monthly")
    is_disabled: StrictBool = Field(validation_alias="disabled")
    created_at: AwareDatetime | None = None
    expires_at: AwareDatetime | None = None

    @property
    def key_hash(self) -> str:
        return self.id


class KeysReply(Page[ApiKey]):
    call = "GET /keys"


class UsageRow(Reply):
    """What one model was billed for on one UTC day. Money in USD; a correction is negative."""

    usage_date: date
    # The key, workspace, user or app of a breakdown. Without a name (chatroom, organization keys) it stays so.
    member: Annotated[str, AfterValidator(_member)] = Field("", coerce_numbers_to_str=True)
    # Money without a model is money all the same: it keeps its row, under a name that says so.
    model: Annotated[str, AfterValidator(_name)] = "unknown"
    credits_usd: Billed = Field(validation_alias="credits_usage")
    byok_usd: Billed = Field(default=Decimal("0.000000000"), validation_alias="byok_usage")
    requests: Count = Field(default=0, validation_alias="request_count")
    prompt_tokens: Count = Field(default=0, validation_alias="tokens_prompt")
    completion_tokens: Count = Field(default=0, validation_alias="tokens_completion")
    reasoning_tokens: Count = Field(default=0, validation_alias="reasoning_tokens")
    cached_tokens: Count = Field(default=0, validation_alias="cached_tokens")


FIGURES = tuple(UsageRow.model_fields)[3:]
METRICS = [str(UsageRow.model_fields[name].validation_alias) for name in FIGURES]


class _Metadata(Reply):
    truncated: StrictBool


class UsageReply(Reply):
    call = "POST /analytics/query"

    rows: list[UsageRow] = Field(validation_alias="data")
    metadata: _Metadata
    cached_at: object = Field(default=None, validation_alias="cachedAt")

    @field_validator("rows", mode="before")
    @classmethod
    def _asked_for(cls, rows: Any, info: ValidationInfo) -> list[dict[str, Any]]:
        """The rows within the range of the question, without nulls, which say "not used"."""
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise ValueError("not a list of rows")
        question = info.context or {}
        first, end = (date.fromisoformat(question["time_range"][side][:10]) for side in ("start", "end"))
        dimension, kept = (*question["dimensions"], None)[1], []
        for row in rows:
            said = {name: value for name, value in row.items() if value is not None}
            day = _utc_day(str(said.get("date__day") or said.get("created_at__day")))
            if first <= day < end:
                kept.append(said | {"usage_date": day, "member": said.get(dimension, "")})
        return kept

    @model_validator(mode="after")
    def _days_are_believable(self) -> "UsageReply":
        for name in FIGURES:
            most = LARGEST_DAY_USD if name.endswith("_usd") else LARGEST_COUNT
            if sum(map(abs, map(attrgetter(name), self.rows))) <= most:  # then any day of them is less
                continue
            of_day: dict[date, Any] = defaultdict(int)
            for row in self.rows:
                of_day[row.usage_date] += abs(getattr(row, name))
            if max(of_day.values(), default=0) > most:
                raise ValueError(f"{name} of a day are more than {most:,} in all")
        return self

    def summed(self) -> list[UsageRow]:
        """The rows, those of the same day, member and model summed."""
        found: dict[tuple[date, str, str], UsageRow] = {}
        for row in self.rows:
            key = row.usage_date, row.member, row.model
            if other := found.get(key):
                row = row.model_copy(update={name: getattr(row, name) + getattr(other, name) for name in FIGURES})
            found[key] = row
        return list(found.values())

    def as_of(self, asked_at: datetime) -> datetime:
        """When the figures were true: when they were asked for, or since when they are cached, as the reply says (ms).

        Not when they were read: a bill asked for before midnight lacks what came after, whenever the reply arrives.
        """
        if isinstance(self.cached_at, int):
            age = int(asked_at.timestamp() * 1000) - self.cached_at
            return asked_at - timedelta(milliseconds=age if 0 < age < OLDEST_CACHE_MS else 0)
        return asked_at


@dataclass(frozen=True)
class Credits:
    """An account's two lifetime counters in USD; the balance is their difference."""

    total_credits: Decimal
    total_usage: Decimal
    observed_at: datetime  # aware, UTC: when the reply had been read
    payload: str  # the reply's JSON text


@dataclass(frozen=True)
class Usage:
    """Everything billed on the UTC days `first` to `last`: a day without rows was billed nothing."""

    first: date
    last: date
    # One per day, member and model, in this order. In no repr, which asyncio makes of a result: of thousands of rows.
    rows: tuple[UsageRow, ...] = field(repr=False)
    fetched_at: datetime  # aware, UTC: the figures are at least as recent as this
    requests_made: int


@dataclass(frozen=True)
class Keys:
    """An account's API keys, in the order of the list."""

    keys: tuple[ApiKey, ...] = field(repr=False)
    observed_at: datetime  # aware, UTC: when the list had been read


def json_object(content: bytes) -> dict[str, Any]:
    """The JSON object in `content`, its numbers exact; empty if it is something else."""
    try:
        document = json.loads(content.decode(), parse_float=Decimal, parse_constant=int)  # int("NaN") fails
    except (ValueError, ArithmeticError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}
