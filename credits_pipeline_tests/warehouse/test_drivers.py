"""The published copy in every driver that people have, old and new, each in an environment of its own."""

import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import duckdb
import pytest

from credits_pipeline.config import PROJECT_ROOT
from credits_pipeline_tests.published_history import History

pytestmark = pytest.mark.heavy

DRIVERS = PROJECT_ROOT / ".venv-drivers"
PYTHON_DRIVERS = ("1.1.3", "1.2.2", "1.3.2", "1.4.5", "1.5.6", "2.0.0")
EVIDENCE = "@evidence-dev/duckdb@2.0.1"
NODE_DRIVERS = ("1.4.2-r.1", "1.5.6-r.1")  # the oldest that Evidence's connector takes, and the newest

# Run by the old driver's Python: no package of ours, no pandas, nothing but duckdb.
READ_EVERYTHING = """
    import json, sys
    import duckdb

    con = duckdb.connect(sys.argv[1], read_only=True)
    columns = con.execute(
        "select table_name, column_name, data_type, comment from duckdb_columns() where not internal"
        " order by table_name, column_index"
    ).fetchall()
    tables = con.execute(
        "select schema_name, table_name, comment from duckdb_tables() where not internal order by all"
    ).fetchall()
    rows = {
        table: [[repr(value) for value in row] for row in con.execute(f"from marts.{table}").fetchall()]
        for _, table, _ in tables
    }
    print(json.dumps({"version": duckdb.__version__, "tables": tables, "columns": columns, "rows": rows}))
"""


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    history = History(tmp_path_factory.mktemp("published"))
    history.run(days=60)
    return history.path


def run(command: list[object], **how: Any) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False, **how)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def python_driver(version: str) -> Path:
    """The directory that holds this version of duckdb and nothing else; fetched once."""
    home = DRIVERS / f"duckdb-{version}"
    if not home.exists():
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
        fresh = home.with_name(f"{home.name}.new")
        run([*pip, "--only-binary", ":all:", "--target", fresh, f"duckdb=={version}"])
        fresh.rename(home)
    return home


def node_driver(version: str) -> Path:
    """A directory with Evidence's DuckDB connector on this version of the Node client."""
    home = DRIVERS / f"node-{version}"
    if not home.exists():
        if shutil.which("npm") is None:
            pytest.skip("npm is not on this machine (Debian: apt-get install nodejs npm)")
        fresh = home.with_name(f"{home.name}.new")
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
        (fresh / "package.json").write_text('{"private": true}', encoding="utf-8")
        options = ["--silent", "--no-audit", "--no-fund", "--ignore-scripts", "--save-exact"]
        run(["npm", "install", *options, f"@duckdb/node-api@{version}", EVIDENCE], cwd=fresh)
        fresh.rename(home)
    return home


def by_python(home: Path | str, published: Path) -> dict[str, Any]:
    command = [sys.executable, "-c", textwrap.dedent(READ_EVERYTHING), published]
    told: dict[str, Any] = json.loads(run(command, env={**os.environ, "PYTHONPATH": str(home)}, cwd="/"))
    return told


@pytest.mark.parametrize("version", PYTHON_DRIVERS)
def test_every_python_driver_reads_the_same_rows_types_and_comments(published, version):
    told = by_python(python_driver(version), published)
    expected = by_python("", published)
    assert told.pop("version") == version
    assert expected.pop("version") == duckdb.__version__
    assert len(expected["tables"]) > 10
    assert all(comment for *_, comment in (*told["tables"], *told["columns"]))
    assert told == expected
