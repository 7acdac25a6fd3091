"""The weekly digest: what it says, short enough for a phone; sent once, when all is quiet too, with the report."""

import base64
from datetime import date, datetime, timedelta
from decimal import Decimal

import dagster as dg

from credits_pipeline.alerts.due import by_week
from credits_pipeline.defs import weekly_digest
from credits_pipeline_tests.alerts.conftest import World
from credits_pipeline_tests.conftest import TODAY

# What a phone shows of a message before it folds it.
PHONE = 900


def week(world: World, left: int, now: str, before: str, account: str = "default", **columns: object) -> None:
    """Credits for `left` days, and the spend of the last 7 days and of the 7 before."""
    world.runway(left, account, spend_7d_usd=Decimal(now), **columns)
    row = {"account": account, "close_date": TODAY - timedelta(days=1), "spend_7d_usd": now, "before_7d_usd": before}
    world.insert("spend_summary", row | {"unknown_days_7d": 0, "unknown_days_before_7d": 0})


def test_it_says_week_movers_date_month_what_to_buy_and_alerts_and_comes_once_with_the_report(world, receiver, now):
    world.channels(receiver.url("/a"), receiver.url("/b"))
    receiver.refusing.add("/b")
    week(world, 13, "45.10", "30")
    for name, spent, before in (("batch-7", 30, 4), ("steady", 10, "9.5"), ("old", 1, 15), ("(unattributed)", 99, 0)):
        row = {"account": "default", "dimension": "api_key", "member": name, "spend_7d_usd": spent}
        world.insert("spend_summary_by_member", row | {"before_7d_usd": before})
        world.insert("spend_summary_by_member", row | {"dimension": "user", "member": "ann@example.com"})
    then = {"account": "default", "as_of_date": TODAY - timedelta(days=8), "run_out_p50": date(2026, 7, 9)}
    world.insert("runway_history", then)
    month = {"account": "default", "month": date(2026, 6, 1), "spent_usd": "312", "unknown_days": 2}
    world.insert("month_outlook", month | {"budget_usd": "500", "probability_over_budget": 0.22})
    world.topup_plan(date(2026, 7, 31), "420", "443.10")
    world.spend(TODAY - timedelta(days=1), "41.2")
    world.send()
    receiver.messages.clear()
    (world.data_dir / "report.html").write_text("<h1>the report</h1>")

    assert world.send(by_week).delivered == 1
    (message,) = receiver.taken("/a")
    assert message["title"] == "Weekly digest: $45.10 spent in 7 days"
    assert message["message"].replace("\u00a0", " ").splitlines() == [
        "default: $45.10 in 7 days, ▲ 50 % more than the 7 days before.",
        "Moved most: batch-7 +$26.00; old −$14.00.",
        "Credits last until about 30 Jun 2026 (29 Jun – 3 Jul 2026).",
        "A week ago it was 9 Jul 2026; nothing bought since.",
        "$312.00 of $500.00 in Jun 2026 (2 days unknown), 22 % likely to pass it.",
        "Buy $420.00 (charged $443.10) to reach 31 Jul 2026 with 90 %.",
        "Alerts:",
        "- default: unusually high spend on 16 Jun 2026: $41.20",
    ]
    (attached,) = message["attachments"]
    assert base64.b64decode(attached["base64"]) == b"<h1>the report</h1>"

    receiver.refusing.clear()
    world.send()  # the channel that was away gets it, without the file
    assert [(m["title"], m["attachments"]) for m in receiver.taken("/b")][-1][1] == []
    count = len(receiver.messages)
    assert world.send(by_week).due == ()
    assert len(receiver.messages) == count
    now.advance(timedelta(days=7))
    (alert,) = world.send(by_week).due  # a week on, and nothing was read since
    assert alert.key == "digest/2026-06-24"
    assert "No reading since 17 Jun 2026. At that time: credits last until about 30 Jun 2026" in alert.body


def test_a_quiet_week_is_one_line_and_many_accounts_stay_short(world):
    week(world, 90, "45.10", "44")
    (alert,) = world.send(by_week).due
    assert (alert.title, alert.body.replace("\u00a0", " ")) == (
        "Weekly digest: all quiet",
        "default: $45.10 in 7 days, ▲ 2 % more than the 7 days before. Credits last until about 15 Sep 2026 "
        "(14 Sep – 18 Sep 2026).",
    )
    for number in range(20):
        world.env[f"OPENROUTER_API_KEY_A{number:02}"] = f"sk-or-v1-{number}"
        week(world, number + 5, "10", "1", f"a{number:02}")
    world.execute("delete from ops.alerts_sent")
    (alert,) = world.send(by_week).due
    assert alert.title == "Weekly digest: $245.10 spent in 7 days"
    assert alert.body.startswith("a00: ")
    assert alert.body.endswith("And 17 more accounts.")
    assert len(alert.body) < PHONE


def test_what_is_bought_automatically_is_said_in_place_of_what_to_buy_unless_it_is_overdue(world):
    world.topup_plan(date(2026, 7, 31), "420", "443.10")
    for spent, overdue, said in (
        ("45.10", False, "all quiet"), ("99", False, "Top-up: automatic, $50.00 below $10.00, next about 28 Jun 2026."),
        ("99", True, "overdue since 17 Jun 2026: check the card.\nBuy $420.00 (charged $443.10)"),
    ):  # fmt: skip
        world.execute("delete from marts.spend_summary")
        week(world, 12, spent, "44")
        automatic = {"is_suggestion": False, "is_overdue": overdue, "next_topup_p50": date(2026, 6, 28)}
        world.topup_rule(below_since=datetime(2026, 6, 17), **automatic)
        world.execute("delete from ops.alerts_sent")
        (alert,) = world.send(by_week).due
        assert said in f"{alert.title}\n{alert.body}"
        assert ("420" in alert.body) == overdue


def test_the_job_sends_it_and_the_schedule_asks_only_where_there_is_a_channel(world, receiver, monkeypatch):
    world.channels(receiver.url("/a"))
    week(world, 90, "45.10", "44")
    for name, value in world.env.items():
        monkeypatch.setenv(name, value)
    for _ in range(2):
        ran = weekly_digest.weekly_digest.execute_in_process(resources={"warehouse": world.warehouse})
        assert ran.success
    assert receiver.titles == ["Weekly digest: all quiet"]
    assert isinstance(weekly_digest.weekly_digest_schedule(), dg.RunRequest)
    monkeypatch.setenv("CREDITS_DIGEST_CRON", "")
    assert isinstance(weekly_digest.weekly_digest_schedule(), dg.SkipReason)
