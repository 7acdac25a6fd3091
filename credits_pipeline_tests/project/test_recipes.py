"""The recipes of docs/bi-tools.md, run as they stand there: pandas always, the other tools under `make test-all`."""

import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
from decimal import Decimal
from pathlib import Path

import duckdb
import pytest
import yaml

from credits_pipeline.config import PROJECT_ROOT
from credits_pipeline_tests.published_history import History
from credits_pipeline_tests.warehouse.test_drivers import NODE_DRIVERS, node_driver

PAGE = PROJECT_ROOT / "docs" / "bi-tools.md"
RECIPES = dict(re.findall(r"<!-- run: ([\w ]+) -->\n```\w+\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL))

TOOLS = PROJECT_ROOT / ".venv-recipes"
PINNED = (
    "duckdb==1.5.6", "harlequin==2.17.0", "ipykernel==7.4.0", "nbclient==0.11.0", "nbformat==5.11.1",
    "pandas==3.0.0", "polars==2.1.0", "pyarrow==26.0.1",
)  # fmt: skip

# The cell comes in, what the notebook shows below it goes out.
RUN_NOTEBOOK = """
    import sys
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(sys.stdin.read())])
    NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    (output,) = notebook.cells[0].outputs
    print(output.data["text/plain"])
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with `data/credits.duckdb` in it, as a recipe's reader has it."""
    folder = tmp_path_factory.mktemp("home")
    history = History(folder / "data")
    history.run(days=30)
    return folder


@pytest.fixture
def spend(folder: Path) -> dict[str, Decimal]:
    with duckdb.connect(str(folder / "data" / "credits.duckdb"), read_only=True) as con:
        return dict(con.execute("select account, sum(spend_usd) from marts.daily_spend group by all").fetchall())


@pytest.fixture(scope="session")
def tools() -> Path:
    """The programs of an environment with the tools that are not ours, made once."""
    programs = TOOLS / "bin"
    mark = TOOLS / "installed"
    if not mark.exists() or mark.read_text(encoding="utf-8") != "\n".join(PINNED):
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(TOOLS)], check=True)
        pip = [str(programs / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, *PINNED], check=True)
        mark.write_text("\n".join(PINNED), encoding="utf-8")
    return programs


def run(*command: object, cwd: Path, stdin: str = "", home: Path | None = None) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    if home is not None:
        environment |= {"HOME": str(home), "PATH": f"{Path(str(command[0])).parent}:{environment['PATH']}"}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd, env=environment, input=stdin, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_every_recipe_of_the_page_is_known_here():
    assert set(RECIPES) == {"pandas", "plain pandas", "polars", "notebook", "harlequin", "evidence"}


@pytest.mark.parametrize("name", ["pandas", "plain pandas"])
def test_pandas_reads_exact_money(folder, spend, name, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    monkeypatch.setenv("CREDITS_DATA_DIR", str(folder / "data"))
    scope: dict[str, object] = {}
    exec(RECIPES[name], scope)
    frame = scope["spend"]
    assert str(frame.dtypes["spend_usd"]) == "decimal128(18, 9)[pyarrow]"  # type: ignore[attr-defined]
    sums = frame.groupby("account")["spend_usd"].sum()  # type: ignore[attr-defined]
    assert sums.to_dict() == spend
    printed = capsys.readouterr().out
    assert all(account in printed for account in spend)


@pytest.mark.heavy
def test_polars_reads_exact_money(folder, spend, tools):
    check = '\nprint(spend.schema["spend_usd"], spend["spend_usd"].sum())'
    out = run(tools / "python", "-c", RECIPES["polars"] + check, cwd=folder)
    assert "scale=9" in out.splitlines()[-1]
    assert out.splitlines()[-1].endswith(str(sum(spend.values())))


@pytest.mark.heavy
def test_a_notebook_shows_the_weeks(folder, tools):
    out = run(tools / "python", "-c", textwrap.dedent(RUN_NOTEBOOK), cwd=folder, stdin=RECIPES["notebook"], home=folder)
    assert "agents" in out
    assert "2026-01-05" in out


@pytest.mark.heavy
def test_harlequin_opens_it_read_only_and_shows_rows(folder, tools):
    *_, command = RECIPES["harlequin"].strip().splitlines()
    program, *arguments = command.split()
    # The same arguments to Harlequin's own command without a screen.
    asked = ["--json", "-c", "select run_id from marts.published"]
    assert program == "harlequin"
    rows = json.loads(run(tools / "hsql", *arguments, *asked, cwd=folder, home=folder))
    assert rows == [{"run_id": "run 2026-01-30"}]


@pytest.mark.heavy
@pytest.mark.parametrize("version", NODE_DRIVERS)
def test_evidence_finds_the_file_by_the_name_in_its_source(folder, version):
    source = folder / "my-evidence" / "sources" / "credits"
    source.mkdir(parents=True, exist_ok=True)
    (source / "connection.yaml").write_text(RECIPES["evidence"], encoding="utf-8")
    settings = yaml.safe_load(RECIPES["evidence"])
    assert settings["type"] == "duckdb"
    code = """
        const { testConnection, getRunner } = require('@evidence-dev/duckdb');
        (async () => {
            const [directory, options] = [process.argv[2], JSON.parse(process.argv[3])];
            const run = await getRunner(options, directory);
            const result = await run('select run_id from marts.published', 'published.sql');
            let rows = [];
            for await (const batch of result.rows()) rows = rows.concat(batch);
            console.log(JSON.stringify([await testConnection(options, directory), rows]));
        })();
    """
    home = node_driver(version)
    node = shutil.which("node")
    out = run(node, "-e", textwrap.dedent(code), "x", source, json.dumps(settings["options"]), cwd=home)
    assert json.loads(out) == [True, [{"run_id": "run 2026-01-30"}]]
