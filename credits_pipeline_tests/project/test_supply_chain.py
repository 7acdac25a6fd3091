"""What comes from others is pinned, justified and audited; what is ours to keep secret was never committed."""

import json
import re
import subprocess
import sys
from collections import Counter
from itertools import chain
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
    found = re.findall(r"(?ms)^(dependencies|dev|cluster|cluster-test) = \[\n(.*?)^\]", text)
    lists = {name: lines.splitlines() for name, lines in found}
    for line in chain(*lists.values()):
        assert re.fullmatch(r'\s*"[^"]+",\s+# \S.{10,}', line)
    assert len(lists["dependencies"]) <= 20, "each one is looked after for ever: which could be missed?"


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


def test_no_version_of_any_file_and_no_message_of_the_history_ever_held_a_secret():
    """Every object that git knows, whatever commit, branch or tag it belongs to, or only the index."""
    if not (PROJECT_ROOT / ".git").exists():
        pytest.skip("NOT SCANNED: there is no git history here")
    listed = ["git", "cat-file", "--batch", "--batch-all-objects", "--unordered"]
    objects = subprocess.run(listed, cwd=PROJECT_ROOT, capture_output=True, check=True).stdout
    head = rb"(?m)^([0-9a-f]{40}) (blob|commit|tree|tag) \d+$"
    hits = {name: hit.start() for name, form in SECRETS.items() if (hit := re.search(form, objects))}
    assert {name: re.findall(head, objects[:at])[-1] for name, at in hits.items()} == {}
    kinds = Counter(kind for _, kind in re.findall(head, objects))
    assert kinds[b"blob"]
    print(f"\n{kinds[b'blob']} versions of files and {kinds[b'commit']} commits hold no secret")
