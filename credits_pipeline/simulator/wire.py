"""JSON with exact numbers: money is written from nano-dollars, never through a float."""

import json
from json.encoder import encode_basestring
from typing import Any, cast

NANO = 10**9


class Literal(str):
    """Text that is JSON already, such as a number with its own digits."""

    __slots__ = ()


def money(nano: int) -> Literal:
    """Nano-dollars as a plain JSON number in USD: up to 9 decimals, no trailing zeros, whole numbers bare."""
    sign, (whole, rest) = "-" if nano < 0 else "", divmod(abs(nano), NANO)
    return Literal(f"{sign}{whole}.{rest:09d}".rstrip("0") if rest else f"{sign}{whole}")


class Row(dict[str, Any]):
    """A row that keeps its JSON text, as replies have thousands of rows. To change it, make another."""

    def __init__(self, values: dict[str, Any]) -> None:
        super().__init__(values)
        self.text = to_json(values)


def to_json(value: Any) -> str:
    kind = type(value)
    if kind is Literal:
        return str(value)
    if kind is Row:
        return cast(Row, value).text
    if kind is str:
        return encode_basestring(value)
    if kind is dict:
        return "{" + ",".join([f"{encode_basestring(key)}:{to_json(item)}" for key, item in value.items()]) + "}"
    if kind is list:
        return "[" + ",".join([to_json(item) for item in value]) + "]"
    return json.dumps(value)
