"""Delivery of alerts: to each channel once, without its secrets, and never the reason for a red run."""

import logging
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

from credits_pipeline import config
from credits_pipeline.alerts import channels, messages
from credits_pipeline.alerts import notify as alerts
from credits_pipeline_tests.conftest import TODAY
from credits_pipeline_tests.ui import free_port


def test_each_channel_gets_one_message_once_of_accounts_with_a_key_and_a_restart_repeats_nothing(world, receiver):
    world.channels(receiver.url("/a"), receiver.url("/b"))
    world.runway(2)
    world.runway(1, "acme")  # the nearer run-out comes first
    world.runway(0, "gone", status="exhausted")  # its key was taken away
    sent = world.send()
    assert (len(sent.due), sent.delivered) == (2, 2)
    for path in ("/a", "/b"):
        (message,) = receiver.taken(path)
        assert message["title"] == "acme: credits run out around 18 Jun 2026, 2 days left (and 1 more alert)"
        assert "default: credits run out around 19 Jun 2026, 3 days left" in message["message"]
    assert world.send().due == ()
    assert len(receiver.messages) == 2
    assert {(key, sent) for key, channel, sent, _ in world.rows() if channel != "covered"} == {
        ("run_out/acme/3", True),
        ("run_out/default/3", True),
    }


def test_a_dead_channel_fails_nothing_and_gets_later_what_the_others_have_got(world, receiver, caplog):
    world.channels(receiver.url("/a"), receiver.url("/b"), f"json://127.0.0.1:{free_port()}/c")
    receiver.refusing.add("/b")
    world.runway(2)
    with caplog.at_level(logging.DEBUG):
        assert world.send().delivered == 1
    assert "not sent to json (2 of 3): it did not accept the message (HTTP 503)" in caplog.text
    assert "not sent to json (3 of 3): it could not be reached" in caplog.text
    receiver.refusing.clear()
    assert world.send().delivered == 1
    assert [path for path, _ in receiver.messages] == ["/a", "/b"]


@pytest.mark.parametrize("has_key", [True, False], ids=["its cause is over", "the key of its account is gone"])
def test_a_late_message_is_not_sent_when(world, receiver, now, has_key):
    world.channels(receiver.url("/a"))
    receiver.refusing.add("/a")
    world.runway(2, "acme")
    world.send()
    receiver.refusing.clear()
    now.advance(timedelta(hours=1))
    if has_key:
        world.top_up("acme")
        world.runway(60, "acme")
    else:
        del world.env["OPENROUTER_API_KEY_ACME"]
    assert world.send() == alerts.Sent()
    assert receiver.messages == []


def test_of_two_thresholds_a_dead_channel_gets_the_nearer_one_only(world, receiver):
    world.channels(receiver.url("/a"))
    receiver.refusing.add("/a")
    world.runway(6)
    world.send()
    receiver.refusing.clear()
    world.runway(2)
    world.send()
    assert receiver.titles == ["default: credits run out around 19 Jun 2026, 3 days left"]
    world.send()
    assert len(receiver.messages) == 1


def test_news_of_a_past_day_is_given_up_after_three_days_and_what_stands_is_not(world, receiver, now):
    world.channels(receiver.url("/a"))
    receiver.refusing.add("/a")
    world.runway(2)
    world.spend(TODAY - timedelta(days=1), "50")
    assert len(world.send().due) == 2
    receiver.refusing.clear()
    now.advance(timedelta(days=4))
    world.send()
    assert receiver.titles == ["default: credits run out around 19 Jun 2026, 3 days left"]


def test_a_channel_that_hangs_does_not_hold_up_the_others_for_longer_than_the_limit(receiver):
    receiver.hanging.add("/hang")
    targets = channels.channels([receiver.url("/hang"), receiver.url("/a")])
    hung, sent = channels.send([(target, "title", "body") for target in targets], limit_s=8)
    assert (hung.delivered, hung.reason) == (False, "it did not answer within 8 s")
    assert sent.delivered


def test_without_addresses_alerts_are_logged_and_count_as_sent(world, caplog):
    world.runway(2)
    sent = world.send()
    assert (len(sent.due), sent.delivered) == (1, 1)
    assert "default: credits run out around 19 Jun 2026, 3 days left" in caplog.text
    assert "What to do: Top up" in caplog.text
    assert ("run_out/default/3", "log", True, False) in world.rows()


def test_a_wrong_alert_setting_is_said_and_stops_neither_the_run_nor_the_other_channels(world, receiver, caplog):
    world.channels("not-an-address", receiver.url("/a"), "nosuchservice://secret-token")
    world.env["CREDITS_ALERT_DAYS"] = "soon"
    world.runway(2)
    assert world.send().delivered == 1
    assert "CREDITS_ALERT_URLS" in caplog.text
    assert "CREDITS_ALERT_DAYS" in caplog.text
    assert "Apprise does not know this kind of address" in caplog.text
    assert "secret-token" not in caplog.text


def test_no_secret_of_a_channel_is_logged_printed_or_stored(world, receiver, caplog, capfd):
    secret = "hunter2-of-the-channel"
    port = free_port()
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
    stored = "".join(path.read_bytes().decode(errors="replace") for path in world.data_dir.iterdir() if path.is_file())
    for text in (caplog.text, *capfd.readouterr(), stored, repr(sent), str(world.rows("*"))):
        assert secret not in text


def test_apprises_own_files_play_no_part_and_sending_leaves_none_behind(receiver, tmp_path, monkeypatch):
    for name in ("HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME", "TMPDIR"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setenv("APPRISE_STORAGE_UID_LENGTH", "not a number")
    (tmp_path / ".apprise.yml").write_text(f"urls: ['{receiver.url('/other')}']")
    plugin = tmp_path / ".apprise" / "plugins" / "loaded.py"
    plugin.parent.mkdir(parents=True)
    plugin.write_text(f"open({str(tmp_path / 'loaded')!r}, 'w')")
    before = set(tmp_path.rglob("*"))
    (sent,) = channels.send([(channels.channels([receiver.url("/a")])[0], "title", "body")])
    assert sent.delivered
    assert [path for path, _ in receiver.messages] == ["/a"]
    assert set(tmp_path.rglob("*")) == before


def test_a_message_arrives_letter_by_letter_in_one_piece(receiver):
    title, body = "−$3.20 :smile: \\n", "one\n:smile: \\n é ✓\ntwo"
    channels.send([(channels.channels([receiver.url("/a")])[0], title, body)])
    (message,) = receiver.taken("/a")
    assert (message["title"], message["message"], message["type"]) == (title, body, "warning")


def test_whoever_sends_messages_holds_no_management_key(receiver, monkeypatch):
    monkeypatch.setenv("OPENROUTER_API_KEY", "sk-or-v1-not-for-apprise")
    code = "import os, sys; sys.exit('sk-or-v1-not-for-apprise' in str(os.environ))"
    env = channels.environment(receiver.url("/a"), "title")
    assert subprocess.run([sys.executable, "-c", code], env=env, check=False).returncode == 0


def test_a_test_message_reaches_every_channel_and_says_which_it_did_not(world, receiver):
    world.channels(receiver.url("/a"), f"json://127.0.0.1:{free_port()}")
    reached, dead = alerts.send_test(config.load(world.env))
    assert (reached.channel, reached.delivered) == ("json (1 of 2)", True)
    assert (dead.channel, dead.delivered, dead.reason) == ("json (2 of 2)", False, "it could not be reached")
    assert receiver.titles == ["Test alert from credits_pipeline"]
    assert world.rows() == []


def test_many_alerts_make_one_message_that_can_be_read():
    title, body = messages.together([(f"title {n}", f"body {n}") for n in range(60)])
    assert title == "title 0 (and 59 more alerts)"
    assert body.count("body") == messages.MOST_IN_FULL
    assert body.endswith("- and 37 more, listed on the asset alerts_sent in Dagster")


def test_two_passes_at_once_send_an_alert_once(world, receiver):
    def due_in_a_pass(_: int) -> int:
        try:
            return len(world.send().due)
        except alerts.AlertsBusy:  # waiting takes no time under a frozen clock
            return 0

    world.channels(receiver.url("/a"))
    world.runway(2)
    with ThreadPoolExecutor(3) as pool:
        assert sum(pool.map(due_in_a_pass, range(3))) == 1
    assert len(receiver.messages) == 1


def test_an_alert_that_was_not_sent_when_the_process_died_is_sent_by_the_next(world, receiver, monkeypatch):
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
