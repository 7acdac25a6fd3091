"""The key is in no file, no message and no log, however a run ends; what is written about money is private."""

import os
import re
import sqlite3
import stat
import unicodedata
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import dagster as dg
import duckdb
import pytest

from credits_pipeline.__main__ import main
from credits_pipeline.config import PROJECT_ROOT
from credits_pipeline.simulator import SimulatedAccount
from credits_pipeline_tests.children import Children, Ended
from credits_pipeline_tests.faulty import Fault, FaultyAPI

NOW = datetime(2026, 6, 17, 0, 5, tzinfo=UTC)

# How each account's requests end; `{key}`: the server repeats the key that it was sent.
ENDS: dict[str, Callable[[str, str], Fault]] = {
    "unknown": lambda key, _: Fault.status(401, message=f"no such key: {key}"),
    "forbidden": lambda key, _: Fault.status(403, message=f"Bearer {key} may not"),
    "broken": lambda key, _: Fault.status(500, message=key),
    "reset": lambda *_: Fault.reset(),
    "html": lambda key, _: Fault.body(f"<html>{key}</html>".encode()),
    "moved": lambda key, elsewhere: Fault.redirect(f"{elsewhere}/credits?key={key}"),
    "torn": lambda *_: Fault.truncated_body(),
    "painted": lambda key, _: Fault.status(400, message=f"\x1b[31m\x1b]0;title\x07\x9b2J\u202e{key}\x1b[0m\r\n"),
}


def key_of(name: str) -> str:
    """Every key different, and as long as a real one."""
    return f"sk-or-v1-{name}+/=&?{name[::-1] * 8}"


def account(name: str) -> SimulatedAccount:
    ledger = {date(2026, 6, 10) + timedelta(days=n): {"vendor/model": Decimal("1.5")} for n in range(9)}
    return SimulatedAccount.from_ledger(
        name, key_of(name), days=ledger, credits=[(datetime(2026, 6, 10, tzinfo=UTC), Decimal(100))]
    )


@dataclass(frozen=True)
class Scene:
    """Two runs, with everything that is logged at DEBUG on stderr: one where all fails, one where all goes well."""

    root: Path
    failing: Ended
    healthy: Ended
    elsewhere: FaultyAPI


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    root = tmp_path_factory.mktemp("scene")
    before = os.umask(0o022)  # as most machines have it
    try:
        with (
            Children() as children,
            FaultyAPI([account(name) for name in ENDS], now=lambda: NOW) as api,
            FaultyAPI([], now=lambda: NOW) as elsewhere,
        ):
            environ = {
                **{name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ},
                **api.environment(),
                "CREDITS_DATA_DIR": str(root / "data"),
                "CREDITS_START_DATE": "2026-06-14",
                "DAGSTER_HOME": str(root / "home"),
            }
            for name, end in ENDS.items():
                api.misbehave(end(key_of(name), elsewhere.base_url), times=None, account=name)
            told = {"environ": environ, "folder": root / "output", "now": NOW, "debug": True}
            failing = children.run(["run"], **told)
            api.behave()
            healthy = children.run(["run"], **told)
            assert children.run(["backup"], **told).returncode == 0
            yield Scene(root, failing, healthy, elsewhere)
    finally:
        os.umask(before)


def blobs(file: Path) -> Iterator[bytes]:
    """What a file says, and what its compressed parts say: Dagster's databases, ours, and Parquet."""
    yield file.read_bytes()
    if file.suffix in {".duckdb", ".parquet"}:
        with duckdb.connect(
            file if file.suffix == ".duckdb" else ":memory:", read_only=file.suffix == ".duckdb"
        ) as ours:
            tables = [f"'{file}'"]
            if file.suffix == ".duckdb":
                named = 'select format(\'"{}"."{}"\', schema_name, table_name) from duckdb_tables()'
                tables = [name for (name,) in ours.execute(named).fetchall()]
            for table in tables:
                yield "\n".join(str(v) for row in ours.execute(f"from {table}").fetchall() for v in row).encode()
    if file.suffix == ".db":
        with sqlite3.connect(file) as con:
            for (table,) in con.execute("select name from sqlite_master where type = 'table'").fetchall():
                for row in con.execute(f'select * from "{table}"'):
                    for value in row:
                        if isinstance(value, bytes):
                            yield zlib.decompress(value) if value[:1] == b"\x78" else value
        con.close()


def test_both_runs_ended_as_meant(scene):
    assert scene.failing.returncode == 1
    for name in ENDS:
        assert f"{name}: " in scene.failing.stderr
    assert scene.healthy.returncode == 0, scene.healthy.stderr
    assert "DEBUG" in scene.failing.stderr, "every log is among what is searched"
    assert "Traceback" not in scene.failing.stderr


def test_no_key_is_in_any_file_log_or_output(scene):
    files = [path for path in scene.root.rglob("*") if path.is_file()]
    names = {path.name for path in files}
    assert {"warehouse.duckdb", "credits.duckdb", "report.html", "index.db", "runs.db"} <= names
    assert "credits_snapshots.parquet" in names
    assert {".out", ".err", ".db"} <= {path.suffix for path in files}
    assert not [name for name in names if name.endswith("-wal")], "a copy of Dagster's files is a copy of its history"
    contents = [(path, content) for path in files for content in blobs(path)]
    assert len(contents) > len(files), "the compressed parts were read as well"
    for path, content in contents:
        assert not [name for name in ENDS if key_of(name).encode() in content], path


def test_a_redirect_takes_the_key_nowhere(scene):
    assert scene.elsewhere.requests == []


def test_what_a_server_says_moves_no_cursor_and_paints_nothing_on_a_terminal(scene):
    shown = scene.failing.stdout + scene.failing.stderr + scene.healthy.stdout + scene.healthy.stderr
    assert "[31m" in shown, "the server's words are among what is shown, without what makes them a command"
    hidden = {c for c in shown if unicodedata.category(c) in {"Cc", "Cf"}}
    assert hidden <= {"\n"}


def test_what_is_written_about_money_is_private_and_only_the_published_copy_is_for_all(scene):
    for path in (scene.root / "data", scene.root / "home"):
        for one in (path, *path.rglob("*")):
            mode = stat.S_IMODE(one.stat().st_mode)
            is_for_all = one.parent.name.startswith(".parquet.") or one.name in {"credits.duckdb", "metrics.prom"}
            folder = 0o755 if "parquet" in one.name else 0o700
            expected = folder if one.is_dir() else 0o444 if is_for_all else 0o600
            assert mode == expected, f"{one}: {mode:o}"


def test_the_configuration_that_the_ui_shows_holds_no_key(monkeypatch):
    from credits_pipeline.definitions import defs

    monkeypatch.setenv("OPENROUTER_API_KEY", key_of("shown"))
    for name in ("daily_credits", "backfill_history", "rebuild"):
        shown = dg.serialize_value(defs.resolve_job_def(name).get_job_snapshot()).encode()
        assert b"read_timeout_s" in shown or name == "rebuild", "the resource's settings are in it"
        assert key_of("shown").encode() not in shown


def test_security_md_names_only_make_targets_and_variables_that_exist():
    page = (PROJECT_ROOT / "SECURITY.md").read_text(encoding="utf-8")
    makefile = (PROJECT_ROOT / "Makefile").read_text(encoding="utf-8")
    named = set(re.findall(r"`make (?:-C \S+ )?([a-z-]+)", page))
    assert named
    assert named <= set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    package = (PROJECT_ROOT / "credits_pipeline").rglob("*.py")
    code = "".join(path.read_text(encoding="utf-8") for path in package)
    for variable in re.findall(r"`((?:OPENROUTER|CREDITS)_[A-Z_]+)", page):
        assert variable in code, f"SECURITY.md names {variable}, which nothing reads"


def test_a_dotenv_that_others_can_read_is_said_by_every_command(tmp_path, monkeypatch, capsys):
    dotenv = tmp_path / ".env"
    dotenv.write_text(f"OPENROUTER_API_KEY={key_of('dotenv')}\n", encoding="utf-8")
    dotenv.chmod(0o644)
    monkeypatch.setenv("CREDITS_ENV_FILE", str(dotenv))
    monkeypatch.setenv("CREDITS_DATA_DIR", str(tmp_path / "data"))
    assert main(["backup"]) == 1
    said = capsys.readouterr().err
    assert f"chmod 600 {dotenv}" in said
    assert key_of("dotenv") not in said
