"""The daily run against a server that this project did not write: Prism, serving the vendor's own contract.

Prism answers with the contract's examples; `Prefer: code=403` picks another reply and `Prefer: dynamic=true` makes
values up, so a small proxy in front of it adds that header. Needs Node.js and npm, and installs Prism into .venv.
"""

import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import dagster as dg
import httpx
import pytest

from credits_pipeline.config import PROJECT_ROOT
from credits_pipeline.simulator import SimulatedAccount
from credits_pipeline.simulator.replies import Request
from credits_pipeline_tests.conftest import TODAY
from credits_pipeline_tests.defs.test_daily_run import failures, raw_readings
from credits_pipeline_tests.faulty import FaultyAPI, Spoiled
from credits_pipeline_tests.ui import free_port

PRISM = "@stoplight/prism-cli@5.16.0"
CONTRACT = Path(__file__).parent.parent / "contract" / "openrouter.openapi.yaml"

pytestmark = pytest.mark.heavy


@pytest.fixture(scope="module")
def prism() -> Iterator[str]:
    folder = PROJECT_ROOT / ".venv" / "prism"
    program = folder / "node_modules" / ".bin" / "prism"
    if not program.exists():
        npm = shutil.which("npm")
        assert npm, "npm is missing: install Node.js (Debian: apt-get install nodejs npm)"
        subprocess.run([npm, "install", "--silent", "--no-audit", "--prefix", folder, PRISM], check=True)
    port = free_port()
    with subprocess.Popen(
        [program, "mock", "--port", str(port), CONTRACT], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as server:
        assert server.stdout
        for line in server.stdout:
            if b"is listening" in line:
                break
        threading.Thread(target=server.stdout.read, daemon=True).start()
        yield f"http://127.0.0.1:{port}"
        server.terminate()


@pytest.fixture
def prefer(prism: str, simulate: Callable[..., FaultyAPI], monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Say which replies Prism is to give; a server whose clock agrees with the frozen one passes them on."""
    wanted = {"Authorization": "Bearer any", "Prefer": ""}

    def answer(request: Request) -> Spoiled:
        asked = {"json" if request.method == "POST" else "params": request.body}
        reply = httpx.request(request.method, prism + request.path, headers=wanted, **asked)
        return Spoiled(None, reply.status_code, body=reply.content)

    monkeypatch.setattr(simulate(SimulatedAccount("default", "sk-or-v1-any", anchor=TODAY)), "answer", answer)
    return lambda text: wanted.update(Prefer=text)


def test_the_daily_run_takes_the_contracts_own_example(prefer, run_job):
    result = run_job("daily_credits")
    assert [(str(row[3]), str(row[4])) for row in raw_readings()] == [("100.500000000", "25.750000000")]
    # The example's one analytics row is of another year and is not ours to keep.
    assert failures(result) == {}


@pytest.mark.parametrize(
    ("code", "sentence"), [("401", "key"), ("403", "Only management keys"), ("500", "run again later")]
)
def test_the_contracts_errors_end_the_run_with_one_sentence(prefer, run_job, code, sentence):
    prefer(f"code={code}")
    result = run_job("daily_credits")
    assert sentence in failures(result)["credits_snapshots"]
    assert raw_readings() == []


def test_made_up_values_are_stored_when_believable_and_refused_in_a_sentence_when_not(prefer, run_job):
    prefer("dynamic=true")
    stored = 0
    for _ in range(5):
        result = run_job("daily_credits", asset_selection=[dg.AssetKey("credits_snapshots")])
        stored += result.success
        assert "\n" not in "".join(failures(result).values())
    assert len(raw_readings()) == stored
