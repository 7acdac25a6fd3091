"""The restructuring of the code moves no figure: every published table as the first release built it, to the digit."""

import hashlib
import json
from pathlib import Path
from typing import Any

import duckdb
import pytest

from credits_pipeline_tests.models import World

FIGURES = Path(__file__).parent.parent / "fixtures" / "figures"
RAW = ("credits_snapshots", "model_usage", "model_usage_days")
HISTORIES = ("demo", "parity", "grown", "random")


def built(history: str) -> duckdb.DuckDBPyConnection:
    """A database whose raw tables hold the recorded history, with every model built from them."""
    world = World()
    for table in RAW:
        file = FIGURES / f"{history}.{table}.parquet"
        world.con.execute(f"insert into raw.{table} by name from read_parquet('{file}')")
    world.build_and_test(list(world.project.models))
    return world.con


def plain(value: Any) -> Any:
    """A double to nine significant digits: the order of a sum may differ, a figure may not."""
    return f"{value:.9g}" if isinstance(value, float) else str(value)


def digests(con: duckdb.DuckDBPyConnection) -> dict[str, Any]:
    """Per mart: its comment, its columns with types and comments, and a digest of its rows in their order."""
    found: dict[str, Any] = {}
    for name, comment in con.execute(
        "select table_name, comment from duckdb_tables() where schema_name = 'marts' order by table_name"
    ).fetchall():
        columns = con.execute(
            "select column_name, data_type, comment from duckdb_columns()"
            " where schema_name = 'marts' and table_name = ? order by column_index",
            [name],
        ).fetchall()
        rows = con.execute(f"select * from marts.{name}").fetchall()
        text = "\n".join("\t".join(map(plain, row)) for row in rows)
        found[name] = {
            "words": hashlib.sha256(repr((comment, columns)).encode()).hexdigest()[:16],
            "rows": len(rows),
            "figures": hashlib.sha256(text.encode()).hexdigest()[:16],
        }
    return found


@pytest.mark.parametrize("history", HISTORIES)
def test_every_table_is_as_the_first_release_built_it(history: str) -> None:
    expected = json.loads((FIGURES / "expected.json").read_text(encoding="utf-8"))[history]
    found = digests(built(history))
    assert {name: found.get(name) for name in expected} == expected
