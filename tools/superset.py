"""`make superset`: Apache Superset on loopback, with the dashboard of tools/superset_dashboard on the published copy.

The dashboard's files are what `superset export-dashboards` writes, with two liberties: a name may stand for a UUID, and
datasets get their columns here, from the copy itself, as does every mart that has no file. Superset keeps all it knows
in a directory that is removed when it stops, opens the copy read-only, and sees none of our variables.
"""

# ruff: noqa: S603 - only programs installed here are started

import argparse
import os
import re
import secrets
import signal
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import NAMESPACE_OID, uuid5

import duckdb
import yaml

ROOT = Path(__file__).resolve().parent.parent
DASHBOARD = ROOT / "tools" / "superset_dashboard"
PROGRAMS = Path(os.environ.get("SUPERSET_VENV", ROOT / ".venv-superset")) / "bin"
PAGE = "/superset/dashboard/llm-credits/"
SETTINGS = """
SECRET_KEY = {secret!r}
SQLALCHEMY_DATABASE_URI = "sqlite:///{home}/superset.db?check_same_thread=false"
TALISMAN_ENABLED = False  # its https rules make no sense on loopback
RATELIMIT_ENABLED = False
APP_NAME = "LLM credits"
"""
# The published copy of a lake is views over files beside it: these may be read, and no others.
LAKE_SETTINGS = """
from contextlib import suppress

import duckdb
import sqlalchemy

@sqlalchemy.event.listens_for(sqlalchemy.engine.Engine, "connect")
def read_the_lake_only(connection, _):
    if type(connection).__module__.startswith("duckdb_engine"):
        with suppress(duckdb.InvalidInputException):  # another connection was first
            connection.execute("set allowed_directories = [{folder!r}]")
        connection.execute("set enable_external_access = false")
"""


def bundle(file: Path, target: Path) -> None:
    """Write the zip that `superset import-dashboards` takes, with `file` as the dashboard's database."""
    texts = {path.relative_to(DASHBOARD): path.read_text("utf-8") for path in DASHBOARD.rglob("*.yaml")}
    datasets = {path: yaml.safe_load(text) for path, text in texts.items() if path.parts[0] == "datasets"}
    described = {dataset["table_name"] for dataset in datasets.values()}
    with duckdb.connect(str(file), read_only=True) as con:
        marts = """
            select table_name, comment from duckdb_tables() where schema_name = 'marts'
            union all
            select view_name, comment from duckdb_views() where schema_name = 'marts'
        """
        for table, comment in con.execute(marts).fetchall():
            if table not in described:
                datasets[Path(f"datasets/{table}.yaml")] = {"table_name": table, "description": comment}
        words = dict(con.execute("select (table_name, column_name), comment from duckdb_columns()").fetchall())
        for path, dataset in datasets.items():
            table = dataset["table_name"]
            columns = [
                {"column_name": name, "type": kind, "is_dttm": kind in ("DATE", "TIMESTAMP"), "groupby": True,
                 "filterable": True, "description": words.get((table, name))}
                for name, kind, *_ in con.execute(f"describe {dataset.get('sql') or f'from marts.{table}'}").fetchall()
            ]  # fmt: skip
            defaults = {"schema": "marts", "uuid": table, "database_uuid": "llm_credits", "version": "1.0.0"}
            texts[path] = yaml.safe_dump({**defaults, "columns": columns, **dataset})
        in_lake = bool(lake_folder(con))
        simulated = con.execute("select is_simulated from marts.published").fetchone() == (True,)
    with zipfile.ZipFile(target, "w") as archive:
        for path, text in texts.items():
            text = text.replace("/path/to/credits.duckdb", str(file.resolve()))
            text = text.replace("enable_external_access: 'false'", "{}") if in_lake else text
            text = text.replace("spend and runway", "spend and runway (simulated)") if simulated else text
            text = re.sub(r"(?i)(?<=uuid: )\w+\b(?!-)", lambda name: str(uuid5(NAMESPACE_OID, name[0])), text)
            archive.writestr(f"dashboard/{path}", text)


def lake_folder(con: duckdb.DuckDBPyConnection) -> str | None:
    """Below which all files are that the views of the published copy read; None where it has tables."""
    views = con.execute("select sql from duckdb_views() where schema_name = 'marts'").fetchall()
    files = [file for (sql,) in views for file in re.findall(r"'([^']+\.parquet)'", sql)]
    return str(Path(os.path.commonpath(files))) if files else None


@contextmanager
def running(file: Path, port: int) -> Iterator[tuple["subprocess.Popen[bytes]", str]]:
    """Superset, started on `port` of loopback, and the password of its one user, `admin`."""
    password = secrets.token_urlsafe(12)
    with tempfile.TemporaryDirectory(prefix="superset-") as home, Path(home, "log").open("wb") as log:
        settings = SETTINGS.format(secret=secrets.token_urlsafe(42), home=home)
        with duckdb.connect(str(file), read_only=True) as con:
            settings += LAKE_SETTINGS.format(folder=folder) if (folder := lake_folder(con)) else ""
        Path(home, "superset_config.py").write_text(settings)
        bundle(file, Path(home, "dashboard.zip"))
        ours = ("OPENROUTER_", "CREDITS_", "DAGSTER_", "PYTHONPATH")
        env = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        env |= {"SUPERSET_HOME": home, "SUPERSET_CONFIG_PATH": f"{home}/superset_config.py", "FLASK_APP": "superset"}
        for command in (
            "db upgrade",
            f"fab create-admin --username admin --firstname A --lastname Dmin --email a@b --password={password}",
            "init",
            f"import-dashboards --username admin --path {home}/dashboard.zip",
        ):
            if subprocess.run([PROGRAMS / "superset", *command.split()], env=env, stdout=log, stderr=log).returncode:
                sys.exit(
                    f"superset {command.split()[0]} failed:\n{Path(home, 'log').read_text(errors='replace')[-3000:]}"
                )
        serve = f"--worker-class gthread --threads 8 --timeout 300 --no-control-socket --bind 127.0.0.1:{port}"
        web = [PROGRAMS / "gunicorn", *serve.split(), "superset.app:create_app()"]
        with subprocess.Popen(web, env=env, stdout=log, stderr=log) as server:
            try:
                yield server, password
            finally:
                server.terminate()


def main() -> None:
    options = argparse.ArgumentParser(description="Apache Superset with a dashboard on the published copy")
    options.add_argument("--file", type=Path, help="the published copy (default: data's, else the demo's)")
    options.add_argument("--port", type=int, default=8088)
    given = options.parse_args()
    own, demo = ROOT / "data" / "credits.duckdb", ROOT / "data" / "demo" / "credits.duckdb"
    file = given.file or (own if own.exists() else demo)
    if not file.exists():
        sys.exit(f"There is no {file}: run `make run` or `make demo` first.")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # cleans up as Ctrl-C does
    print("Preparing Superset (a minute or two) …", flush=True)
    with suppress(KeyboardInterrupt), running(file, given.port) as (server, password):
        print(f"Superset shows {file}\n  http://127.0.0.1:{given.port}{PAGE}\n  user admin, password {password}")
        print("Press Ctrl-C to stop it; it forgets everything then.", flush=True)
        server.wait()


if __name__ == "__main__":
    main()
