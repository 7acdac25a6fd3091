"""The simulated API is what the demo shows and what the other tests believe: it has to be honest itself."""

import ast
import csv
import hashlib
import json
import os
import socket
import subprocess
import sys
import threading
import time as real_time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
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

import credits_pipeline
from credits_pipeline import clock
from credits_pipeline.simulator import (
    AGENTS,
    HOBBY,
    STEADY,
    Fault,
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
    "total_usage",
    "byok_usage",
    "request_count",
    "tokens_total",
    "tokens_prompt",
    "tokens_completion",
    "reasoning_tokens",
    "cached_tokens",
]
# What the published contract asks of each reply: required fields and their JSON types.
NUMBER = (int, Decimal)
CREDITS = {"total_credits": NUMBER, "total_usage": NUMBER}
KEY_INFO = {
    "label": str,
    **{f"{usage}{period}": NUMBER
       for usage in ("usage", "byok_usage") for period in ("", "_daily", "_weekly", "_monthly")},
    "limit": (*NUMBER, type(None)),
    "limit_remaining": (*NUMBER, type(None)),
    "limit_reset": (str, type(None)),
    "is_free_tier": bool,
    "is_management_key": bool,
    "is_provisioning_key": bool,
    "include_byok_in_limit": bool,
    "creator_user_id": (str, type(None)),
    "rate_limit": dict,
}  # fmt: skip
QUERY_METADATA = {"query_time_ms": NUMBER, "row_count": int, "truncated": bool}
ACTIVITY_ITEM = {
    **dict.fromkeys(("date", "model", "model_permaslug", "endpoint_id", "provider_name"), str),
    **dict.fromkeys(("usage", "byok_usage_inference"), NUMBER),
    **dict.fromkeys(("requests", "prompt_tokens", "completion_tokens", "reasoning_tokens"), int),
}
META = {"metrics": list, "dimensions": list, "operators": list, "granularities": list}


def conforms(value: dict[str, Any], schema: dict[str, Any]) -> bool:
    return all(name in value and isinstance(value[name], kind) for name, kind in schema.items())


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
def test_usage_between_two_instants_is_what_was_billed_and_corrected_to_the_last_digit(
    seed, profile, instants
):
    account = SimulatedAccount("any", "key", anchor=ANCHOR, seed=seed, profile=profile)
    begin, end = min(instants), max(instants)
    days = [begin.date() + timedelta(days=n) for n in range((end.date() - begin.date()).days + 1)]
    billed = sum((account.spend(day, at=end) for day in days), Decimal(0)) - account.spend(days[0], at=begin)
    corrected = sum(
        e.amount_usd for e in account.events if e.kind == "usage_correction" and begin < e.at <= end
    )
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


def test_a_hand_made_ledger_says_exactly_what_it_was_given():
    account = SimulatedAccount.from_ledger(
        "hand",
        "key",
        days={
            date(2026, 1, 1): {"a/x": Decimal("2.40"), "b/y": Decimal("0.000000001")},
            date(2026, 1, 3): {"a/x": Decimal("1")},
        },
        credits=[
            (datetime(2026, 1, 1, tzinfo=UTC), Decimal("10")),
            (datetime(2026, 1, 2, 9, tzinfo=UTC), Decimal("-2.5")),
        ],
        corrections=[(datetime(2026, 1, 2, 10, tzinfo=UTC), Decimal("-0.4"))],
    )
    assert account.usage_at(datetime(2026, 1, 1, 6, tzinfo=UTC)) == Decimal("0.6"), "a quarter of the day"
    assert account.usage_at(datetime(2026, 1, 2, tzinfo=UTC)) == Decimal("2.400000001")
    assert account.usage_at(datetime(2026, 1, 2, 10, tzinfo=UTC)) == Decimal("2.000000001")
    assert account.usage_at(datetime(2026, 1, 4, tzinfo=UTC)) == Decimal("3.000000001")
    assert account.credits_at(datetime(2025, 12, 31, tzinfo=UTC)) == 0
    assert account.credits_at(datetime(2026, 1, 2, 8, tzinfo=UTC)) == 10
    assert account.credits_at(datetime(2026, 1, 2, 9, tzinfo=UTC)) == Decimal("7.5")
    assert account.spend(date(2026, 1, 2)) == 0
    assert [event.kind for event in account.events] == ["top_up", "credit_decrease", "usage_correction"]


@pytest.mark.parametrize("amount", [Decimal("0.0000000001"), Decimal.from_float(0.1)])
def test_a_hand_made_ledger_refuses_more_than_nine_decimals(amount):
    with pytest.raises(ValueError, match="more than 9 decimals"):
        SimulatedAccount.from_ledger("hand", "key", days={ANCHOR: {"a/x": amount}}, credits=[])


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


# The five calls


def test_every_reply_has_the_shape_of_the_contract(client):
    assert conforms(exact(client.get("/credits")), CREDITS)
    assert conforms(exact(client.get("/key")), KEY_INFO)
    assert conforms(exact(client.get("/analytics/meta")), META)
    analytics = exact(client.post("/analytics/query", json=query(ANCHOR, ANCHOR)))
    assert conforms(analytics["metadata"], QUERY_METADATA)
    assert analytics["data"]
    activity = exact(client.get("/activity"))
    assert activity
    assert all(conforms(item, ACTIVITY_ITEM) for item in activity)
    assert len({item["date"] for item in activity}) == 30


def test_every_reply_satisfies_the_vendors_own_schemas(client):
    contract = (
        Path(__file__).parent.parent / "contract" / "openrouter.openapi.yaml"
    )  # MIT, as the vendor publishes it
    document = yaml.safe_load(contract.read_text(encoding="utf-8"))

    def check(reply: httpx.Response, path: str, method: str = "get") -> None:
        responses = document["paths"][path][method]["responses"]
        schema = responses[str(reply.status_code)]["content"]["application/json"]["schema"]
        jsonschema.validate(reply.json(), {**schema, "components": document["components"]})

    check(client.get("/credits"), "/credits")
    check(client.get("/key"), "/key")
    check(client.get("/analytics/meta"), "/analytics/meta")
    check(client.get("/activity"), "/activity")
    check(client.get("/activity?group_by=workspace"), "/activity")
    check(client.get("/activity?date=2026-03-10"), "/activity")
    check(client.post("/analytics/query", json=query(ANCHOR, ANCHOR)), "/analytics/query", "post")
    check(client.post("/analytics/query", json={}), "/analytics/query", "post")
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
    assert all(
        Decimal(row["total_usage"]) == row["credits_usage"] + row["byok_usage"] for row in data["data"]
    )


def test_a_range_ends_where_it_says_also_within_a_day(api, client):
    account = api.accounts["default"]
    noon = NOON - timedelta(days=1)
    span = {"start": "2026-03-09T00:00:00Z", "end": "2026-03-09T12:00:00Z"}
    body = query(ANCHOR, ANCHOR, time_range=span, dimensions=None, metrics=["credits_usage"])
    rows = exact(client.post("/analytics/query", json=body))["data"]
    assert rows == [{"date__day": "2026-03-09", "credits_usage": account.spend(noon.date(), at=noon)}]


def test_groups_by_other_dimensions_and_months(client):
    first, last = date(2026, 1, 1), date(2026, 2, 28)
    body = query(first, last, dimensions=["variant", "workspace"], granularity="month")
    rows = exact(client.post("/analytics/query", json=body))["data"]
    assert [(row["date__month"], row["variant"]) for row in rows] == [
        ("2026-01-01", "free"),
        ("2026-01-01", "standard"),
        ("2026-02-01", "free"),
        ("2026-02-01", "standard"),
    ]
    body = query(first, last, dimensions=None, granularity=None, metrics=["request_count"])
    assert len(exact(client.post("/analytics/query", json=body))["data"]) == 1


def test_rows_come_in_the_order_asked_for_and_no_more_than_the_limit(client):
    order = {"field": "credits_usage", "direction": "desc"}
    body = query(ANCHOR - timedelta(days=9), ANCHOR, order_by=order, limit=7)
    data = exact(client.post("/analytics/query", json=body))
    costs = [row["credits_usage"] for row in data["data"]]
    assert costs == sorted(costs, reverse=True)
    assert data["metadata"]["truncated"] is True
    assert len(costs) == data["metadata"]["row_count"] == 7


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"metrics": ["credits_used"]}, "unknown metrics: credits_used"),
        ({"metrics": []}, "at least one"),
        ({"metrics": "credits_usage"}, "list of names"),
        ({"dimensions": ["colour"]}, "unknown dimensions"),
        ({"dimensions": ["model", "user", "app"]}, "at most 2 dimensions"),
        ({"dimensions": ["provider"]}, "more than 31 days"),
        ({"granularity": "fortnight"}, "unknown granularity"),
        ({"limit": 10_001}, "limit must be 1 to 10000"),
        ({"limit": 0}, "limit must be"),
        ({"filters": []}, "not simulated: filters"),
        ({"order_by": {"field": "colour", "direction": "asc"}}, "order_by"),
        (
            {"time_range": {"start": "2025-03-09T00:00:00Z", "end": "2026-03-09T00:00:00Z"}},
            "more than 365 days",
        ),
        ({"time_range": {"start": "2026-03-09", "end": "2026-03-10"}}, "zone"),
        ({"time_range": {"start": "2026-03-09T00:00:00Z"}}, "start and end"),
        ({"time_range": {"start": "2026-03-09T00:00:00Z", "end": "2026-03-09T00:00:00Z"}}, "before end"),
    ],
)
def test_a_wrong_query_is_refused_with_400_and_a_reason(client, changes, reason):
    reply = client.post("/analytics/query", json=query(ANCHOR - timedelta(days=40), ANCHOR, **changes))
    assert reply.status_code == 400
    assert reply.json()["error"]["code"] == 400
    assert reason in reply.json()["error"]["message"]


def test_a_query_that_is_no_json_is_refused(client):
    assert client.post("/analytics/query", content=b"{").status_code == 400


def test_activity_tells_completed_days_only(api, client):
    account = api.accounts["default"]
    assert client.get("/activity", params={"date": "2026-03-10"}).status_code == 400, "the running day"
    assert client.get("/activity", params={"date": "2026-02-07"}).status_code == 400, "31 days ago"
    items = exact(client.get("/activity", params={"date": "2026-03-09"}))
    assert sum(item["usage"] for item in items) == account.spend(date(2026, 3, 9))
    grouped = exact(client.get("/activity", params={"date": "2026-03-09", "group_by": "workspace"}))
    assert all(item["workspace_id"] for item in grouped)


@pytest.mark.parametrize(
    ("headers", "message"),
    [({}, "Missing Authentication header"), ({"Authorization": "Bearer sk-wrong"}, "User not found.")],
)
def test_a_missing_or_unknown_key_is_401(api, headers, message):
    for path in ("/credits", "/key", "/activity", "/analytics/meta"):
        reply = httpx.get(api.base_url + path, headers=headers)
        assert (reply.status_code, reply.json()) == (401, {"error": {"code": 401, "message": message}})


def test_an_ordinary_key_gets_403_or_two_zeros():
    plain = SimulatedAccount("plain", "sk-plain", anchor=ANCHOR, is_management_key=False)
    odd = SimulatedAccount("odd", "sk-odd", anchor=ANCHOR, is_management_key=False, reads_zeros=True)
    with SimulatedAPI([plain, odd], now=lambda: NOON) as api:
        for account in (plain, odd):
            headers = {"Authorization": f"Bearer {account.key}"}
            key = exact(httpx.get(f"{api.base_url}/key", headers=headers))
            assert key["is_management_key"] is False
            assert key["usage"] == account.usage_at(NOON)
            body = query(ANCHOR, ANCHOR)
            assert (
                httpx.post(f"{api.base_url}/analytics/query", headers=headers, json=body).status_code == 403
            )
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


def test_unknown_calls_are_404(api, client):
    assert client.get("/models").status_code == 404
    assert client.post("/credits").status_code == 404
    outside = api.base_url.replace("/api/v1", "/credits")
    assert httpx.get(outside, headers={"Authorization": f"Bearer {KEY}"}).status_code == 404


# The server


def test_the_log_of_requests_shows_what_was_asked_and_never_a_key(api, client):
    body = query(ANCHOR, ANCHOR)
    client.post("/analytics/query", json=body)
    client.get("/activity", params={"date": "2026-03-09"})
    posted, asked = api.requests
    assert (posted.method, posted.path, posted.body, posted.account, posted.at) == (
        "POST", "/analytics/query", body, "default", NOON,
    )  # fmt: skip
    assert asked.query == {"date": "2026-03-09"}
    assert posted.key_fingerprint == hashlib.sha256(KEY.encode()).hexdigest()[:12]
    assert KEY not in repr(api.requests)
    assert KEY not in repr(api.accounts)


def test_one_connection_serves_many_requests(client):
    def connection(reply: httpx.Response) -> tuple[str, int]:
        return reply.extensions["network_stream"].get_extra_info("client_addr")

    assert connection(client.get("/credits")) == connection(client.get("/key"))


def test_closing_is_prompt_and_leaves_no_thread_behind():
    before = set(threading.enumerate())
    started = real_time.monotonic()
    with SimulatedAPI(demo_accounts(ANCHOR), now=lambda: NOON) as api:
        api.misbehave(Fault.drip(3600), path="/key")
        with httpx.Client(base_url=api.base_url, headers={"Authorization": f"Bearer {KEY}"}) as client:
            client.get("/credits")
            with client.stream("GET", "/key") as dripping:  # noqa: F841 - held open while the server closes
                api.close()
                assert set(threading.enumerate()) <= before
    assert real_time.monotonic() - started < 5


def test_only_the_loopback_interface_is_served(api):
    host, port = httpx.URL(api.base_url).host, httpx.URL(api.base_url).port
    assert host == "127.0.0.1"
    with socket.socket() as other, pytest.raises(ConnectionRefusedError):
        other.connect(("127.0.0.2", port))


def test_200_accounts_are_served_and_no_ledger_is_made_before_it_is_asked_for():
    accounts = [SimulatedAccount(f"team_{n}", f"sk-{n}", anchor=ANCHOR, seed=n % 10) for n in range(200)]
    with SimulatedAPI(accounts, now=lambda: NOON) as api:
        reply = httpx.get(f"{api.base_url}/credits", headers={"Authorization": "Bearer sk-199"})
        assert exact(reply)["total_usage"] == accounts[199].usage_at(NOON)
    assert ["ledger" in vars(account) for account in accounts].count(True) == 1


def test_clients_are_answered_side_by_side():
    clients = 20
    all_at_once = threading.Barrier(clients)  # opens only when this many requests are being answered together
    with (
        SimulatedAPI(
            demo_accounts(ANCHOR), now=lambda: NOON, log=lambda _: all_at_once.wait(timeout=60) and None
        ) as api,
        ThreadPoolExecutor(clients) as pool,
    ):
        headers = {"Authorization": f"Bearer {KEY}"}
        replies = list(
            pool.map(
                lambda _: httpx.get(f"{api.base_url}/credits", headers=headers, timeout=60), range(clients)
            )
        )
        assert {reply.status_code for reply in replies} == {200}
        assert not all_at_once.broken


def test_two_accounts_with_one_key_are_refused():
    twins = [SimulatedAccount(name, "sk-same", anchor=ANCHOR) for name in ("a", "b")]
    with pytest.raises(ValueError, match="same key"):
        SimulatedAPI(twins)


def test_the_environment_names_everything_the_pipeline_needs(api):
    assert api.environment() == {
        "OPENROUTER_BASE_URL": api.base_url,
        "OPENROUTER_ALLOW_CUSTOM_HOST": "1",
        "OPENROUTER_API_KEY": "sk-or-v1-simulated-default",
        "OPENROUTER_API_KEY_AGENTS": "sk-or-v1-simulated-agents",
        "OPENROUTER_API_KEY_HOBBY": "sk-or-v1-simulated-hobby",
    }


def test_the_pipeline_never_imports_the_simulator():
    package = Path(credits_pipeline.__file__).parent
    for path in package.rglob("*.py"):
        if path.parent.name == "simulator" or path.name == "demo.py":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not any("simulator" in name for name in names), path


# Misbehaviour


def test_a_fault_meets_only_the_requests_it_was_meant_for(api, client):
    api.misbehave(Fault.status(503), times=2, path="/credits", account="default")
    assert client.get("/key").status_code == 200
    other = {"Authorization": "Bearer sk-or-v1-simulated-hobby"}
    assert client.get("/credits", headers=other).status_code == 200
    assert [client.get("/credits").status_code for _ in range(3)] == [503, 503, 200]
    assert [request.fault for request in api.requests] == [None, None, "status 503", "status 503", None]


def test_faults_wait_in_a_queue_until_told_to_behave(api, client):
    api.misbehave(Fault.status(408))
    api.misbehave(Fault.status(500), times=None)
    assert [client.get("/key").status_code for _ in range(3)] == [408, 500, 500]
    api.behave()
    assert client.get("/key").status_code == 200


def test_a_fault_for_a_path_or_account_that_does_not_exist_is_refused(api):
    with pytest.raises(ValueError, match="without /api/v1"):
        api.misbehave(Fault.reset(), path="/api/v1/credits")
    with pytest.raises(ValueError, match="no simulated account"):
        api.misbehave(Fault.reset(), account="nobody")


@pytest.mark.parametrize("code", [408, 425, 429, 500, 502, 503, 524, 529])
def test_status_codes_come_with_the_apis_error_body(api, client, code):
    api.misbehave(Fault.status(code, message="try later"))
    reply = client.get("/credits")
    assert (reply.status_code, reply.json()) == (code, {"error": {"code": code, "message": "try later"}})


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        (2, "2"),
        ("120", "120"),
        (datetime(2026, 3, 10, 12, 0, 30, tzinfo=UTC), "Tue, 10 Mar 2026 12:00:30 GMT"),
    ],
)
def test_retry_after_comes_in_seconds_and_as_a_date(api, client, given, sent):
    api.misbehave(Fault.status(429, retry_after=given))
    reply = client.get("/credits")
    assert reply.headers["Retry-After"] == sent
    assert reply.headers["Date"] == "Tue, 10 Mar 2026 12:00:00 GMT", "the pipeline's clock"


@pytest.mark.parametrize("code", [200, 502])
def test_html_where_json_should_be(api, client, code):
    api.misbehave(Fault.html(code))
    reply = client.get("/credits")
    assert reply.status_code == code
    assert reply.headers["Content-Type"].startswith("text/html")
    assert reply.text.startswith("<!DOCTYPE html>")


def test_a_body_that_ends_too_early(api, client):
    api.misbehave(Fault.truncated_body())
    with pytest.raises(httpx.RemoteProtocolError, match="without sending complete message body"):
        client.get("/credits")
    assert client.get("/credits").status_code == 200


def test_a_connection_reset(api, client):
    api.misbehave(Fault.reset())
    with pytest.raises(httpx.ReadError):
        client.get("/credits")
    assert client.get("/credits").status_code == 200


def test_a_drip_sends_all_of_it_byte_by_byte(api, client):
    api.misbehave(Fault.drip(0.001))
    started = real_time.monotonic()
    with client.stream("GET", "/credits") as reply:
        pieces = list(reply.iter_raw())
    assert len(pieces) > 5
    assert real_time.monotonic() - started >= 0.001 * len(b"".join(pieces))
    assert json.loads(b"".join(pieces))["data"]


def test_a_drip_stops_when_the_client_goes_away(api):
    before = threading.active_count()
    api.misbehave(Fault.drip(0.005), path="/analytics/meta")
    headers = {"Authorization": f"Bearer {KEY}"}
    with (
        httpx.Client(base_url=api.base_url, headers=headers) as client,
        client.stream("GET", "/analytics/meta"),
    ):
        assert threading.active_count() == before + 1
    deadline = real_time.monotonic() + 5
    while threading.active_count() > before and real_time.monotonic() < deadline:
        threading.Event().wait(0.01)
    assert threading.active_count() == before


def test_a_redirect_points_at_another_host(api, client):
    api.misbehave(Fault.redirect("https://elsewhere.example/api/v1/credits"))
    reply = client.get("/credits")
    assert (reply.status_code, reply.headers["Location"]) == (307, "https://elsewhere.example/api/v1/credits")


def test_latency_is_real_time(api, client):
    api.misbehave(Fault.latency(0.05))
    started = real_time.monotonic()
    assert client.get("/credits").status_code == 200
    assert real_time.monotonic() - started >= 0.05


def test_a_servers_own_latency_adds_to_every_reply():
    with SimulatedAPI(demo_accounts(ANCHOR), now=lambda: NOON, latency_s=0.03) as slow:
        started = real_time.monotonic()
        httpx.get(f"{slow.base_url}/key", headers={"Authorization": f"Bearer {KEY}"})
        assert real_time.monotonic() - started >= 0.03


def test_contents_that_nobody_should_believe(api, client):
    api.misbehave(Fault.zeros())
    assert client.get("/credits").text == '{"data":{"total_credits":0,"total_usage":0}}'
    api.misbehave(Fault.replace(total_credits="null", total_usage="NaN"))
    assert client.get("/credits").text == '{"data":{"total_credits":null,"total_usage":NaN}}'
    api.misbehave(Fault.without("total_usage"))
    assert exact(client.get("/credits")).keys() == {"total_credits"}
    api.misbehave(Fault.money_as_strings())
    assert isinstance(exact(client.get("/credits"))["total_usage"], str)
    api.misbehave(Fault.body(b"\xff\xfe"))
    assert client.get("/credits").content == b"\xff\xfe"
    api.misbehave(Fault.nested(50_000))
    assert client.get("/credits").content.count(b"[") == 50_000


def test_a_huge_body_is_made_while_it_is_sent(api, client):
    size = 30_000_000
    api.misbehave(Fault.huge_body(size))
    with client.stream("GET", "/credits") as reply:
        assert int(reply.headers["Content-Length"]) == size
        assert sum(map(len, reply.iter_raw())) == size


def test_analytics_rows_in_the_other_spellings_mean_the_same(api, client):
    def rows(fault: Fault) -> list[dict[str, Any]]:
        api.misbehave(fault)
        return exact(client.post("/analytics/query", json=query(ANCHOR - timedelta(days=2), ANCHOR)))["data"]

    honest = exact(client.post("/analytics/query", json=query(ANCHOR - timedelta(days=2), ANCHOR)))["data"]
    numbers = rows(Fault.counts_as_numbers())
    assert [row["request_count"] for row in numbers] == [int(row["request_count"]) for row in honest]
    assert [row["model"] for row in numbers] == [row["model"] for row in honest]
    assert rows(Fault.iso_days())[0]["date__day"] == "2026-03-08T00:00:00.000Z"
    assert rows(Fault.days_with_time())[0]["date__day"] == "2026-03-08 00:00:00"
    assert {"date__day", "created_at__day"} & rows(Fault.created_at_day())[0].keys() == {"created_at__day"}
    both = rows(Fault.created_at_day() & Fault.iso_days())
    assert both[0]["created_at__day"] == "2026-03-08T00:00:00.000Z"
    assert rows(Fault.replace(reasoning_tokens="null"))[0]["reasoning_tokens"] is None
    stray = {"date__day": "2020-01-01", "model": "a/x", "credits_usage": 9}
    assert rows(Fault.more_rows(stray)) == [*honest, stray]


def test_a_server_that_truncates_says_so_only_where_it_did(api, client):
    api.misbehave(Fault.truncate(5), times=None)
    some = exact(client.post("/analytics/query", json=query(ANCHOR, ANCHOR)))
    assert len(some["data"]) == 5
    assert some["metadata"] == {"query_time_ms": 42, "row_count": 5, "truncated": True}
    few = exact(client.post("/analytics/query", json=query(ANCHOR, ANCHOR, dimensions=None)))
    assert few["metadata"]["truncated"] is False


# By hand


def test_the_command_line_writes_earlier_readings(tmp_path):
    target = tmp_path / "readings.csv"
    command = [sys.executable, "-m", "credits_pipeline.simulator", "--anchor", str(ANCHOR)]
    done = subprocess.run(
        [*command, "--write-readings", target, "--account", "agents"],
        capture_output=True,
        text=True,
        check=True,
    )
    lines = target.read_text(encoding="utf-8").splitlines()
    assert f"Wrote {len(lines) - 1} readings of the simulated account agents" in done.stdout
    unknown = subprocess.run(
        [*command, "--write-readings", target, "--account", "x"], capture_output=True, text=True
    )
    assert unknown.returncode == 2
    assert "there are default, agents, hobby" in unknown.stderr


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
