"""What comes from others is pinned, justified and audited; what is ours to keep secret was never committed."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from credits_pipeline.config import PROJECT_ROOT

LOCKS = sorted(
    path
    for path in (*PROJECT_ROOT.glob("*.lock"), *PROJECT_ROOT.glob("tools/*.lock"))
    if path.name.startswith("requirements")
)


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.name)
def test_every_package_of_a_lock_is_one_version_with_its_hashes_and_no_lock_names_a_host(lock):
    text = lock.read_text(encoding="utf-8")
    assert "://" not in text
    entries = [line for line in text.replace("\\\n", " ").splitlines() if line.split("#")[0].strip()]
    assert entries
    name, version = r"[A-Za-z0-9._-]+(\[[a-z,0-9-]+\])?", r"==[^\s;,*]+"
    for entry in entries:  # so no option of pip either, which could name another source
        assert re.fullmatch(rf"{name}{version}( ; [^#]+?)?(\s+--hash=sha256:[0-9a-f]{{64}})+", entry), entry


def test_every_direct_dependency_is_justified_in_one_line():
    text = (PROJECT_ROOT / "pyproject.toml").read_text(encoding="utf-8")
    counted = {}
    lists = r"^(dependencies|dev|cluster|cluster-test) = \[\n(.*?)^\]"
    for name, block in re.findall(lists, text, re.DOTALL | re.MULTILINE):
        lines = [line.strip() for line in block.splitlines()]
        counted[name] = len(lines)
        assert [line for line in lines if not re.fullmatch(r'"[^"]+",\s+# \S.{10,}', line)] == []
    print(f"\ndirect dependencies: {counted}")
    assert counted["dependencies"] <= 20, "each one is looked after for ever: which could be missed?"


AUDITOR = "pip-audit==2.10.1"
AUDITORS_HOME = PROJECT_ROOT / ".venv-audit"
NO_DATABASE = re.compile(
    r"ConnectionError|ConnectTimeout|ReadTimeout|ProxyError|SSLError|RetryError|ServiceError|JSONDecodeError"
)


@pytest.fixture(scope="module")
def auditor() -> Path:
    """pip-audit in an environment of its own, made once."""
    mark = AUDITORS_HOME / "installed"
    if not mark.exists() or mark.read_text(encoding="utf-8") != AUDITOR:
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(AUDITORS_HOME)], check=True)
        pip = [AUDITORS_HOME / "bin" / "python", "-m", "pip", "install", "-q", "--disable-pip-version-check"]
        done = subprocess.run([*pip, AUDITOR], check=False, capture_output=True, text=True)
        if done.returncode != 0:
            pytest.skip(f"NOT AUDITED: {AUDITOR} cannot be installed: {done.stderr.strip().splitlines()[-1]}")
        mark.write_text(AUDITOR, encoding="utf-8")
    return AUDITORS_HOME / "bin" / "pip-audit"


@pytest.mark.heavy
@pytest.mark.parametrize("lock", ["requirements.lock", "requirements-dev.lock", "requirements-cluster-test.lock"])
def test_no_vulnerability_is_known_in_what_is_locked(auditor, lock):
    asked = ["--disable-pip", "--progress-spinner", "off", "--format", "json", "-s", "osv"]
    command = [auditor, "-r", PROJECT_ROOT / lock, *asked]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=900)
    if not done.stdout.strip():
        assert NO_DATABASE.search(done.stderr), f"pip-audit failed for another reason: {done.stderr}"
        pytest.skip(f"NOT AUDITED: no database of vulnerabilities: {done.stderr.strip().splitlines()[-1]}")
    audited = json.loads(done.stdout)["dependencies"]
    assert len(audited) > 50, "the whole lock was looked at"
    assert not [package for package in audited if "skip_reason" in package]
    assert {p["name"]: [known["id"] for known in p["vulns"]] for p in audited if p["vulns"]} == {}


SECRETS = {
    "OpenRouter": rb"sk-or-v1-[0-9a-f]{64}",
    "OpenAI or Anthropic": rb"sk-(?:proj-|ant-(?:api|admin)[0-9]{2}-)[A-Za-z0-9_-]{32,}|sk-[A-Za-z0-9]{48}\b",
    "GitHub": rb"gh[pousr]_[A-Za-z0-9]{36}|github_pat_[A-Za-z0-9_]{50,}",
    "GitLab": rb"glpat-[A-Za-z0-9_-]{20}",
    "AWS": rb"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b",
    "Google": rb"\bAIza[0-9A-Za-z_-]{35}",
    "Slack": rb"xox[abprs]-[0-9A-Za-z-]{20,}|hooks\.slack\.com/services/T[A-Z0-9]{8,}/B[A-Z0-9]{8,}/[A-Za-z0-9]{24}",
    "Telegram": rb"\b[0-9]{9,10}:AA[A-Za-z0-9_-]{33}\b",
    "package registry": rb"\bpypi-AgE[A-Za-z0-9_-]{50,}|\bnpm_[A-Za-z0-9]{36}\b",
    "private key": rb"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----\s+[A-Za-z0-9+/=\s]{64}",
}
"""The forms of real secrets. Made-up ones in tests and demo look different on purpose."""


def secrets_in(content: bytes) -> list[str]:
    return [name for name, form in SECRETS.items() if re.search(form, content)]


def git(*arguments: str, stdin: bytes = b"") -> bytes:
    return subprocess.run(["git", *arguments], cwd=PROJECT_ROOT, input=stdin, capture_output=True, check=True).stdout


@pytest.fixture
def _history() -> None:
    if not (PROJECT_ROOT / ".git").exists():
        pytest.skip("NOT SCANNED: there is no git history here")


@pytest.mark.usefixtures("_history")
def test_no_tracked_file_holds_a_secret():
    names = [name for name in git("ls-files", "-z").decode().split("\0") if name]
    assert "SECURITY.md" in names
    files = [path for path in (PROJECT_ROOT / name for name in names) if path.is_file()]
    assert {path.name: found for path in files if (found := secrets_in(path.read_bytes()))} == {}


@pytest.mark.usefixtures("_history")
def test_no_file_and_no_message_of_the_history_ever_held_a_secret():
    """Every object once, whatever commit, branch or tag it belongs to."""
    listed = git("rev-list", "--all", "--objects").splitlines()
    objects = [line.split(b" ", 1)[0] for line in listed]
    paths = dict(zip(objects, listed, strict=True))
    content, at = git("cat-file", "--batch", stdin=b"\n".join(objects) + b"\n"), 0
    looked_at = {b"blob": 0, b"commit": 0, b"tree": 0, b"tag": 0}
    found = []
    while at < len(content):
        end = content.index(b"\n", at)
        name, kind, size = content[at:end].split()
        if kind != b"tree":
            found += [(paths[name], one) for one in secrets_in(content[end + 1 : end + 1 + int(size)])]
        looked_at[kind] += 1
        at = end + 1 + int(size) + 1
    assert found == []
    assert looked_at[b"blob"] > 1
    assert looked_at[b"commit"] >= 1
    print(f"\n{looked_at[b'blob']} versions of files and {looked_at[b'commit']} commits hold no secret")
