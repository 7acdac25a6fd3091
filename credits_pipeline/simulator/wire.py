"""JSON with exact numbers: money is written from nano-dollars, never through a float."""

import json
from typing import Any

NANO = 10**9


class Literal(str):
    """Text that is JSON already, such as a number with its own digits."""

    __slots__ = ()


def money(nano: int) -> Literal:
    """Nano-dollars as a plain JSON number in USD: up to 9 decimals, no trailing zeros, whole numbers bare."""
    sign, (whole, rest) = "-" if nano < 0 else "", divmod(abs(nano), NANO)
    return Literal(f"{sign}{whole}.{rest:09d}".rstrip("0") if rest else f"{sign}{whole}")


def to_json(value: Any) -> str:
    if isinstance(value, Literal):
        return str(value)
    if isinstance(value, dict):
        return "{" + ",".join(f"{json.dumps(key)}:{to_json(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(to_json, value)) + "]"
    return json.dumps(value, ensure_ascii=False)
