"""The command line, as a person types it: `python -m credits_pipeline …`."""

import os
import shlex
import shutil
import socket
import sqlite3
import subprocess
import sys
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import filelock
import pytest

from credits_pipeline import clock, config, launch
from credits_pipeline.__main__ import main
from credits_pipeline.simulator import readings, write_readings
from credits_pipeline.warehouse import Warehouse
from credits_pipeline_tests.conftest import TODAY
from credits_pipeline_tests.defs.test_daily_run import raw, spender
from credits_pipeline_tests.faulty import Fault


@pytest.mark.slow
def test_the_first_run_fetches_the_year_before_and_gives_an_answer(simulate, capsys):
    api = simulate(spender(days=60))
    assert main(["run"]) == 0
    said = capsys.readouterr().out
    assert "Credits last until about" in said
    assert "80\u00a0% sure" in said
    assert "SIMULATED DATA" in said
    assert len(raw("from raw.model_usage_days")) == 366
    queries = [request.path for request in api.requests]
    assert sorted(queries) == ["/analytics/query"] * 4 + ["/credits", "/keys", "/workspaces"]
    assert main(["run"]) == 0  # a day later there is nothing left to fetch but the daily run's own days
    assert [request.path for request in api.requests].count("/analytics/query") == 4 + 2
    assert (config.current().data_dir / "dagster" / "dagster.yaml").exists()


@pytest.mark.parametrize(
    ("command", "variables", "said"),
    [
        (["run"], {}, "error: OPENROUTER_API_KEY is not set: create a management key under "
                      "https://openrouter.ai/settings/management-keys and put it in .env or the environment"),
        (["answer"], {}, "make run"),
        *((command, {"CREDITS_DATA_DIR": "~nobody-of-that-name/data"}, "error: CREDITS_DATA_DIR")
          for command in (["answer"], ["backup"], ["restore", "x"], ["import", "x.csv"])),
        *((["run"], {"OPENROUTER_API_KEY": "k", "DAGSTER_HOME": home}, "error: D")
          for home in ("/tmp/50%20", "/tmp/[team] credits", "~nobody-of-that-name/x")),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_in_one_line_with_what_to_do(monkeypatch, capsys, tmp_path, command, variables, said):
    """No other data directory and no other history takes the place of a wrong one."""
    monkeypatch.setenv("CREDITS_DATA_DIR", str(tmp_path / "data"))
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert main(command) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert said in line


@pytest.mark.slow
def test_a_failing_run_names_each_failure_in_a_sentence_and_exits_with_1(simulate, capsys):
    api = simulate(spender(), spender("acme"))
    api.misbehave(Fault.status(401), times=None, account="acme", path="/credits")
    assert main(["run"]) == 1
    captured = capsys.readouterr()
    errors = [line for line in captured.err.splitlines() if line.startswith("failed:")]
    assert len(errors) == 1
    assert "acme" in errors[0]
    assert "OPENROUTER_API_KEY_ACME" in errors[0]
    assert "Traceback" not in captured.err
    assert "default, as of" in captured.out


def test_a_backfill_of_a_range_fetches_that_range(simulate, capsys):
    simulate(spender())
    assert main(["backfill", "--from", "2026-06-01", "--to", "2026-06-10"]) == 0
    assert len(raw("from raw.model_usage_days")) == 10
    assert "Fetching what was billed from 2026-06-01 to 2026-06-10" in capsys.readouterr().out


def test_readings_logged_earlier_become_history(simulate, capsys, tmp_path):
    account = spender()
    simulate(account)
    file = tmp_path / "readings.csv"
    written = write_readings(file, readings(account, TODAY.replace(day=1), TODAY))
    assert main(["import", str(file), "--account", "default"]) == 0
    assert f"{written} readings appended to default" in capsys.readouterr().out
    assert main(["answer"]) == 0
    assert "Credits last until about" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize(
    "shell", ["{} | true; exit ${{PIPESTATUS[0]}}", "{} > /dev/full", "PYTHONIOENCODING=latin-1 {}"]
)
def test_what_stdout_cannot_take_costs_no_reading(simulate, shell):
    """A closed pipe, a full disk, an old terminal."""
    if "/dev/full" in shell and not Path("/dev/full").exists():
        pytest.skip("NOT TESTED: this machine has no /dev/full")
    simulate(spender())
    script = (
        "import sys; from datetime import datetime, UTC; from credits_pipeline import __main__, clock\n"
        f"with clock.frozen(datetime.fromisoformat({clock.now().isoformat()!r})): sys.exit(__main__.main(['run']))"
    )
    command = shell.format(shlex.join([sys.executable, "-c", script]))
    done = subprocess.run(["bash", "-c", command], capture_output=True)
    assert done.returncode == 0, done.stderr
    assert b"Traceback" not in done.stderr
    assert "default" in Warehouse(config.current().warehouse_path).read_at()


def test_a_files_name_is_never_run_as_shell(tmp_path):
    name = str(tmp_path / "log`touch PWNED`$(touch PWNED)';touch PWNED;'.csv")
    command = ["make", "-s", "-C", str(config.PROJECT_ROOT), "-o", ".venv/installed", "RUN=printf '%s|'"]
    for target, variable in (("import", "FILE"), ("restore", "FROM"), ("backup", "TO")):
        doubled = name.replace("$", "$$")  # for make itself
        make = [*command, target, f"{variable}={doubled}"]
        done = subprocess.run(make, check=True, capture_output=True, text=True, cwd=tmp_path)
        assert name in done.stdout.split("|")
    assert not list(tmp_path.glob("PWNED"))
    assert not (config.PROJECT_ROOT / "PWNED").exists()


def test_a_demo_does_not_remove_the_data_of_one_that_is_shown(monkeypatch, capsys, tmp_path):
    from credits_pipeline import demo

    data = tmp_path / "data" / "demo"
    data.mkdir(parents=True)
    (data / "anchor").write_text(clock.today().isoformat(), encoding="utf-8")
    monkeypatch.setattr(demo, "DATA_DIR", data)
    monkeypatch.setattr(demo, "ANCHOR_FILE", data / "anchor")

    def while_shown(*_: object) -> int:
        assert main(["demo"]) == 1
        return 0

    monkeypatch.setattr("credits_pipeline.launch.user_interface", while_shown)
    assert main(["dev", "--demo"]) == 0
    assert "another demo, or its UI, is running" in capsys.readouterr().err
    assert (data / "anchor").exists()


def test_the_demo_shares_no_key_no_channel_no_data_and_no_history_with_the_user(monkeypatch, tmp_path):
    from credits_pipeline import demo

    monkeypatch.setattr(demo, "ANCHOR_FILE", tmp_path / "anchor")
    (tmp_path / "anchor").write_text(clock.today().isoformat(), encoding="utf-8")
    monkeypatch.setenv("OPENROUTER_API_KEY_ACME", "sk-or-v1-real")
    monkeypatch.setenv("CREDITS_ALERT_URLS", "json://127.0.0.1:9/real")
    for name in ("CREDITS_DATA_DIR", "DAGSTER_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "the user's"))
    with demo.simulated_environment():
        settings = config.current()
        assert "sk-or-v1-real" not in {account.key for account in settings.accounts}
        assert (settings.alert_urls, settings.is_simulated) == ((), True)
        assert settings.data_dir == settings.dagster_home.parent == demo.DATA_DIR
    assert os.environ["OPENROUTER_API_KEY_ACME"] == "sk-or-v1-real"


def test_a_range_or_an_account_that_nobody_knows_is_refused_in_one_line(simulate, tmp_path, capsys):
    simulate(spender("acme"))
    for first, last in (("2020-01-01", "2020-01-03"), ("2026-06-10", "2026-06-01")):
        assert main(["backfill", "--from", first, "--to", last]) == 1
        (error,) = capsys.readouterr().err.splitlines()
        assert all(words in error for words in ("2025-06-17 to 2026-06-17", "the earlier day first"))
    file = tmp_path / "readings.csv"
    file.write_text("time,total_credits,total_usage\n2026-06-01T00:05:00Z,25,5\n", encoding="utf-8")
    assert main(["import", str(file), "--account", "acmee"]) == 1
    assert "there is no account 'acmee': name one of acme, default" in capsys.readouterr().err
    assert "acmee" not in Warehouse(config.current().warehouse_path).read_at()


def test_a_second_ui_and_a_taken_port_are_refused_in_one_line(simulate, capsys):
    simulate(spender())
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert main(["dev", "--port", f"{taken.getsockname()[1]}"]) == 1
    assert "is taken by another program: name a free one" in capsys.readouterr().err
    home = launch.instance.dagster_home(config.current())
    with filelock.FileLock(home / "dev.lock"):
        assert main(["dev"]) == 1
    assert f"a Dagster UI is already running on {home}" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("how", ["begin exclusive", "pragma locking_mode = exclusive; begin exclusive"])
def test_a_history_that_another_program_holds_costs_no_reading(simulate, capsys, monkeypatch, how):
    simulate(spender())
    monkeypatch.setattr("credits_pipeline.launch.history.BUSY_TIMEOUT_S", 0.5)
    with launch.open_instance(config.current()):
        pass
    index = config.current().dagster_home / "history" / "runs" / "index.db"
    with closing(sqlite3.connect(index, isolation_level=None)) as other:
        for statement in how.split(";"):
            other.execute(statement)
        other.execute("select count(*) from sqlite_master").fetchall()
        assert main(["run"]) == 0
    said = capsys.readouterr().err
    assert "is held by another program" in said
    assert "free some space" not in said
    assert "default" in Warehouse(config.current().warehouse_path).read_at()


def test_paths_on_the_command_line_may_begin_with_a_tilde(simulate, capsys, tmp_path, monkeypatch):
    """As in `make backup TO=~/backups`, where no shell replaces it."""
    simulate(spender())
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "log.csv").write_text("time,total_credits,total_usage\n2026-06-01T00:05:00Z,25,5\n", encoding="utf-8")
    assert main(["import", "~/log.csv"]) == 0
    assert main(["backup", "~/backups"]) == 0
    (made,) = (tmp_path / "backups").iterdir()
    assert main(["restore", f"~/backups/{made.name}"]) == 0
    assert main(["restore", "~nobody-of-that-name/x"]) == 1
    assert "the path must be a path: the ~user in it is unknown" in capsys.readouterr().err


def test_a_renamed_account_keeps_its_history_under_its_new_name(simulate, capsys, monkeypatch):
    simulate(spender("acme"))
    assert main(["backfill", "--from", "2026-06-10", "--to", "2026-06-12"]) == 0
    monkeypatch.setenv("OPENROUTER_API_KEY_ACME_EU", os.environ["OPENROUTER_API_KEY_ACME"])
    assert main(["rename", "ACME", "ACME_EU"]) == 0
    assert "OPENROUTER_API_KEY_ACME still holds a key: rename it too" in capsys.readouterr().err
    assert raw("select distinct account from raw.model_usage_days") == [("acme_eu",)]
    assert main(["rename", "acme", "no name"]) == 1
    assert "does not name an account" in capsys.readouterr().err


def test_a_clock_that_was_never_set_is_said_in_one_line(simulate, capsys):
    simulate(spender())
    with clock.frozen(datetime(1970, 1, 1, 0, 5, tzinfo=UTC)):
        assert main(["run"]) == 1
    (said,) = capsys.readouterr().err.splitlines()
    assert said == "error: this machine's clock says 1970-01-01: set it right, then run this again"


@pytest.mark.slow
def test_a_virtual_environment_that_lost_its_python_or_was_never_finished_is_made_anew(tmp_path):
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        shutil.copy(config.PROJECT_ROOT / name, tmp_path)

    def make() -> str:
        command = ["make", "-s", "-C", str(tmp_path), f"PYTHON={sys._base_executable}", "RUN=true", "run"]
        return subprocess.run([*command, "INSTALL=true"], check=True, capture_output=True, text=True).stdout

    assert "Setting up .venv" in make()
    assert make() == ""
    venv = tmp_path / ".venv"
    (venv / "bin" / "python").unlink()
    (venv / "bin" / "python").symlink_to("/nowhere/python3")
    assert "making it anew" in make()
    next((venv / "lib").glob("python3*")).rename(venv / "lib" / "python3.10")  # another Python under the same name
    assert "making it anew" in make()
    (venv / "installed").unlink()
    shutil.rmtree(next((venv / "lib").glob("python3*")) / "site-packages" / "pip" / "_internal")
    assert "making it anew" in make()
    assert make() == ""
