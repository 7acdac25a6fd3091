"""The simulated API is what the demo shows and what the other tests believe: it has to be honest itself."""

import hashlib
import itertools
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import httpx
import jsonschema
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from credits_pipeline.simulator import AGENTS, HOBBY, STEADY, SimulatedAccount, SimulatedAPI, demo_accounts
from credits_pipeline.simulator.replies import METRICS

ANCHOR = date(2026, 3, 10)
NOON = datetime(2026, 3, 10, 12, tzinfo=UTC)
KEY = "sk-or-v1-simulated-default"


@pytest.fixture
def api() -> Iterator[SimulatedAPI]:
    with SimulatedAPI(demo_accounts(ANCHOR), now=lambda: NOON, requests_per_minute=None) as server:
        yield server


@pytest.fixture
def client(api: SimulatedAPI) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=api.base_url, headers={"Authorization": f"Bearer {KEY}"}) as http:
        yield http


@settings(max_examples=10, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    profile=st.sampled_from([STEADY, AGENTS, HOBBY]),
    instants=st.tuples(*[st.datetimes(datetime(2025, 2, 1), datetime(2026, 6, 30), timezones=st.just(UTC))] * 2),
)
def test_usage_between_two_instants_is_what_was_billed_and_corrected_to_the_last_digit(seed, profile, instants):
    account = SimulatedAccount("any", "key", anchor=ANCHOR, seed=seed, profile=profile)
    begin, end = min(instants), max(instants)
    days = [begin.date() + timedelta(days=n) for n in range((end.date() - begin.date()).days + 1)]
    billed = sum((account.spend(day, at=end) for day in days), Decimal(0)) - account.spend(days[0], at=begin)
    corrected = sum(e.amount_usd for e in account.events if e.kind == "usage_correction" and begin < e.at <= end)
    assert account.usage_at(end) - account.usage_at(begin) == billed + corrected


def test_the_same_seed_and_anchor_are_the_same_ledger_everywhere():
    """Equal on CPython 3.11, 3.12 and 3.13. A change here changes every figure of the demo: of its three balances one
    should end in a week, one in a month and one later, and none of them below zero."""
    days = [date(2025, 1, 1) + timedelta(days=n) for n in range(600)]
    ledgers = [(a.events, [sorted(a.billed(day).items()) for day in days]) for a in demo_accounts(ANCHOR)]
    assert hashlib.sha256(repr(ledgers).encode()).hexdigest() == LEDGERS_DIGEST


LEDGERS_DIGEST = "95e1fe3cc76602f44b75a00b2aa6c56b88d4fbf314f5c9024e0c55cbe7e25644"


def test_every_reply_satisfies_the_vendors_own_schemas(client):
    contract = Path(__file__).parent.parent / "contract" / "openrouter.openapi.yaml"  # MIT, as the vendor publishes it
    document = yaml.safe_load(contract.read_text(encoding="utf-8"))

    def check(reply: httpx.Response, path: str, method: str = "get") -> None:
        responses = document["paths"][path][method]["responses"]
        schema = responses[str(reply.status_code)]["content"]["application/json"]["schema"]
        jsonschema.validate(reply.json(), {**schema, "components": document["components"]})

    check(client.get("/credits"), "/credits")
    check(client.get("/key"), "/key")
    span = {"start": f"{ANCHOR}T00:00:00Z", "end": f"{ANCHOR + timedelta(days=1)}T00:00:00Z"}
    whole_day = {"metrics": [*METRICS], "granularity": "day", "time_range": span, "limit": 10_000}
    for query in ({}, *({**whole_day, "dimensions": by} for by in (["model"], ["model", "user"]))):
        check(client.post("/analytics/query", json=query), "/analytics/query", "post")
    check(client.get("/workspaces"), "/workspaces")
    listed = client.get("/keys?include_disabled=true")
    whole = {**listed.json(), "data": [key for key in listed.json()["data"] if "usage_daily" in key]}
    assert len(whole["data"]) < len(listed.json()["data"]), "as was seen: counters may be missing"
    check(httpx.Response(200, json=whole), "/keys")
    client.headers["Authorization"] = "Bearer unknown"
    check(client.get("/credits"), "/credits")


def test_the_command_line_serves_and_says_what_to_export():
    command = [sys.executable, "-m", "credits_pipeline.simulator", "--port", "0", "--anchor", str(ANCHOR)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as serving:
        try:
            lines = list(itertools.takewhile(lambda line: not line.startswith("Ctrl-C"), serving.stdout))
            exports = dict(line.removeprefix("export ").strip().split("=") for line in lines if "export " in line)
            headers = {"Authorization": f"Bearer {exports['OPENROUTER_API_KEY']}"}
            assert httpx.get(f"{exports['OPENROUTER_BASE_URL']}/key", headers=headers).status_code == 200
        finally:
            serving.kill()  # SIGTERM may be ignored where the tests are started
