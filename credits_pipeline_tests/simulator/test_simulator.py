"""The simulated API is what the demo shows and what the other tests believe: it has to be honest itself."""

import csv
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from credits_pipeline import clock
from credits_pipeline.simulator import (
    AGENTS,
    HOBBY,
    STEADY,
    SimulatedAccount,
    SimulatedAPI,
    demo_accounts,
    readings,
    write_readings,
)

ANCHOR = date(2026, 3, 10)
NOON = datetime(2026, 3, 10, 12, tzinfo=UTC)
KEY = "sk-or-v1-simulated-default"
METRICS = [
    "credits_usage",
    "byok_usage",
    "request_count",
    "tokens_prompt",
    "tokens_completion",
    "reasoning_tokens",
    "cached_tokens",
]


@pytest.fixture
def api() -> Iterator[SimulatedAPI]:
    with SimulatedAPI(demo_accounts(ANCHOR), now=lambda: NOON, requests_per_minute=None) as server:
        yield server


@pytest.fixture
def client(api: SimulatedAPI) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=api.base_url, headers={"Authorization": f"Bearer {KEY}"}) as http:
        yield http


def exact(reply: httpx.Response) -> Any:
    assert reply.status_code == 200, reply.text
    return json.loads(reply.text, parse_float=Decimal)["data"]


def query(first: date, last: date, **changes: Any) -> dict[str, Any]:
    body = {
        "metrics": METRICS,
        "dimensions": ["model"],
        "granularity": "day",
        "time_range": {
            "start": f"{first}T00:00:00Z",
            "end": f"{last + timedelta(days=1)}T00:00:00Z",
        },
        "limit": 10_000,
    }
    return {name: value for name, value in {**body, **changes}.items() if value is not None}


def midnight(day: date) -> datetime:
    return datetime.combine(day, time(), tzinfo=UTC)


# The ledger


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    profile=st.sampled_from([STEADY, AGENTS, HOBBY]),
    instants=st.lists(
        st.datetimes(datetime(2025, 2, 1), datetime(2026, 6, 30), timezones=st.just(UTC)),
        min_size=2,
        max_size=6,
    ),
)
def test_usage_between_two_instants_is_what_was_billed_and_corrected_to_the_last_digit(seed, profile, instants):
    account = SimulatedAccount("any", "key", anchor=ANCHOR, seed=seed, profile=profile)
    begin, end = min(instants), max(instants)
    days = [begin.date() + timedelta(days=n) for n in range((end.date() - begin.date()).days + 1)]
    billed = sum((account.spend(day, at=end) for day in days), Decimal(0)) - account.spend(days[0], at=begin)
    corrected = sum(e.amount_usd for e in account.events if e.kind == "usage_correction" and begin < e.at <= end)
    assert account.usage_at(end) - account.usage_at(begin) == billed + corrected


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), offsets=st.lists(st.integers(0, 86_400_000_000), min_size=2, max_size=8))
def test_within_a_day_usage_never_falls_and_ends_at_the_days_bill(seed, offsets):
    account = SimulatedAccount("any", "key", anchor=ANCHOR, seed=seed)
    start = midnight(ANCHOR)
    usage = [account.usage_at(start + timedelta(microseconds=offset)) for offset in sorted(offsets)]
    assert usage == sorted(usage)
    assert account.usage_at(start + timedelta(days=1)) - account.usage_at(start) == account.spend(ANCHOR)
    assert account.spend(ANCHOR) == sum(model.credits_usd for model in account.billed(ANCHOR).values())


def test_the_same_seed_and_anchor_are_the_same_ledger_everywhere():
    program = f"""
import hashlib
from datetime import date, timedelta
from credits_pipeline.simulator import demo_accounts
ledgers = [(a.events, [sorted(a.billed(date(2025, 1, 1) + timedelta(days=n)).items()) for n in range(600)])
           for a in demo_accounts(date.fromisoformat("{ANCHOR}"))]
print(hashlib.sha256(repr(ledgers).encode()).hexdigest())
"""
    digests = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for hash_seed in ("1", "2")
    }
    assert digests == {LEDGERS_DIGEST}


# Equal on CPython 3.11, 3.12 and 3.13. A change here changes every figure of the demo.
LEDGERS_DIGEST = "95e1fe3cc76602f44b75a00b2aa6c56b88d4fbf314f5c9024e0c55cbe7e25644"


def test_the_demo_accounts_end_in_very_different_balances():
    days_left = {}
    for account in demo_accounts(ANCHOR):
        balance = account.credits_at(NOON) - account.usage_at(NOON)
        recent = sum(account.spend(ANCHOR - timedelta(days=n)) for n in range(1, 29))
        days_left[account.name] = balance / (recent / 28)
    assert 14 <= days_left["default"] <= 35
    assert 4 <= days_left["agents"] <= 10
    assert days_left["hobby"] >= 60


def test_a_year_holds_what_a_year_of_spend_holds():
    default, _, hobby = demo_accounts(ANCHOR)
    year = [ANCHOR - timedelta(days=n) for n in range(365, 0, -1)]
    spend = {day: default.spend(day) for day in year}
    weekdays = [amount for day, amount in spend.items() if day.weekday() < 5]
    weekends = [amount for day, amount in spend.items() if day.weekday() >= 5]
    assert sum(weekdays) / len(weekdays) > 3 * sum(weekends) / len(weekends), "weekly rhythm"
    assert sum(spend[day] for day in year[-28:]) > sum(spend[day] for day in year[:28]), "growth"
    assert max(spend.values()) > 2 * sum(weekdays) / len(weekdays), "a burst"
    quiet = [day for day in year if not spend[day]]
    assert len(quiet) == 7, "a quiet week"
    assert quiet[-1] - quiet[0] == timedelta(days=6)
    before, after = default.billed(year[0]), default.billed(year[-1])
    assert before.keys() - after.keys() == {"anthropic/claude-sonnet-4"}, "a model switch"
    assert after.keys() - before.keys() == {"anthropic/claude-sonnet-4.5"}
    free = after["meta-llama/llama-3.3-70b-instruct:free"]
    assert free.credits_usd == 0
    assert free.requests > 0
    byok = after["mistralai/mistral-large"]
    assert 0 < byok.credits_usd < byok.byok_usd
    this_year = [e for e in default.events if midnight(year[0]) < e.at < NOON]
    assert {e.kind for e in this_year} == {"top_up", "credit_decrease"}
    assert all(e.amount_usd % 5 == 0 for e in this_year), "round amounts"
    assert "usage_correction" in {e.kind for e in hobby.events}


@pytest.mark.parametrize("account", demo_accounts(ANCHOR), ids=lambda account: account.name)
def test_credits_are_topped_up_before_the_balance_falls_below_zero(account):
    hours = (midnight(ANCHOR) - timedelta(hours=3 * n) for n in range(365 * 8))
    assert all(account.credits_at(hour) >= account.usage_at(hour) for hour in hours)


def test_earlier_readings_are_the_ledgers_own_and_some_nights_are_missing(tmp_path):
    account = demo_accounts(ANCHOR)[0]
    since = ANCHOR - timedelta(days=180)
    logged = readings(account, since, ANCHOR, at=time(23, 55))
    assert logged == readings(account, since, ANCHOR, at=time(23, 55))
    assert 160 <= len(logged) < 180
    assert all(r.time.time().replace(second=0) == time(23, 55) for r in logged)
    assert all(r.total_usage == account.usage_at(r.time) for r in logged)
    assert write_readings(tmp_path / "readings.csv", logged) == len(logged)
    with (tmp_path / "readings.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows[0].keys() == {"time", "total_credits", "total_usage"}
    assert [datetime.fromisoformat(row["time"]) for row in rows] == [r.time for r in logged]
    assert [Decimal(row["total_usage"]) for row in rows] == [r.total_usage for r in logged]


# The three calls


def test_every_reply_satisfies_the_vendors_own_schemas(client):
    contract = Path(__file__).parent.parent / "contract" / "openrouter.openapi.yaml"  # MIT, as the vendor publishes it
    document = yaml.safe_load(contract.read_text(encoding="utf-8"))

    def check(reply: httpx.Response, path: str, method: str = "get") -> None:
        responses = document["paths"][path][method]["responses"]
        schema = responses[str(reply.status_code)]["content"]["application/json"]["schema"]
        jsonschema.validate(reply.json(), {**schema, "components": document["components"]})

    check(client.get("/credits"), "/credits")
    check(client.get("/key"), "/key")
    check(client.post("/analytics/query", json=query(ANCHOR, ANCHOR)), "/analytics/query", "post")
    check(client.post("/analytics/query", json={}), "/analytics/query", "post")
    by_user = query(ANCHOR, ANCHOR, dimensions=["model", "user"])
    check(client.post("/analytics/query", json=by_user), "/analytics/query", "post")
    check(client.get("/workspaces"), "/workspaces")
    listed = client.get("/keys?include_disabled=true")
    whole = {**listed.json(), "data": [key for key in listed.json()["data"] if "usage_daily" in key]}
    assert len(whole["data"]) < len(listed.json()["data"]), "as was seen: counters may be missing"
    check(httpx.Response(200, json=whole), "/keys")
    client.headers["Authorization"] = "Bearer unknown"
    check(client.get("/credits"), "/credits")


def test_money_is_printed_from_decimals_and_whole_numbers_come_bare():
    account = SimulatedAccount.from_ledger(
        "hand",
        KEY,
        days={ANCHOR - timedelta(days=1): {"a/x": Decimal("0.1"), "b/y": Decimal("0.000000003")}},
        credits=[(midnight(ANCHOR), Decimal(5))],
    )
    with SimulatedAPI([account], now=lambda: NOON) as api:
        text = httpx.get(f"{api.base_url}/credits", headers={"Authorization": f"Bearer {KEY}"}).text
    assert text == '{"data":{"total_credits":5,"total_usage":0.100000003}}'


def test_credits_are_the_ledgers_at_the_instant_of_the_pipelines_clock():
    account = demo_accounts(ANCHOR)[0]
    with clock.frozen(NOON) as held, SimulatedAPI([account]) as api:
        headers = {"Authorization": f"Bearer {KEY}"}
        first = exact(httpx.get(f"{api.base_url}/credits", headers=headers))
        held.advance(timedelta(hours=30))
        second = exact(httpx.get(f"{api.base_url}/credits", headers=headers))
    assert first["total_usage"] == account.usage_at(NOON)
    assert second["total_usage"] == account.usage_at(NOON + timedelta(hours=30))
    assert second["total_credits"] == account.credits_at(NOON + timedelta(hours=30))


def test_a_year_of_analytics_is_the_ledger_to_the_last_digit_and_holds_the_running_day(api, client):
    account = api.accounts["default"]
    first = ANCHOR - timedelta(days=365)
    data = exact(client.post("/analytics/query", json=query(first, ANCHOR)))
    assert data["metadata"]["truncated"] is False
    assert data["metadata"]["row_count"] == len(data["data"])
    assert data["cachedAt"] == int(NOON.timestamp() * 1000)
    told = {
        (date.fromisoformat(row["date__day"]), row["model"]): (
            Decimal(row["credits_usage"]), Decimal(row["byok_usage"]), int(row["request_count"]),
            int(row["tokens_prompt"]), int(row["tokens_completion"]),
            int(row["reasoning_tokens"]), int(row["cached_tokens"]),
        )
        for row in data["data"]
    }  # fmt: skip
    true = {
        (day, model): (
            usage.credits_usd, usage.byok_usd, usage.requests,
            usage.prompt_tokens, usage.completion_tokens, usage.reasoning_tokens, usage.cached_tokens,
        )
        for day in (first + timedelta(days=n) for n in range(366))
        for model, usage in account.billed(day, at=NOON).items()
    }  # fmt: skip
    assert told == true
    assert all(isinstance(row["request_count"], str) for row in data["data"])


def test_a_range_ends_where_it_says_also_within_a_day(api, client):
    account = api.accounts["default"]
    noon = NOON - timedelta(days=1)
    span = {"start": "2026-03-09T00:00:00Z", "end": "2026-03-09T12:00:00Z"}
    body = query(ANCHOR, ANCHOR, time_range=span, metrics=["credits_usage"])
    rows = exact(client.post("/analytics/query", json=body))["data"]
    assert sum(row["credits_usage"] for row in rows) == account.spend(noon.date(), at=noon)


@pytest.mark.parametrize("dimension", ["api_key_id", "workspace", "user"])
def test_the_parts_of_a_breakdown_sum_to_the_bill_of_every_model_to_the_last_digit(api, client, dimension):
    first = ANCHOR - timedelta(days=20)
    whole = exact(client.post("/analytics/query", json=query(first, ANCHOR)))["data"]
    parts = exact(client.post("/analytics/query", json=query(first, ANCHOR, dimensions=["model", dimension])))["data"]
    summed: dict[tuple[str, str], Any] = {}
    for row in parts:
        part = row["date__day"], row["model"]
        figures = (Decimal(row[name]) for name in METRICS)
        summed[part] = tuple(map(sum, zip(summed.get(part, [0] * len(METRICS)), figures, strict=True)))
    assert summed == {(row["date__day"], row["model"]): tuple(Decimal(row[name]) for name in METRICS) for row in whole}
    assert len({row[dimension] for row in parts}) > 1


def test_no_more_rows_come_than_the_limit(client):
    data = exact(client.post("/analytics/query", json=query(ANCHOR - timedelta(days=9), ANCHOR, limit=7)))
    assert data["metadata"]["truncated"] is True
    assert len(data["data"]) == data["metadata"]["row_count"] == 7


def test_a_missing_or_unknown_key_is_401(api):
    for path, headers in [("/credits", {}), ("/key", {"Authorization": "Bearer sk-wrong"})]:
        reply = httpx.get(api.base_url + path, headers=headers)
        assert reply.status_code == 401
        assert reply.json() == {"error": {"code": 401, "message": "User not found."}}


def test_an_ordinary_key_gets_403_or_two_zeros():
    plain = SimulatedAccount("plain", "sk-plain", anchor=ANCHOR, is_management_key=False)
    odd = SimulatedAccount("odd", "sk-odd", anchor=ANCHOR, is_management_key=False, reads_zeros=True)
    with SimulatedAPI([plain, odd], now=lambda: NOON) as api:
        for account in (plain, odd):
            headers = {"Authorization": f"Bearer {account.key}"}
            key = exact(httpx.get(f"{api.base_url}/key", headers=headers))
            assert key["is_management_key"] is False
            body = query(ANCHOR, ANCHOR)
            assert httpx.post(f"{api.base_url}/analytics/query", headers=headers, json=body).status_code == 403
        refused = httpx.get(f"{api.base_url}/credits", headers={"Authorization": "Bearer sk-plain"})
        assert refused.status_code == 403
        assert refused.json()["error"]["message"] == "Only management keys can perform this operation"
        zeros = httpx.get(f"{api.base_url}/credits", headers={"Authorization": "Bearer sk-odd"})
        assert zeros.json() == {"data": {"total_credits": 0, "total_usage": 0}}


def test_the_65th_analytics_query_of_a_minute_is_429_until_the_minute_is_over():
    body = query(ANCHOR, ANCHOR)
    with (
        clock.frozen(NOON) as held,
        SimulatedAPI(demo_accounts(ANCHOR)) as api,
        httpx.Client(base_url=api.base_url, headers={"Authorization": f"Bearer {KEY}"}) as client,
    ):
        statuses = [client.post("/analytics/query", json=body).status_code for _ in range(64)]
        assert set(statuses) == {200}
        held.advance(timedelta(seconds=20))
        refused = client.post("/analytics/query", json=body)
        assert refused.status_code == 429
        held.advance(timedelta(seconds=int(refused.headers["Retry-After"])))
        assert client.post("/analytics/query", json=body).status_code == 200


# The server


def test_only_the_loopback_interface_is_served(api):
    host, port = httpx.URL(api.base_url).host, httpx.URL(api.base_url).port
    assert host == "127.0.0.1"
    with socket.socket() as other, pytest.raises(ConnectionRefusedError):
        other.connect(("127.0.0.2", port))


# By hand


def test_the_command_line_serves_and_says_what_to_export():
    command = [sys.executable, "-m", "credits_pipeline.simulator", "--port", "0", "--anchor", str(ANCHOR)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as serving:
        try:
            exports = {}
            for line in serving.stdout:
                if line.startswith("export "):
                    name, _, value = line.removeprefix("export ").strip().partition("=")
                    exports[name] = value
                if line.startswith("Ctrl-C"):
                    break
            headers = {"Authorization": f"Bearer {exports['OPENROUTER_API_KEY']}"}
            assert httpx.get(f"{exports['OPENROUTER_BASE_URL']}/key", headers=headers).status_code == 200
        finally:
            serving.kill()  # SIGTERM may be ignored where the tests are started
