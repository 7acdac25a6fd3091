"""The container image for real: built without a network, and run as compose.yaml does (`make test-image`).

By buildah, which needs no daemon and no registry: the base is a Debian of its own, made by mmdebstrap, and pip's wheels
are fetched beforehand. Both are kept in .venv-image.
"""

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
import tenacity
import yaml

from credits_pipeline.clock import today
from credits_pipeline.config import PROJECT_ROOT
from credits_pipeline.simulator import SimulatedAPI, demo_accounts
from credits_pipeline_tests.ui import DEMO_LIMIT_S, PATIENCE_S, free_port, press_ctrl_c

USER, KEPT = 10001, PROJECT_ROOT / ".venv-image"
BUILDAH = ("buildah", "--root", str(KEPT / "storage"), "--runroot", str(KEPT / "running"))
ENVIRONMENT = os.environ | {"BUILDAH_ISOLATION": "chroot", "STORAGE_DRIVER": "vfs"}
COMPOSE = yaml.safe_load((PROJECT_ROOT / "compose.yaml").read_text(encoding="utf-8"))
HEALTH = "{ instance { daemonHealth { allDaemonStatuses { daemonType healthy } } } }"
Run = Callable[..., "subprocess.Popen[str]"]


def buildah(*arguments: object) -> str:
    command = [*BUILDAH, *map(str, arguments)]
    done = subprocess.run(command, env=ENVIRONMENT, cwd=PROJECT_ROOT, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}:\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
    return done.stdout.strip()


def wheels() -> Path:
    """A folder of what requirements.lock names, for the Debian's Python."""
    lock = PROJECT_ROOT / "requirements.lock"
    folder = KEPT / f"wheels-{hashlib.sha256(lock.read_bytes()).hexdigest()[:12]}"
    if not folder.exists():
        pip = [sys.executable, "-m", "pip", "download", "-q", "--require-hashes", "--no-deps", "--only-binary", ":all:"]
        into = folder.with_suffix(".new")
        subprocess.run([*pip, "--python-version", "3.11", "-r", str(lock), "-d", str(into)], check=True)
        into.rename(folder)
    return folder


@pytest.fixture(scope="module")
def image() -> Iterator[str]:
    if missing := [tool for tool in ("buildah", "crun", "mmdebstrap") if not shutil.which(tool)]:
        pytest.skip(f"NOT BUILT: apt-get install {' '.join(missing)}")
    if os.getuid() != 0:
        pytest.skip("NOT BUILT: only root may make a Debian and give files to the image's user")
    KEPT.mkdir(exist_ok=True)
    tar, pip = KEPT / "base.tar", KEPT / "pip.conf"
    if not tar.exists():
        debian = ["mmdebstrap", "--quiet", "--variant=minbase", "--include=python3,python3-venv,ca-certificates"]
        subprocess.run([*debian, "bookworm", str(tar.with_suffix(".new.tar"))], check=True)
        tar.with_suffix(".new.tar").rename(tar)
    pip.write_text("[global]\nno-index = true\nfind-links = /wheels\n", encoding="utf-8")
    try:
        base = buildah("from", "scratch")
        buildah("add", base, tar, "/")
        buildah("commit", "--rm", base, "base")
        offline = ["--secret", f"id=pip.conf,src={pip}", "-v", f"{wheels()}:/wheels:ro"]
        buildah("bud", "--build-arg", "BASE=localhost/base", *offline, "-t", "credits_pipeline", ".")
        yield buildah("from", "credits_pipeline")
    finally:
        buildah("rm", "--all")
        buildah("rmi", "--all", "--force")


@pytest.fixture(scope="module")
def volume(tmp_path_factory: pytest.TempPathFactory, image: str) -> Path:
    """What a new volume gets: the image's own folder, with owner and modes."""
    folder = tmp_path_factory.mktemp("volume") / "data"
    subprocess.run(["cp", "-a", Path(buildah("mount", image)) / "app/data", folder], check=True)
    folder.parent.chmod(0o755)
    return folder


@pytest.fixture
def run(image: str, volume: Path) -> Run:
    """Start a command in the container, as its user, with the volume."""

    def start(*command: str, **variables: str) -> "subprocess.Popen[str]":
        options = [f"--env={name}={value}" for name, value in variables.items()] + ["-v", f"{volume}:/app/data"]
        return subprocess.Popen(
            [*BUILDAH, "run", *options, image, "--", *command], env=ENVIRONMENT, text=True, start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    return start


def output(process: "subprocess.Popen[str]") -> str:
    text, _ = process.communicate(timeout=DEMO_LIMIT_S)
    assert process.returncode == 0, text
    return text


@pytest.mark.heavy
def test_it_belongs_to_root_holds_the_program_only_and_runs_as_a_user_of_its_own(image, run):
    config = json.loads(buildah("inspect", "--type", "image", "credits_pipeline"))["OCIv1"]["config"]
    assert config["User"] == f"{USER}:{USER}"
    assert config["Cmd"] == ["python", "-m", "credits_pipeline", "run"]
    root = Path(buildah("mount", image))
    program = {"credits_pipeline", "data", "dbt_like_sql", "pyproject.toml", "README.md", "requirements.lock"}
    assert {path.name for path in (root / "app").iterdir()} == program | {"workspace.yaml"}
    assert {path.owner() for path in (root / "app").iterdir() if path.name != "data"} == {"root"}
    size = sum(path.lstat().st_size for path in root.rglob("*"))
    print(f"\nimage: {size / 1e6:.0f} MB, of which its base {(KEPT / 'base.tar').stat().st_size / 1e6:.0f} MB")
    assert output(run("python", "-c", "import os; print(os.getuid(), os.getgid())")).split() == [str(USER)] * 2


@pytest.mark.heavy
def test_the_demo_ends_with_the_answer(run, volume):
    said = output(run("python", "-m", "credits_pipeline", "demo"))
    assert "redits last until about" in said
    assert all(path.stat().st_uid == USER for path in volume.rglob("*"))


@pytest.mark.heavy
def test_the_services_of_compose_run_without_a_shell_and_keep_all_in_the_volume(image, run, volume):
    """After a first run by hand, as docs/container.md has it; the API is a simulated one on this machine."""
    root = Path(buildah("mount", image))
    for shell in ("sh", "bash", "dash"):
        (root / "bin" / shell).unlink()
    with SimulatedAPI(demo_accounts(today())[:1]) as api, contextlib.ExitStack() as services:
        environment = api.environment()
        key = volume / "key"  # a secret is a file that this user can read
        key.write_text(environment.pop("OPENROUTER_API_KEY"), encoding="utf-8")
        environment["OPENROUTER_API_KEY_FILE"] = "/app/data/key"
        os.chown(key, USER, USER)
        said = output(run("python", "-m", "credits_pipeline", "run", **environment))
        assert "redits last until about" in said
        port = free_port()
        for service in COMPOSE["services"].values():
            command = [str(port) if part == "3000" else part for part in service["command"]]
            process = services.enter_context(run(*command, **environment))
            services.callback(press_ctrl_c, process)
        for attempt in tenacity.Retrying(stop=tenacity.stop_after_delay(PATIENCE_S), wait=tenacity.wait_fixed(1)):
            with attempt:
                reply = httpx.post(f"http://127.0.0.1:{port}/graphql", json={"query": HEALTH}, timeout=30).json()
                daemons = reply["data"]["instance"]["daemonHealth"]["allDaemonStatuses"]
                assert {d["daemonType"]: d["healthy"] for d in daemons}["SCHEDULER"]


def test_compose_shows_the_ui_to_this_machine_only_and_holds_no_key():
    assert [port for s in COMPOSE["services"].values() for port in s.get("ports", [])] == ["127.0.0.1:3000:3000"]
    for service in COMPOSE["services"].values():
        assert service["environment"] == {"OPENROUTER_API_KEY_FILE": "/run/secrets/openrouter_api_key"}
