"""What the browser tests and the README's pictures share: a demo of its own, its Dagster UI, and Chromium."""

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import tenacity

from credits_pipeline.config import PROJECT_ROOT

if TYPE_CHECKING:
    from playwright.sync_api import Browser

# What the program needs to run: a copy of these is a checkout of its own.
CHECKOUT = ("credits_pipeline", "dbt_like_sql", "workspace.yaml", "pyproject.toml")

# No screen, no root's sandbox, and none of the calls home that a Chromium makes at its start.
CHROMIUM_FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
)

# The demo takes 40 s of one quiet core, and its machine may be busy.
DEMO_LIMIT_S = 600
# A start of Dagster's processes and a run each take 10 s on quiet cores, 40 s were seen on busy ones.
PATIENCE_S = 120
# Dagster's processes end one after another, the last one 13 s after Ctrl-C on a busy machine.
GOODBYE_S = 60


def demo(folder: Path) -> Path:
    """A copy of this checkout in `folder` with `make demo` done in it; its root.

    In a copy, because the demo begins by wiping `data/demo`, which may be somebody's who is looking at it.
    """
    for name in CHECKOUT:
        source, target = PROJECT_ROOT / name, folder / name
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", "target", "logs"))
        else:
            shutil.copyfile(source, target)
    command = [sys.executable, "-m", "credits_pipeline", "demo"]
    done = subprocess.run(
        command, cwd=folder, env=environment(folder), capture_output=True, text=True, timeout=DEMO_LIMIT_S
    )
    if done.returncode != 0:
        raise RuntimeError(f"the demo failed:\n{done.stdout}{done.stderr}")
    return folder


@contextmanager
def user_interface(root: Path) -> Iterator[str]:
    """The Dagster UI of the demo in `root`, started as `make demo-ui` does and ended as Ctrl-C does; its address."""
    port = free_port()
    log = root / "ui.log"
    command = [sys.executable, "-m", "credits_pipeline", "dev", "--demo", "--port", str(port)]
    with log.open("w", encoding="utf-8") as out:
        process = subprocess.Popen(
            command, cwd=root, env=environment(root), stdout=out, stderr=subprocess.STDOUT,
            start_new_session=True,  # a process group of its own, which Ctrl-C reaches as a whole
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's "&" ignores it
        )  # fmt: skip
    try:
        address = f"http://127.0.0.1:{port}"
        wait_until_it_answers(address, process, log)
        yield address
    finally:
        press_ctrl_c(process)


def environment(root: Path) -> dict[str, str]:
    """Of a process that runs the checkout in `root`, wherever it changes its directory to."""
    return {**os.environ, "PYTHONPATH": str(root)}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until_it_answers(address: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    for attempt in tenacity.Retrying(
        stop=tenacity.stop_after_delay(PATIENCE_S),
        wait=tenacity.wait_fixed(0.5),
        retry=tenacity.retry_if_exception_type(httpx.TransportError),
        reraise=True,
    ):
        with attempt:
            if process.poll() is not None:
                raise RuntimeError(f"the UI ended by itself:\n{log.read_text(encoding='utf-8')}")
            httpx.get(f"{address}/server_info", timeout=5).raise_for_status()


def press_ctrl_c(process: "subprocess.Popen[bytes]") -> None:
    """End a process and its whole group; kill what is left of the group when its time is up."""
    with suppress(ProcessLookupError, subprocess.TimeoutExpired):
        os.killpg(process.pid, signal.SIGINT)
        process.wait(GOODBYE_S)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@contextmanager
def chromium() -> Iterator["Browser"]:
    """Debian's Chromium without a screen."""
    from playwright.sync_api import sync_playwright

    path = shutil.which("chromium")
    if path is None:
        raise RuntimeError("Chromium is missing: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(CHROMIUM_FLAGS))
        try:
            yield browser
        finally:
            browser.close()
