"""Alerts: due once per crossing, delivered to each channel once, and never the reason for a red run."""

import logging
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from credits_pipeline import clock, config
from credits_pipeline.alerts import channels, messages
from credits_pipeline.alerts import notify as alerts
from credits_pipeline.simulator import SimulatedAccount, SimulatedAPI
from credits_pipeline.warehouse import Warehouse
from credits_pipeline_tests.receiver import Receiver

DAY = date(2026, 6, 17)
NOW = datetime(2026, 6, 17, 0, 5, tzinfo=UTC)
KEY = "sk-or-v1-of-the-default-account"
LOG = logging.getLogger("credits_pipeline_tests.alerts")

# The columns that alerts read, as the models publish them.
MARTS = """
create table marts.credits_runway (
    account varchar, as_of timestamp, status varchar, is_early boolean, balance_usd decimal(18,9),
    spend_7d_usd decimal(18,9), spend_30d_usd decimal(18,9), expected_daily_spend_usd decimal(18,9),
    run_out_p10 date, run_out_p50 date, run_out_p90 date, probability_7d double, probability_30d double,
    history_days bigint, calibration_80 double, explanation varchar);
create table marts.credit_events (
    account varchar, event_at_earliest timestamp, event_at_latest timestamp, kind varchar, amount_usd decimal(18,9));
create table marts.daily_spend (
    account varchar, spend_date date, spend_usd decimal(18,9), method varchar, is_complete boolean,
    billed_usd decimal(18,9));
create table marts.daily_spend_by_model (account varchar, spend_date date, model varchar, spend_usd decimal(18,9));
create table marts.runway_history (account varchar, as_of_date date, next_day_p99_usd decimal(18,9));
"""


class World:
    """A warehouse whose marts say what a test wants them to, and passes of alerts over it."""

    def __init__(self, data_dir: Path) -> None:
        self.env = {
            "OPENROUTER_API_KEY": KEY,
            "OPENROUTER_API_KEY_ACME": "sk-or-v1-acme",
            "CREDITS_DATA_DIR": str(data_dir),
        }
        self.data_dir = data_dir
        with self.warehouse.writing("making the marts of a test") as con:
            con.execute(MARTS)

    @property
    def warehouse(self) -> Warehouse:
        return Warehouse(self.data_dir / "warehouse.duckdb", lock_timeout_s=5)

    def channels(self, *urls: str) -> None:
        self.env["CREDITS_ALERT_URLS"] = ",".join(urls)

    def execute(self, sql: str, *values: Any) -> None:
        with self.warehouse.writing("setting up a test") as con:
            con.execute(sql, list(values))

    def runway(self, left: int | None, account: str = "default", **columns: Any) -> None:
        """The newest row of an account, whose credits last `left` days from the running day."""
        as_of = clock.now().replace(tzinfo=None)
        until = None if left is None else as_of.date() + timedelta(days=left)
        row = {
            "account": account,
            "as_of": as_of,
            "status": "ok",
            "is_early": False,
            "balance_usd": Decimal("41.20"),
            "spend_7d_usd": Decimal("45.10"),
            "spend_30d_usd": Decimal("180"),
            "expected_daily_spend_usd": Decimal("6.4"),
            "run_out_p10": until and until - timedelta(days=1),
            "run_out_p50": until,
            "run_out_p90": until and until + timedelta(days=3),
            "probability_7d": 0.63,
            "probability_30d": 0.995,
            "history_days": 200,
            "calibration_80": 0.78,
            "explanation": "The date moved 2 days nearer: spend was above expectation.",
            **columns,
        }
        marks = ", ".join("?" * len(row))
        with self.warehouse.writing("setting up a test") as con:
            con.execute("delete from marts.credits_runway where account = ?", [account])
            con.execute(
                f"insert into marts.credits_runway ({', '.join(row)}) values ({marks})", [*row.values()]
            )

    def top_up(self, account: str = "default") -> None:
        """Seen by the reading of the present instant."""
        at = clock.now().replace(tzinfo=None)
        self.execute(
            "insert into marts.credit_events values (?, ?, ?, 'top_up', 100)",
            account,
            at - timedelta(hours=20),
            at,
        )

    def spend(
        self, day: date, usd: str, *, possible: str | None = "10", account: str = "default", **columns: Any
    ) -> None:
        """A day's spend, and the P99 of the forecast from the day before."""
        row = {"method": "observed", "is_complete": True, **columns}
        self.execute(
            "insert into marts.daily_spend values (?, ?, ?, ?, ?, null)", account, day, usd, *row.values()
        )
        self.execute(
            "insert into marts.runway_history values (?, ?, ?)", account, day - timedelta(days=1), possible
        )

    def model(self, day: date, model: str, usd: str, account: str = "default") -> None:
        self.execute("insert into marts.daily_spend_by_model values (?, ?, ?, ?)", account, day, model, usd)

    def send(self) -> alerts.Sent:
        """A pass as the asset makes it, by a program that remembers nothing of earlier ones."""
        return alerts.send_due(config.load(self.env), self.warehouse, run_id="run-1", log=LOG)

    def due(self) -> list[str]:
        return [alert.key for alert in self.send().due]

    def rows(
        self, columns: str = "alert_key, channel, sent_at is not null, cleared_at is not null"
    ) -> list[Any]:
        with self.warehouse.reading() as con:
            return con.execute(
                f"select {columns} from ops.alerts_sent order by due_at, alert_key, channel"
            ).fetchall()


@pytest.fixture
def now() -> Iterator[clock.FrozenClock]:
    with clock.frozen(NOW) as held:
        yield held


@pytest.fixture
def world(tmp_path: Path, now: clock.FrozenClock) -> World:
    return World(tmp_path / "data")


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as running:
        yield running


def closed_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


# -- credits that run out ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("days_left", "expected"),
    [
        pytest.param([20, 14], [None, None], id="at a threshold is not nearer than it"),
        pytest.param([20, 13, 12, 12, 8], [None, 14, None, None, None], id="once per crossing"),
        pytest.param([13, 6, 2, 1, 0], [14, 7, 3, None, None], id="each threshold once"),
        pytest.param([20, 2, 2], [None, 3, None], id="the nearest only, not three messages"),
        pytest.param([20, 2, 5, 6, 13], [None, 3, None, None, None], id="the farther ones were said with it"),
        pytest.param([13, 14, 13, 15, 13, 16, 13], [14, None, None, None, None, None, None], id="wandering"),
        pytest.param([13, 17, 13], [14, None, 14], id="well beyond it, the date arms it again"),
        pytest.param([2, 3, 2, 4, 2], [3, None, None, None, 3], id="the margin is a day at least"),
        pytest.param([13, None, 13], [14, None, 14], id="beyond a year arms it again"),
        pytest.param([2, 30, 2], [3, None, 3], id="all are armed again at once"),
    ],
)
def test_a_threshold_alerts_once_per_crossing_and_again_when_the_date_has_moved_beyond_it(
    world: World, now: clock.FrozenClock, days_left: list[int | None], expected: list[int | None]
) -> None:
    said = []
    for left in days_left:
        world.runway(left)
        due = world.send().due
        assert len(due) <= 1
        said.append(due[0].threshold_days if due else None)
        now.advance(timedelta(days=1))
    assert said == expected


def test_nothing_is_said_every_hour_while_credits_stay_low(world: World, now: clock.FrozenClock) -> None:
    said = []
    for hour in range(12):
        world.runway(2 + hour % 2)
        said += world.due()
        now.advance(timedelta(hours=1))
    assert said == ["run_out/default/3"]


@pytest.mark.parametrize(
    ("left_after", "then", "expected"),
    [
        pytest.param(3, 2, ["run_out/default/3"], id="just beyond the threshold is enough"),
        pytest.param(2, 2, [], id="too small to move the date beyond it: nothing new to say"),
        pytest.param(9, 2, ["run_out/default/3"], id="far beyond"),
    ],
)
def test_a_top_up_arms_a_threshold_again(
    world: World, now: clock.FrozenClock, left_after: int, then: int, expected: list[str]
) -> None:
    world.runway(2)
    assert world.due() == ["run_out/default/3"]
    now.advance(timedelta(hours=6))
    world.top_up()
    world.runway(left_after)
    assert world.due() == []
    now.advance(timedelta(hours=6))
    world.runway(then)
    assert world.due() == expected


def test_a_top_up_that_was_used_up_between_two_readings_arms_it_as_well(
    world: World, now: clock.FrozenClock
) -> None:
    world.runway(2)
    assert world.due() == ["run_out/default/3"]
    now.advance(timedelta(days=20))
    world.top_up()
    world.runway(2)
    assert world.due() == ["run_out/default/3"]


def test_a_top_up_before_the_alert_arms_nothing(world: World, now: clock.FrozenClock) -> None:
    world.top_up()
    world.runway(2)
    assert world.due() == ["run_out/default/3"]
    now.advance(timedelta(days=1))
    world.runway(3)
    assert world.due() == []
    world.runway(2)
    assert world.due() == []


def test_used_up_credits_are_an_alert_of_their_own_once_until_there_are_credits_again(
    world: World, now: clock.FrozenClock
) -> None:
    world.runway(0, status="exhausted", balance_usd=Decimal("-3.2"))
    (alert,) = world.send().due
    assert (alert.kind, alert.title) == ("exhausted", "default: credits are used up, balance −$3.20")
    now.advance(timedelta(hours=1))
    assert world.due() == []
    world.runway(60)
    assert world.due() == []
    world.runway(0, status="exhausted", balance_usd=Decimal(0))
    assert world.due() == ["exhausted/default"]


def test_an_idle_or_young_account_is_no_alarm_and_too_little_history_arms_nothing(
    world: World, now: clock.FrozenClock
) -> None:
    for status in ("idle", "accumulating"):
        world.runway(None, status=status)
        assert world.due() == []
    world.runway(2)
    assert world.due() == ["run_out/default/3"]
    world.runway(None, status="accumulating")
    assert world.due() == []
    world.runway(2)
    assert world.due() == []


def test_accounts_do_not_arm_or_silence_each_other(world: World, now: clock.FrozenClock) -> None:
    world.runway(2)
    world.runway(30, "acme")
    assert world.due() == ["run_out/default/3"]
    now.advance(timedelta(days=1))
    world.top_up("acme")
    world.runway(6, "acme")
    assert world.due() == ["run_out/acme/7"]


@pytest.mark.parametrize("status", ["ok", "accumulating", "idle", "exhausted"])
@pytest.mark.parametrize("figure", [Decimal("999999999.999999999"), Decimal("-999999999.999999999"), None])
def test_no_figure_of_one_account_stops_the_alerts_of_another(
    world: World, figure: Decimal | None, status: str
) -> None:
    world.runway(2)
    money = ("balance_usd", "spend_7d_usd", "spend_30d_usd", "expected_daily_spend_usd")
    world.runway(
        1 if status in {"ok", "exhausted"} else None, "acme", status=status, **dict.fromkeys(money, figure)
    )
    world.spend(DAY - timedelta(days=1), "999999999.999999999", possible="999999999", account="acme")
    world.model(DAY - timedelta(days=1), "vendor/absurd", "999999999.999999999", account="acme")
    assert "run_out/default/3" in world.due()


def test_an_account_without_a_key_is_no_news(world: World) -> None:
    world.runway(2, "imported_long_ago")
    assert world.due() == []


def test_other_thresholds_are_taken_from_the_settings_and_a_new_one_repeats_nothing(world: World) -> None:
    world.env["CREDITS_ALERT_DAYS"] = "30"
    world.runway(13)
    assert world.due() == ["run_out/default/30"]
    world.env["CREDITS_ALERT_DAYS"] = "40,30,10"
    assert world.due() == []
    world.runway(9)
    assert world.due() == ["run_out/default/10"]
    world.env["CREDITS_ALERT_DAYS"] = "12"  # ten days were told of already
    assert world.due() == []


def test_the_message_says_what_happened_how_sure_what_to_do_and_the_numbers(world: World) -> None:
    world.runway(6)
    (alert,) = world.send().due
    assert alert.title == "default: credits run out around 23 Jun 2026, 6 days left"
    assert alert.body.replace("\u00a0", " ").splitlines() == [
        "What happened: Credits will probably run out around 23 Jun 2026, less than 7 days after the latest reading. "
        "Balance $41.20; expected spend $6.40 a day; spent in the last 7 days $45.10, in the last 30 $180.00.",
        "How sure: 80 % sure: between 22 Jun and 26 Jun 2026. Gone within 7 days: 63 %; within 30 days: >99 %. So "
        "far, these 80 % intervals have been right 78 % of the time.",
        "Why: The date moved 2 days nearer: spend was above expectation.",
        "What to do: Top up before 22 Jun 2026 at https://openrouter.ai/settings/credits, or spend less. $192.00 would "
        "last about 30 days at the expected rate.",
        "As of: the reading of 17 Jun 2026 00:05 UTC.",
    ]


def test_an_early_estimate_says_so(world: World) -> None:
    world.runway(1, is_early=True, history_days=5, calibration_80=None, run_out_p90=None)
    (alert,) = world.send().due
    assert alert.title.endswith("1 day left (early estimate)")
    assert "early estimate from 5 complete days" in alert.body
    assert "What to do: Top up now at" in alert.body


# -- a day that costs too much -----------------------------------------------------------------------------------


def test_a_complete_day_above_what_seemed_possible_is_an_alert_once_with_the_models_that_caused_it(
    world: World, now: clock.FrozenClock
) -> None:
    world.runway(100)
    yesterday = DAY - timedelta(days=1)
    world.execute(
        """
        insert into marts.daily_spend
        select 'default', cast(day as date), 5, 'observed', true, case when day >= timestamp '2026-05-25' then 5 end
        from range(timestamp '2026-05-19', timestamp '2026-06-16', interval 1 day) days (day)
        """
    )
    world.execute(
        """
        insert into marts.daily_spend_by_model
        select account, spend_date, 'vendor/steady', 4 from marts.daily_spend where billed_usd is not null
        """
    )
    world.spend(yesterday, "41.2", possible="18.3")
    for model, usd in [
        ("vendor/steady", "4.2"),
        ("vendor/new", "30"),
        ("vendor/other", "7"),
        ("vendor/tiny", "0.01"),
    ]:
        world.model(yesterday, model, usd)
    (alert,) = world.send().due
    assert alert.title == "default: unusually high spend on 16 Jun 2026: $41.20"
    body = alert.body.replace("\u00a0", " ")
    assert "99 % sure of at most $18.30; a usual day costs $5.00." in body
    assert (
        "Models: vendor/new $30.00 (usually $0.00); vendor/other $7.00 (usually $0.00); vendor/steady" in body
    )
    assert "vendor/steady $4.20 (usually $4.00).\n" in body
    assert "measured from readings" in body
    assert "The forecast now: Credits last until about 25 Sep 2026." in body
    now.advance(timedelta(hours=12))
    assert world.due() == []


@pytest.mark.parametrize(
    ("columns", "day", "usd"),
    [
        pytest.param({"is_complete": False}, DAY, "50", id="the running day"),
        pytest.param({"method": "interpolated"}, DAY - timedelta(days=1), "50", id="an estimate"),
        pytest.param({}, DAY - timedelta(days=1), "10", id="exactly what was possible"),
        pytest.param({}, DAY - timedelta(days=4), "50", id="old news, as after a backfill"),
        pytest.param({"possible": "0.000000001"}, DAY - timedelta(days=1), "0.009", id="under a cent"),
    ],
)
def test_no_alarm_about(world: World, columns: dict[str, Any], day: date, usd: str) -> None:
    world.runway(100)
    world.spend(day, usd, **columns)
    assert world.due() == []


def test_spend_after_months_without_any_is_an_alert_and_the_first_days_of_a_new_account_are_none(
    world: World,
) -> None:
    yesterday = DAY - timedelta(days=1)
    for account, days in [("default", 200), ("acme", 2)]:
        world.runway(None, account)
        world.execute(
            """
            insert into marts.daily_spend
            select ?, cast(? as date) - cast(n as integer), 0, 'observed', true, 0 from range(1, ?) quiet (n)
            """,
            account,
            yesterday,
            days,
        )
        world.spend(yesterday, "3", possible=None, account=account)
    (alert,) = world.send().due
    assert alert.title.startswith("default: unusually high spend on 16 Jun 2026: $3.00")
    assert "sure of at most $0.00; a usual day costs $0.00" in alert.body


def test_a_day_without_a_bill_by_model_says_so(world: World) -> None:
    world.runway(100, is_early=True)
    world.spend(DAY - timedelta(days=1), "50", method="billed")
    (alert,) = world.send().due
    assert "there is no bill by model for this day" in alert.body
    assert "(as billed)" in alert.body
    assert "The forecast is still based on only a few days" in alert.body


# -- delivery ----------------------------------------------------------------------------------------------------


def test_each_channel_gets_one_message_once_and_a_restart_repeats_nothing(
    world: World, receiver: Receiver
) -> None:
    world.channels(receiver.url("/a"), receiver.url("/b"))
    world.runway(2)
    world.runway(0, "acme", status="exhausted")
    sent = world.send()
    assert (len(sent.due), sent.delivered) == (2, 2)
    for path in ("/a", "/b"):
        (message,) = receiver.taken(path)
        assert message["title"].startswith("acme: credits are used up")
        assert message["title"].endswith("(and 1 more alert)")
        assert "default: credits run out around 19 Jun 2026, 2 days left" in message["message"]
    assert world.send().due == ()
    assert len(receiver.messages) == 2
    assert {(key, sent) for key, channel, sent, _ in world.rows() if channel != "covered"} == {
        ("exhausted/acme", True),
        ("run_out/default/3", True),
    }


def test_a_dead_channel_fails_nothing_and_gets_later_what_the_others_have_got(
    world: World, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    world.channels(receiver.url("/a"), receiver.url("/b"), f"json://127.0.0.1:{closed_port()}/c")
    receiver.refusing.add("/b")
    world.runway(2)
    with caplog.at_level(logging.DEBUG):
        assert world.send().delivered == 1
    assert "not sent to json (2nd of 3): it did not accept the message (HTTP 503)" in caplog.text
    assert "not sent to json (3rd of 3): it could not be reached" in caplog.text
    receiver.refusing.clear()
    assert world.send().delivered == 1
    assert [path for path, _ in receiver.messages] == ["/a", "/b"]


def test_a_late_message_is_not_sent_when_its_cause_is_over(
    world: World, receiver: Receiver, now: clock.FrozenClock
) -> None:
    world.channels(receiver.url("/a"))
    receiver.refusing.add("/a")
    world.runway(2)
    world.send()
    receiver.refusing.clear()
    now.advance(timedelta(hours=1))
    world.top_up()
    world.runway(60)
    assert world.send() == alerts.Sent()
    assert receiver.messages == []


def test_a_late_message_is_not_sent_when_the_key_of_its_account_is_gone(
    world: World, receiver: Receiver
) -> None:
    world.channels(receiver.url("/a"))
    receiver.refusing.add("/a")
    world.runway(2, "acme")
    world.send()
    receiver.refusing.clear()
    del world.env["OPENROUTER_API_KEY_ACME"]
    world.send()
    assert receiver.messages == []


def test_of_two_thresholds_a_dead_channel_gets_the_nearer_one_only(world: World, receiver: Receiver) -> None:
    world.channels(receiver.url("/a"))
    receiver.refusing.add("/a")
    world.runway(6)
    world.send()
    receiver.refusing.clear()
    world.runway(2)
    world.send()
    assert receiver.titles == ["default: credits run out around 19 Jun 2026, 2 days left"]
    world.send()
    assert len(receiver.messages) == 1


def test_news_of_a_past_day_is_given_up_after_three_days_and_what_stands_is_not(
    world: World, receiver: Receiver, now: clock.FrozenClock
) -> None:
    world.channels(receiver.url("/a"))
    receiver.refusing.add("/a")
    world.runway(2)
    world.spend(DAY - timedelta(days=1), "50")
    assert len(world.send().due) == 2
    receiver.refusing.clear()
    now.advance(timedelta(days=4))
    world.send()
    assert receiver.titles == ["default: credits run out around 19 Jun 2026, 2 days left"]


def test_a_channel_that_hangs_does_not_hold_up_the_others_for_longer_than_the_limit(
    receiver: Receiver,
) -> None:
    receiver.hanging.add("/hang")
    targets = channels.channels([receiver.url("/hang"), receiver.url("/a")])
    hung, sent = channels.send([(target, "title", "body") for target in targets], limit_s=8)
    assert (hung.delivered, hung.reason) == (False, "it did not answer within 8 s")
    assert sent.delivered


def test_without_addresses_alerts_are_logged_and_count_as_sent(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.runway(2)
    sent = world.send()
    assert (len(sent.due), sent.delivered) == (1, 1)
    assert "default: credits run out around 19 Jun 2026, 2 days left" in caplog.text
    assert "What to do: Top up" in caplog.text
    assert ("run_out/default/3", "log", True, False) in world.rows()


def test_a_wrong_alert_setting_is_said_and_stops_neither_the_run_nor_the_other_channels(
    world: World, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    world.channels("not-an-address", receiver.url("/a"), "nosuchservice://secret-token")
    world.env["CREDITS_ALERT_DAYS"] = "soon"
    world.runway(2)
    assert world.send().delivered == 1
    assert "CREDITS_ALERT_URLS" in caplog.text
    assert "CREDITS_ALERT_DAYS" in caplog.text
    assert "Apprise does not know this kind of address" in caplog.text
    assert "secret-token" not in caplog.text


def test_no_secret_of_a_channel_is_logged_printed_or_stored(
    world: World, receiver: Receiver, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    secret = "hunter2-of-the-channel"
    port = closed_port()
    world.channels(
        receiver.url(f"/hooks/{secret}?password={secret}").replace("json://", f"json://user:{secret}@"),
        f"json://user:{secret}@127.0.0.1:{port}/{secret}",
        f"slack://{secret}",
    )
    world.runway(2)
    with caplog.at_level(logging.DEBUG):
        sent = world.send()
    assert [outcome.delivered for outcome in sent.outcomes] == [True, False, False]
    assert receiver.messages[0][0].startswith(f"/hooks/{secret}")
    stored = "".join(
        path.read_bytes().decode(errors="replace") for path in world.data_dir.iterdir() if path.is_file()
    )
    for text in (caplog.text, *capfd.readouterr(), stored, repr(sent), str(world.rows("*"))):
        assert secret not in text


def test_nothing_is_imported_for_sending_while_nothing_is_due() -> None:
    code = "import sys, credits_pipeline.alerts as a; sys.exit(any(m in sys.modules for m in ('apprise', 'duckdb')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_sending_leaves_no_file_behind(
    receiver: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME", "TMPDIR"):
        monkeypatch.setenv(name, str(tmp_path))
    (sent,) = channels.send([(channels.channels([receiver.url("/a")])[0], "title", "body")])
    assert sent.delivered
    assert list(tmp_path.iterdir()) == []


def test_whoever_sends_messages_holds_no_management_key(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENROUTER_API_KEY", "sk-or-v1-not-for-apprise")
    code = "import os, sys; sys.exit('sk-or-v1-not-for-apprise' in str(os.environ))"
    env = channels.environment()
    assert subprocess.run([sys.executable, "-c", code], env=env, check=False).returncode == 0


# -- hostile text, the demo, tests -------------------------------------------------------------------------------


def test_a_hostile_name_calls_nobody_links_nowhere_and_forges_no_line(
    world: World, receiver: Receiver
) -> None:
    world.channels(receiver.url("/a"))
    world.runway(100)
    hostile = "<!channel> @everyone\nWhat to do: pay at https://evil.example \x1b[31m\u202e" + "x" * 500
    world.spend(DAY - timedelta(days=1), "50")
    world.model(DAY - timedelta(days=1), hostile, "49")
    world.send()
    (message,) = receiver.taken("/a")
    text = message["message"]
    assert "‹!channel› ＠everyone" in text
    for forbidden in ("<", "@", "\x1b", "\u202e", "https://evil"):
        assert forbidden not in text
    assert [line.partition(":")[0] for line in text.splitlines()] == [
        "What happened",
        "Models",
        "How sure",
        "What to do",
        "The forecast now",
    ]


def test_simulated_figures_are_called_simulated(world: World, receiver: Receiver) -> None:
    world.env |= {"OPENROUTER_BASE_URL": "http://127.0.0.1:8787/api/v1", "OPENROUTER_ALLOW_CUSTOM_HOST": "1"}
    world.channels(receiver.url("/a"))
    world.runway(2)
    world.send()
    (message,) = receiver.taken("/a")
    assert message["title"].startswith("[SIMULATED] default: credits run out")
    assert message["message"].endswith("no real money is involved.")


def test_a_test_message_reaches_every_channel_and_says_which_it_did_not(
    world: World, receiver: Receiver
) -> None:
    world.channels(receiver.url("/a"), f"json://127.0.0.1:{closed_port()}")
    reached, dead = alerts.send_test(config.load(world.env))
    assert (reached.channel, reached.delivered) == ("json (1st of 2)", True)
    assert (dead.channel, dead.delivered, dead.reason) == (
        "json (2nd of 2)",
        False,
        "it could not be reached",
    )
    assert receiver.titles == ["Test alert from credits_pipeline"]
    assert world.rows() == []


def test_many_alerts_make_one_message_that_can_be_read() -> None:
    title, body = messages.together([(f"title {n}", f"body {n}") for n in range(60)])
    assert title == "title 0 (and 59 more alerts)"
    assert body.count("body") == messages.MOST_IN_FULL
    assert body.endswith("- and 37 more, listed on the asset alerts_sent in Dagster")


def test_two_passes_at_once_send_an_alert_once(world: World, receiver: Receiver) -> None:
    from concurrent.futures import ThreadPoolExecutor

    world.channels(receiver.url("/a"))
    world.runway(2)
    with ThreadPoolExecutor(3) as pool:
        passes = list(pool.map(lambda _: world.send(), range(3)))
    assert sum(len(sent.due) for sent in passes) == 1
    assert len(receiver.messages) == 1


def test_an_alert_that_was_written_down_but_not_sent_when_the_process_died_is_sent_by_the_next(
    world: World, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.channels(receiver.url("/a"))
    world.runway(2)

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as killed:
        killed.setattr("concurrent.futures.ThreadPoolExecutor.map", die)
        with pytest.raises(KeyboardInterrupt):
            world.send()
    assert world.send().delivered == 1
    assert len(receiver.messages) == 1


# -- with the models and the job as they are -----------------------------------------------------------------------


def test_a_daily_run_alerts_once_about_credits_that_run_out_and_the_day_that_cost_too_much(
    simulate: Callable[..., SimulatedAPI],
    run_job: Callable[..., dg.ExecuteInProcessResult],
    receiver: Receiver,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """30 days at 2 USD, then one at 80 USD: the credits bought last a few days more."""
    costs = {DAY - timedelta(days=n): Decimal("2.0") + Decimal(n % 7) / 10 for n in range(2, 32)}
    costs |= {DAY - timedelta(days=1): Decimal(80), DAY: Decimal(2), DAY + timedelta(days=1): Decimal(2)}
    ledger = {day: {"vendor/steady": min(usd, Decimal(3)), "vendor/leak": usd} for day, usd in costs.items()}
    begun = datetime.combine(min(ledger), datetime.min.time(), UTC)
    account = SimulatedAccount.from_ledger("default", KEY, days=ledger, credits=[(begun, Decimal(270))])
    simulate(account)
    monkeypatch.setenv("CREDITS_ALERT_URLS", receiver.url("/a"))
    with Warehouse(config.load(os.environ).warehouse_path).writing(
        "readings of every midnight before"
    ) as con:
        for day in sorted(costs)[:-2]:
            at = datetime.combine(day, datetime.min.time())
            con.execute(
                "insert into raw.credits_snapshots values ('default', ?, ?, 270, ?, null, 'import', 'import', null)",
                [day, at, account.usage_at(at.replace(tzinfo=UTC))],
            )
    assert run_job("daily_credits").success
    (message,) = receiver.taken("/a")
    assert message["title"].startswith("[SIMULATED] default: credits run out around ")
    assert message["title"].endswith("(and 1 more alert)")
    assert "unusually high spend on 16 Jun 2026" in message["message"]
    assert "Models: vendor/leak $80.00 (usually $" in message["message"]
    settings = config.load(os.environ)
    again = alerts.send_due(settings, Warehouse(settings.warehouse_path), run_id="the next run", log=LOG)
    assert (again, len(receiver.messages)) == (alerts.Sent(), 1)
