"""A key's limit is forecast like an account's balance: same models, same figures, the key's own spend."""

from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from credits_pipeline_tests.models import DAY, Row, World, at, usd
from credits_pipeline_tests.sql.test_forecast import START, believable, midnight

# The newest list is of Friday, 2 May 2025.
SPENDS = believable(5, 60)


class Keys(World):
    def list_key(self, when, usage, *, key="k1", name=None, limit=None, left=None, reset=None, **columns):
        """A row of `raw.api_keys`: USD that the key has used, its limit, and what is left of that."""
        row = {
            "account": "a", "observed_at": when, "key_hash": key, "name": name or key, "label": "sk-or-v1-abc...def",
            "limit_usd": limit, "limit_remaining_usd": left, "limit_reset": reset, "has_byok_in_limit": False,
            "usage_usd": usage, "is_disabled": False, "created_at": at("2025-01-01 00:00"), "run_id": "r", **columns,
        }  # fmt: skip
        names, marks = ", ".join(row), ", ".join("?" for _ in row)
        self.con.execute(f"insert into raw.api_keys ({names}) values ({marks})", list(row.values()))

    def bill_names(self, day: date, spent: Any, *names: str) -> None:
        members = {(name, "m"): spent for name in names}
        self.break_down(day, members, fetched=f"{day + timedelta(days=3)}")

    def limits(self, *also: str) -> dict[str, Row]:
        """The rows of key_limits by key, from what it needs, and other models if asked for."""
        self.build_for("key_limits", "key_limits_accuracy", *also)
        return {row["key_hash"]: row for row in self.table("key_limits")}

    def spent(self, key: str = "k1") -> dict[date, Decimal | None]:
        """Complete days only."""
        days = [row for row in self.table("int_key_spend") if row["key_hash"] == key and row["is_complete"]]
        return {row["spend_date"]: row["spend_usd"] for row in days}


@pytest.fixture(scope="module")
def kind() -> type[World]:
    return Keys


def test_a_key_is_forecast_exactly_as_an_account_that_spends_the_same(world):
    resets = {"never": None, "daily": date(2025, 5, 3), "weekly": date(2025, 5, 5), "monthly": date(2025, 6, 1)}
    total, left = Decimal(0), Decimal(40)
    credits = sum(SPENDS) + left
    for number, spend in enumerate([*SPENDS, Decimal(0)]):
        when = midnight(START + number * DAY)
        world.read(when, credits, total)
        for key, resets_on in resets.items():
            reset = key if resets_on else None
            world.list_key(when, total, key=key, limit=credits, left=credits - total, reset=reset)
        total += spend
    keys = world.limits("credits_runway")
    [account] = world.table("credits_runway")
    curve = {row["run_out_date"]: row["probability"] for row in world.table("runway_curve")}
    accuracy = [tuple(row.values())[1:] for row in world.table("forecast_accuracy")]
    for key, resets_on in resets.items():
        row = keys[key]
        assert row["expected_daily_spend_usd"] == account["expected_daily_spend_usd"]
        assert row["resets_at"] == (resets_on and midnight(resets_on))
        assert row["probability_before_reset"] == (resets_on and pytest.approx(curve[resets_on - DAY], rel=1e-12))
        found = [tuple(row.values())[2:] for row in world.table("key_limits_accuracy") if row["key_hash"] == key]
        assert found == accuracy
    assert account["run_out_p50"] < resets["monthly"]
    assert keys["never"]["limit_reached_p50"] == keys["monthly"]["limit_reached_p50"] == account["run_out_p50"]
    assert keys["daily"]["limit_reached_p50"] is None


def test_a_key_spends_what_its_counter_says_whatever_its_name_and_before_that_what_its_own_name_was_billed(world):
    world.read("2025-07-01 00:00", 100, 0)
    for day in range(1, 8):  # billed from 1 to 7 June; the key was made on the 3rd, an older one had its name before
        world.bill_names(date(2025, 6, day), day, "agent", "shared")
    made = at("2025-06-03 09:00")
    for day, usage in ((8, 50), (9, 51), (10, None), (12, 57), (13, 58)):
        when = datetime(2025, 6, day, 12)
        world.list_key(when, usage, name="agent" if day < 10 else "renamed", created_at=made)
        for key in ("k2", "k3"):  # one name, two keys: nobody knows whose the bill is
            world.list_key(when, usage, key=key, name="shared", created_at=made)
    world.limits()
    # From noon to noon 1, then 6 in three days: half a day belongs to either side of a midnight.
    counted = {9: "1.5", 10: "2", 11: "2", 12: "1.5"}
    by_counter = {date(2025, 6, day): usd(spend) for day, spend in counted.items()}
    assert world.spent("k1") == {date(2025, 6, day): usd(day) for day in range(3, 8)} | by_counter
    assert world.spent("k2") == by_counter
    assert world.table("int_key_spend")[-1]["spend_usd"] == usd("0.5")  # the running day, up to its list


def test_what_a_key_would_have_spent_while_its_limit_was_used_up_is_not_known(world):
    world.read("2025-07-01 00:00", 100, 0)
    for number, (usage, left) in enumerate(((0, 9), (5, 4), (9, 0), (9, 0), (9, 0), (12, 6))):
        world.list_key(midnight(START + number * DAY), usage, limit=9, left=left, reset="weekly")
    [key] = world.limits().values()
    assert world.spent() == {START: usd(5), START + DAY: usd(4), START + 4 * DAY: usd(3)}
    assert (key["used_usd"], key["remaining_usd"]) == (usd(3), usd(6))


def test_each_key_of_the_newest_list_has_its_row_and_only_what_is_known_is_said(world):
    world.read("2025-07-01 00:00", 100, 0)
    total = Decimal(0)
    made = at("2025-01-01 00:00")
    for number, spend in enumerate([*SPENDS[:20], 0]):
        when = midnight(START + number * DAY)
        cap: Row = {"limit": 1000, "left": 1000 - total, "reset": "monthly"}
        if number < 20:
            world.list_key(when, total, key="deleted", **cap)
        world.list_key(when, total, key="free")
        world.list_key(when, total, key="off", **cap, is_disabled=number == 20)
        world.list_key(when, total, key="byok", **cap, has_byok_in_limit=True)
        world.list_key(when, None, key="silent", **cap)
        world.list_key(when, total, key="spent", limit=5, left=-1 if number == 20 else 1, reset="monthly")
        world.list_key(when, 0, key="unused", **cap, created_at=made, expires_at=at("2025-12-31 10:00"))
        total += spend
    world.bill_names(START, 0, "new")
    world.list_key(when, 3, key="new", usage_daily_usd=3, **cap)
    keys = world.limits()
    assert sorted(keys) == ["byok", "free", "new", "off", "silent", "spent", "unused"]
    today = START + 20 * DAY
    for name, row in keys.items():
        assert row["has_no_limit"] == (name == "free")
        assert row["probability_before_reset"] == (1 if name == "spent" else None)
        assert row["limit_reached_p50"] == (today if name == "spent" else None)
    assert keys["unused"]["unused_days"] == (today - made.date()).days
    assert keys["unused"]["expected_daily_spend_usd"] == keys["off"]["expected_daily_spend_usd"] == 0
    assert keys["unused"]["expires_on"] == date(2025, 12, 31)
    assert (keys["free"]["unused_days"], keys["new"]["unused_days"]) == (1, 0)
    assert keys["silent"]["expected_daily_spend_usd"] is None
    assert keys["off"]["is_disabled"]
