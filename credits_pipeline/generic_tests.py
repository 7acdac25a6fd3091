"""dbt's four generic tests: their SQL, which must find no row, and their names, the same as dbt's."""

import re
from collections.abc import Mapping
from typing import Any

from credits_pipeline.text import literal, quoted

KINDS = {  # and their arguments, all of which but `quote` are required
    "unique": (),
    "not_null": (),
    "accepted_values": ("values", "quote"),
    "relationships": ("to", "field"),
}

_NOT_IN_A_NAME = re.compile(r"[^0-9a-zA-Z_]+")


def sql(kind: str, tested: str, column: str, arguments: Mapping[str, Any], parent: str = "") -> str:
    """The failing rows of `tested`, or their values with a count; `tested` and `parent` are SQL already."""
    name = quoted(column)
    counted = f"select {name}, count(*) as n_records from {tested} where"
    if kind == "unique":
        return f"{counted} {name} is not null group by {name} having count(*) > 1"
    if kind == "not_null":
        return f"select * from {tested} where {name} is null"
    if kind == "accepted_values":
        show = literal if arguments.get("quote", True) else str
        values = ", ".join(show(str(value)) for value in arguments["values"])
        return f"{counted} {name} not in ({values}) group by {name}"
    found = f"select 1 from {parent} as parent where parent.{quoted(arguments['field'])} = child.{name}"
    return f"select * from {tested} as child where {name} is not null and not exists ({found})"


def name(kind: str, model: str, column: str, arguments: Mapping[str, Any]) -> str:
    """Kind, model, then all arguments in the order of their names, the column among them."""
    values = {**arguments, "column_name": column}
    if "to" in values:
        values["to"] = f"ref('{values['to']}')"
    lists = [value if isinstance(value, list) else [value] for _, value in sorted(values.items())]
    parts = [_NOT_IN_A_NAME.sub("_", str(part)) for items in lists for part in items]
    return f"{kind}_{model}_{'__'.join(parts)}"
