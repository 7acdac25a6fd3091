"""The daily run against a server that this project did not write: Prism, serving the vendor's own contract.

Prism answers with the contract's examples; `Prefer: code=403` picks another reply and `Prefer: dynamic=true` makes
values up, so a small proxy in front of it adds that header. Needs Node.js and npm, and installs Prism into .venv.
"""

import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from time import monotonic

import dagster as dg
import httpx
import pytest

from credits_pipeline import clock
from credits_pipeline.config import PROJECT_ROOT
from credits_pipeline_tests.defs.test_daily_run import failures, raw_readings
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
def prefer(
    prism: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, now: clock.FrozenClock
) -> Iterator[Callable[[str], None]]:
    """Say which replies Prism is to give; the pipeline's environment points at it."""
    wanted = {"Prefer": ""}

    class Proxy(BaseHTTPRequestHandler):
        def forward(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            headers = {"authorization": self.headers["authorization"], "content-type": "application/json", **wanted}
            path = self.path.removeprefix("/api/v1")
            reply = httpx.request(self.command, prism + path, headers=headers, content=body or None)
            self.send_response(reply.status_code)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(reply.content)))
            self.end_headers()
            self.wfile.write(reply.content)

        do_GET = do_POST = forward

        def date_time_string(self, timestamp: float | None = None) -> str:
            return format_datetime(clock.now(), usegmt=True)  # a server whose clock agrees with the frozen one

        def log_message(self, *_: object) -> None:
            """Quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Proxy) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        monkeypatch.setenv("OPENROUTER_BASE_URL", f"http://127.0.0.1:{server.server_address[1]}/api/v1")
        monkeypatch.setenv("OPENROUTER_ALLOW_CUSTOM_HOST", "1")
        monkeypatch.setenv("OPENROUTER_API_KEY", "sk-or-v1-any")
        monkeypatch.setenv("CREDITS_DATA_DIR", str(tmp_path / "data"))
        yield lambda text: wanted.update(Prefer=text)
        server.shutdown()
        thread.join()


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
    started, stored, refused = monotonic(), 0, 0
    for _ in range(5):
        result = run_job("daily_credits", asset_selection=[dg.AssetKey("credits_snapshots")])
        stored += result.success
        refused += not result.success
        for sentence in failures(result).values():
            assert "\n" not in sentence
    assert len(raw_readings()) == stored
    assert stored + refused == 5
    assert monotonic() - started < 120
