"""When credits run out: the forecast models over a real DuckDB, from the raw tables on.

Readings lie at midnight, so that a day's spend is exactly what the counter moved by.
"""

import math
import random
from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from decimal import Decimal
from itertools import accumulate
from typing import Any

import pytest

from credits_pipeline.config import LARGEST_TOTAL_USD
from credits_pipeline.openrouter.replies import LARGEST_COUNT, LARGEST_DAY_USD
from credits_pipeline_tests.models import DAY, Row, World, midnight, usd

START = date(2025, 3, 3)  # a Monday
MARTS = ("runway_curve", "credits_runway", "balance_forecast", "runway_history", "forecast_accuracy")


class Forecasts(World):
    """A World that knows accounts by their daily spend."""

    def spend(self, account: str, days: Sequence[Any], balance: Any, unread: Sequence[int] = ()) -> None:
        """Readings at each midnight but those numbered in `unread`; credits leave `balance` at the last one."""
        totals = list(accumulate((usd(str(day)) for day in days), initial=Decimal(0)))
        credits = totals[-1] + usd(str(balance))
        counters = [(credits, usage) if n not in unread else None for n, usage in enumerate(totals)]
        self.read_nightly(START, counters, account)

    def build_all(self) -> None:
        self.build_for(*MARTS)

    def runway(self, account: str = "a") -> Row:
        [row] = self.table("credits_runway", account)
        return row

    def answer(self, days: Sequence[Any], balance: Any, **options: Any) -> Row:
        """The runway of one account of its own, freshly built."""
        self.empty()
        self.spend("a", days, balance, **options)
        self.build_all()
        return self.runway()


@pytest.fixture(scope="module")
def kind() -> type[World]:
    return Forecasts


def dates(row: Row) -> tuple[date | None, date | None, date | None]:
    return row["run_out_p10"], row["run_out_p50"], row["run_out_p90"]


MEMORIES = (0.05, 0.35)
CALM: Mapping[str, float] = {"m": 0.2, "p": 2.5, "v1": 1.2, "v2": 0.4, "drift": 0.01, "v0": 0.005, "nu": 3}
BURSTY: Mapping[str, float] = {"m": 0.5, "p": 3, "v1": 1.8, "v2": 1.2, "drift": 0.04, "v0": 0.01, "nu": 8}


class ByHand:
    """The forecast of docs/forecast.md in plain Python, one account, up to 180 days, day by day."""

    def __init__(self, spend: Sequence[float], start: date) -> None:
        self.y, self.start = list(spend), start
        self.states = [self._state(n) for n in range(1, len(spend) + 1)]

    def _weekday(self, index: int) -> int:
        return (self.start + index * DAY).weekday()

    def _factors(self, n: int) -> list[float]:
        mean = sum(self.y[:n]) / n
        prior = 0.5
        if n > 1 and mean > 0:
            prior += sum((v - mean) ** 2 for v in self.y[:n]) / (n - 1) / mean**2

        def shrunk(weekdays: Sequence[int], towards: float, pseudo_days: float) -> float:
            days = [j for j in range(n) if self._weekday(j) in weekdays]
            capped = sum(min(self.y[j], 2 * sum(self.y[: j + 1]) / (j + 1)) for j in days)
            return ((capped / mean if mean else 0) + towards * pseudo_days) / (len(days) + pseudo_days)

        working, weekend = shrunk(range(5), 1, prior), shrunk((5, 6), 1, prior)
        average = (5 * working + 2 * weekend) / 7
        kinds = [working / average] * 5 + [weekend / average] * 2
        factors = [shrunk([weekday], kind, 4 * prior) for weekday, kind in enumerate(kinds)]
        return [factor * 7 / sum(factors) for factor in factors]

    def _state(self, n: int) -> dict[str, Any]:
        y, factors = self.y[:n], self._factors(n)
        flat = [y[j] / self.own_factors[j] for j in range(n - 1)] if n > 1 else []
        self.own_factors = [*getattr(self, "own_factors", []), factors[self._weekday(n - 1)]]
        flat.append(y[-1] / self.own_factors[-1])
        mean_flat = sum(flat) / n
        cv2 = 0.0
        if n > 1 and mean_flat > 0:
            cv2 = sum((z - mean_flat) ** 2 for z in flat) / (n - 1) / mean_flat**2
        bursty = min(cv2 / 0.5, 1)
        kind = {name: CALM[name] + bursty * (BURSTY[name] - CALM[name]) for name in CALM}
        active = sum(v > 0 for v in y) / n
        used = MEMORIES if sum(v == 0 for v in y[-7:]) <= 6 else MEMORIES[:1]
        levels, inverse = [], []
        for a in MEMORIES:
            weights = [(1 - a) ** (n - 1 - j) for j in range(n)]
            shape = [(1 - a) ** k for k in range(7)]
            factor = sum(w * factors[self._weekday(n - 1 - k)] for k, w in enumerate(shape)) / sum(shape)
            mean = sum(w * v for w, v in zip(weights, y, strict=True)) / sum(weights)
            levels.append(mean / factor + 0.01 * sum(y) / n)
            inverse.append(sum(w * w for w in weights) / sum(weights) ** 2)
        c2 = ((n - 1) * cv2 + kind["p"] * kind["m"]) / (n - 1 + kind["p"])
        logs = [math.log(max(level, 1e-300)) for level in levels[: len(used)]]
        middle = sum(logs) / len(logs)
        return {
            "factors": factors, "levels": levels, "used": len(used), "kind": kind, "c2": c2, "active": active,
            "days": n, "erratic": bursty * min(c2, 1),
            "inverse": sum(inverse[: len(used)]) / len(used), "middle": math.exp(middle),
            "spread": sum((v - middle) ** 2 for v in logs) / len(logs),
        }  # fmt: skip

    @staticmethod
    def _variance(state: dict[str, Any], h: int) -> float:
        kind = state["kind"]
        noise = state["c2"] * (kind["v1"] / h + kind["v2"] * state["inverse"])
        return math.log(1 + noise) + kind["drift"] * h / 30 + kind["v0"] + 4 * state["erratic"] / state["days"]

    def curve(self, balance: float, horizon: int = 365) -> list[float]:
        now, n = self.states[-1], len(self.y)
        judged, errors, error_all = 0.0, [0.0, 0.0], 0.0
        for i in range(2, n + 1):
            then = self.states[i - 1]
            for w in (1, 7):
                if i + w > n or sum(self.y[:i]) == 0 or (1 - then["active"]) ** w > 0.5:
                    continue
                days = then["factors"][self._weekday(i)] if w == 1 else w
                rate, small = sum(self.y[i : i + w]) / days, 0.1 * then["middle"]
                claimed = self._variance(then, w) + then["spread"]

                def error(level: float, *, rate=rate, small=small, claimed=claimed, w=w) -> float:
                    return min(math.log((rate + small) / (level + small)) ** 2 / claimed, 6) / w

                judged += 1 / w
                errors = [e + error(level) for e, level in zip(errors, then["levels"], strict=True)]
                error_all += error(then["middle"])
        weights = [((e + 5) / (judged + 5)) ** -4 for e in errors][: now["used"]]
        logs = [math.log(level) for level in now["levels"][: now["used"]]]
        share = weights[1] / sum(weights) if len(weights) == 2 else 0.0
        gap = logs[1] - logs[0] if len(logs) == 2 else 0.0
        shift = now["erratic"] * (0.5 * (1 - now["active"]) - 0.1)
        width = (now["kind"]["nu"] + error_all) / (now["kind"]["nu"] + judged)
        probabilities, days = [0.0], 0.0
        for h in range(1, horizon + 1):
            days += now["factors"][self._weekday(n - 1 + h)]
            odds = share / (1 - share) * (h / 7) ** (-1.5 * now["erratic"])
            fast = odds / (1 + odds)
            spread = math.sqrt(width * self._variance(now, h) + fast * (1 - fast) * gap**2)
            x = 1.702 * (logs[0] + shift + fast * gap + math.log(days / balance)) / spread
            probabilities.append(max(probabilities[-1], 1 / (1 + math.exp(max(-x, -700)))))
        return probabilities[1:]


def believable(seed: int, days: int) -> list[Decimal]:
    """A made-up account: a level, a weekly rhythm, bursts, idle days, a change of regime."""
    dice = random.Random(seed)
    level, idle, burst = 10 ** dice.uniform(-3, 3), dice.choice([0, 0.1, 0.5]), dice.choice([0, 0.1])
    turn, after = dice.randrange(1, days + 1), dice.choice([0.2, 1, 1, 4])
    spend = []
    for n in range(days):
        value = level * dice.lognormvariate(0, 0.4) * (0.3 if n % 7 > 4 else 1) * (after if n >= turn else 1)
        value *= 8 if dice.random() < burst else 1
        spend.append(usd(f"{0 if dice.random() < idle else value:.9f}"))
    return [*spend[:-2], usd(f"{level:.9f}"), usd(f"{level:.9f}")] if days > 2 else spend


@pytest.mark.parametrize("days", [3, 8, 40, 180])
def test_the_curve_is_the_one_that_the_method_describes(world, days):
    accounts = {f"s{seed}": believable(seed, days) for seed in range(4)}
    balances = {name: usd(f"{float(sum(spend)) / days * 20 + 1e-9:.9f}") for name, spend in accounts.items()}
    for name, spend in accounts.items():
        world.spend(name, spend, balances[name])
    world.build_all()
    for name, spend in accounts.items():
        expected = ByHand([float(v) for v in spend], START).curve(float(balances[name]))
        curve = [row["probability"] for row in world.table("runway_curve", name)]
        assert curve == pytest.approx(expected, abs=1e-9), name


def test_what_happens_later_moves_no_earlier_forecast(world):
    past, origin = believable(1, 50), START + 49 * DAY
    changed = random.Random(1).choices([Decimal(0), Decimal("0.000001"), Decimal(7), Decimal(900000)], k=12)
    rows = []
    for future in ([past[-1]] * len(changed), changed):
        # A reading is there at the origin's close; credits are the same in both worlds.
        world.answer([*past, *future], usd(10**7) - sum(past) - sum(future))
        nights = [{**row, "next_day_spend_usd": None} for row in world.table("runway_history")]
        rows.append([row for row in nights if row["as_of_date"] <= origin])
        for table, known in (("int_spend_forecast", "origin_date"),
                             ("int_forecast_replays", "origin_date + cast(horizon_days as integer)")):  # fmt: skip
            query = f"from intermediate.{table} where {known} <= ? order by all"
            rows[-1] += world.con.execute(query, [origin]).fetchall()
    assert len(rows[0]) > 100
    assert rows[0] == rows[1]


def test_the_same_input_gives_the_same_rows_in_any_order_and_with_any_number_of_threads(world):
    accounts = {f"s{seed}": believable(seed, 60 + seed) for seed in range(30)}
    found = []
    for threads in (1, 2, 8):
        world.con.execute(f"set threads = {threads}")
        world.empty()
        for name in sorted(accounts, key=lambda name, t=threads: random.Random(f"{name}{t}").random()):
            world.spend(name, accounts[name], sum(accounts[name]))
        world.build_all()
        found.append([world.table(mart, None) for mart in MARTS])
    assert all(found[0])
    assert found[0] == found[1] == found[2]


WITHOUT_A_DATE = [
    ([5] * 20 + [0] * 30, 100, "idle", "Nothing was spent in the last 30 days, so the $100.00 will last until"),
    ([0] * 3, 14, "accumulating", "known so far: 3, 0 with spend"),
    ([4, 6], 50, "accumulating", "known so far: 2, 2 with spend"),
    ([0] * 3, 0, "exhausted", "No credits were ever bought or spent"),
    ([1] * 40, 100_000, "ok", "last for more than a year"),
]


def test_an_account_without_a_date_is_told_why(world):
    for number, (days, balance, *_) in enumerate(WITHOUT_A_DATE):
        world.spend(f"{number}", days, balance)
    world.build_all()
    for number, (days, _, status, said) in enumerate(WITHOUT_A_DATE):
        row, today = world.runway(f"{number}"), START + len(days) * DAY
        assert (row["status"], row["run_out_p50"]) == (status, today if status == "exhausted" else None)
        assert said in row["explanation"]


def test_steady_spend_lasts_as_long_as_it_divides(world):
    row = world.answer([5] * 60, 100)
    assert row["days_left_p50"] in (19, 20)  # the level leans 3 % to the early side
    assert 15 <= row["days_left_p10"] <= row["days_left_p90"] <= 25
    assert row["expected_daily_spend_usd"] == pytest.approx(Decimal(5), rel=Decimal("0.05"))
    assert (row["spend_7d_usd"], row["spend_30d_usd"]) == (usd(35), usd(150))
    assert row["method"] == "fuel_gauge"
    date = START + (59 + row["days_left_p50"]) * DAY
    assert row["explanation"].startswith(
        f"At about ${row['expected_daily_spend_usd']:.2f} a day, $100.00 will last until about {date:%-d %b %Y}, "
    )


def test_the_running_day_is_no_history(world):
    for account in ("before", "a"):
        world.spend(account, [5] * 30, 100)
    world.read(midnight(START + 30 * DAY) + timedelta(hours=1), 250, "150.2")
    world.build_all()
    before, after = world.runway("before"), world.runway()
    assert dates(after) == dates(before)
    assert after["expected_daily_spend_usd"] == before["expected_daily_spend_usd"]
    assert after["balance_usd"] == usd("99.8")


def test_a_correction_counts_as_a_day_without_spend(world):
    for account, day in (("corrected", -30), ("plain", 0)):
        world.spend(account, [5] * 20 + [day] + [5] * 9, 100)
    world.build_all()
    assert dates(world.runway("corrected")) == dates(world.runway("plain"))


def test_a_gap_is_counted_as_estimated_days_and_hardly_moves_the_date(world):
    days = believable(3, 90)
    for account, unread in (("whole", []), ("gappy", [n for n in range(2, 88) if n % 3 == 0])):
        world.spend(account, days, sum(days) / 4, unread=unread)
    world.build_all()
    whole, gappy = world.runway("whole"), world.runway("gappy")
    assert (whole["imputed_days"], gappy["imputed_days"]) == (0, 58)
    assert gappy["history_days"] == whole["history_days"] == 90
    assert abs(gappy["days_left_p50"] - whole["days_left_p50"]) <= 3


def test_the_accuracy_is_that_of_the_replays(world):
    world.spend("a", believable(11, 120), 1000)
    world.build_all()
    spend = {row["spend_date"]: row["spend_usd"] for row in world.table("daily_spend")}
    replays = world.table("int_forecast_replays", None)
    for row in replays:
        ahead = [row["origin_date"] + n * DAY for n in range(1, row["horizon_days"] + 1)]
        assert row["spent_usd"] == sum(spend[day] for day in ahead)
        last_week = [spend[row["origin_date"] - n * DAY] for n in range(7) if row["origin_date"] - n * DAY in spend]
        flat = float(sum(last_week)) / len(last_week) * row["horizon_days"]
        assert float(row["flat_7d_spend"]) == pytest.approx(flat, abs=1e-6)
        month = [spend[row["origin_date"] - n * DAY] for n in range(28) if row["origin_date"] - n * DAY in spend]
        worth = float(sum(month)) / len(month) * row["horizon_days"]
        assert float(row["virtual_balance_usd"]) == pytest.approx(worth, abs=1e-6)
    for row in world.table("forecast_accuracy"):
        mine = [one for one in replays if one["horizon_days"] == row["horizon_days"]]
        assert row["replays"] == len(mine) == 120 - 2 - row["horizon_days"]
        inside = [one["spend_p10"] <= one["spent_usd"] <= one["spend_p90"] for one in mine]
        assert row["coverage_80"] == pytest.approx(sum(inside) / len(mine), abs=1e-9)
        over = {level: [float(one["spent_usd"] - one[f"spend_p{level}"]) for one in mine] for level in (10, 50, 90)}
        losses = [max(level * usd, (level - 100) * usd) / 100 for level, sums in over.items() for usd in sums]
        assert float(row["pinball_loss_usd"]) == pytest.approx(sum(losses) / len(losses), rel=1e-6)
        flat = [abs(float(one["spent_usd"] - one["flat_7d_spend"])) / 2 for one in mine]
        assert float(row["flat_7d_pinball_loss_usd"]) == pytest.approx(sum(flat) / len(flat), rel=1e-6)
        happened = [one["spent_usd"] >= one["virtual_balance_usd"] for one in mine]
        squares = [(one["probability"] - gone) ** 2 for one, gone in zip(mine, happened, strict=True)]
        assert row["brier_score"] == pytest.approx(sum(squares) / len(squares), abs=1e-12)
        said = [one["flat_7d_spend"] >= one["virtual_balance_usd"] for one in mine]
        wrong = sum(one != gone for one, gone in zip(said, happened, strict=True))
        assert row["flat_7d_brier_score"] == pytest.approx(wrong / len(mine))
    calibration = world.runway()["calibration_80"]
    assert calibration == pytest.approx(sum(row["is_inside_80"] for row in replays) / len(replays))


def test_tonight_in_the_history_is_the_runway_of_today_and_the_change_is_that_since_the_night_before(world):
    compared = 0
    for seed in range(20):
        world.spend(f"s{seed}", believable(seed, 50), sum(believable(seed, 50)))
    world.build_all()
    for seed in range(20):
        runway, nights = world.runway(f"s{seed}"), world.table("runway_history", f"s{seed}")
        assert nights[-1]["as_of_date"] == runway["as_of"].date() - DAY
        assert dates(nights[-1]) == dates(runway)
        assert len(nights) == 50
        assert nights[-1]["next_day_spend_usd"] is None
        for row in world.table("int_runway_change", f"s{seed}"):
            assert row["moved_days"] == (nights[-1]["run_out_p50"] - nights[-2]["run_out_p50"]).days
            compared += 1
    assert compared > 10


def test_the_check_warns_when_the_interval_was_right_too_rarely_or_too_often_and_says_what_that_means(world):
    world.build_all()
    world.con.execute("insert into intermediate.int_series by name select 1 as series, 'a' as account")
    tests = {test.name: test for test in world.project.models["int_forecast_replays"].tests}
    check = tests["forecast_coverage_is_near_80_percent"]
    assert check.severity == "warn"
    for right, replays, said in (
        (69, 100, "real dates may lie beyond P10 to P90: plan with P10"),
        (70, 100, None),
        (91, 100, "dates are on the cautious side"),
        (0, 99, None),  # too few to tell
    ):
        # Before the last hundred to come true lie others, all wrong, of which the check must not speak.
        world.con.execute(
            """
            delete from intermediate.int_forecast_replays;
            insert into intermediate.int_forecast_replays by name
            select 1 as series, date '2025-06-01' + n::int as origin_date, 7 as horizon_days, n < ? as is_inside_80
            from range(?) as recent (n)
            union all select 1, date '2025-03-01' + n::int, 30, false from range(?) as older (n)
            """,
            [right, replays, 60 * (replays == 100)],
        )
        [found] = world.project.test(world.con, [check])
        assert found.passed == (said is None)
        assert (said or "passed") in found.message
        assert "itself" in found.message or said is None  # and that nothing needs doing


@pytest.fixture(scope="module")
def moved(_world: Forecasts) -> dict[str, Row]:
    """One account for each cause, by its name: what int_runway_change and credits_runway say of it."""
    _world.empty()
    for last in (25, 0):
        days = [Decimal(5)] * 40 + [Decimal(last)]
        _world.spend(f"{last} spent", days, 100)
        for n, day in enumerate(days):
            usual = min(day, Decimal(5))
            models = {"vendor/usual": usual, "vendor/new": day - usual} if day else {}
            _world.bill(START + n * DAY, day, models=models, account=f"{last} spent")
    for bought in (50, -50):
        _world.spend(f"{bought} bought", [5] * 41, 100)
        later = midnight(START + 41 * DAY) + timedelta(hours=1)
        _world.read(later, 305 + bought, 205, account=f"{bought} bought")
    _world.spend("learnt", [5] * 40 + [8] * 3, 400)
    _world.spend("nothing new", [5] * 60, 100)
    _world.build_all()
    rows = {row["account"]: row | _world.runway(row["account"]) for row in _world.table("int_runway_change", None)}
    assert all(
        row["moved_days"] == row["spend_days"] + row["credit_days"] + row["learning_days"] for row in rows.values()
    )
    return rows


@pytest.mark.parametrize(
    ("account", "spend_days", "credit_days", "said"),
    [
        ("25 spent", -4, 0, "higher spend than expected (-4 days, mostly vendor/new)"),
        ("0 spent", 1, 0, "lower spend than expected (+1 day, mostly vendor/usual)"),
        ("50 bought", 0, 10, "10 days later than the previous day's forecast: a top-up (+10 days)"),
        ("-50 bought", 0, -10, "10 days earlier than the previous day's forecast: a refund or other deduction (-10"),
        ("nothing new", 0, 0, ", unchanged since the previous day's forecast."),
    ],
)
def test_what_moved_the_date_is_named_with_its_days_and_dearest_model(moved, account, spend_days, credit_days, said):
    row, expected = moved[account], (spend_days, credit_days, 5 * credit_days)
    assert (row["spend_days"], row["credit_days"], row["credit_change_usd"]) == expected
    assert said in row["explanation"]


def test_what_was_learnt_is_named_with_its_days_and_no_model_where_no_bill_is_known(moved):
    row = moved["learnt"]
    assert row["learning_days"] < 0  # the third dear day in a row raises what is expected of the next
    assert row["most_risen_model"] is None
    assert f"an updated spending rate ({row['learning_days']:+d} day" in row["explanation"]
    assert "mostly" not in row["explanation"]


@pytest.mark.slow
def test_the_most_absurd_replies_that_are_believed_stop_no_other_accounts_figures(world):
    most, day, end = LARGEST_TOTAL_USD, LARGEST_DAY_USD, 60
    billed = {
        "gigantic bills": (day, day), "gigantic refunds": (-day, -day), "both in turn": (-day, day),
        "counters that jump": (-day, day), "gigantic counts": (5, 5), "ordinary": (5, 5), "never read": (day, day),
        "a nano-dollar a day": ("0.000000001", "0.000000001"),
    }  # fmt: skip
    counters = {
        **{account: {end: (most, 0)} for account in ("gigantic bills", "gigantic refunds", "both in turn")},
        "counters that jump": {n: (most * (n % 2), most * (n % 3 > 0)) for n in range(end)},
        "gigantic debt": {n: (0, most) for n in range(end)}, "never spent": {n: (most, 0) for n in range(end)},
        "used up in one gap": {0: (most, 0), end: (most, most)}, "away for years": {0: (most, 0), 500: (most, most)},
        "one huge day and silence": {0: (most, 0)} | {n: (most, most - 1) for n in range(200, 260)},
        "a nano-dollar a day": {n: (1, 0) for n in range(end)},
        "gigantic counts": {end: (400, 300)}, "ordinary": {end: (400, 300)},
    }  # fmt: skip
    for account, read in counters.items():
        for number, (credits, usage) in read.items():
            world.read(midnight(START + number * DAY), credits, usage, account=account)
    for account, amounts in billed.items():
        for number in range(end):
            world.bill(START + number * DAY, amounts[number % 2], account=account)
    for number in range(500):  # a gap of more than a year, each day billed as much as is believed
        world.bill(START + number * DAY, day, account="away for years")
    columns = ("requests", "prompt_tokens", "completion_tokens", "reasoning_tokens", "cached_tokens")
    most_counts = ", ".join(f"{column} = {LARGEST_COUNT}" for column in columns)
    world.con.execute(f"update raw.model_usage set {most_counts} where account = 'gigantic counts'")
    result = world.project.build(world.con)
    assert [test.message for test in result.blocking] == []
    (row,) = world.table("credits_runway", "ordinary")
    assert row["status"] == "ok"
    assert row["days_left_p50"] in (19, 20)
