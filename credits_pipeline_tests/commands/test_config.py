"""What the environment may say, what a wrong value costs, and where a key may never be sent."""

import os
import re
import time
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from credits_pipeline import clock, config
from credits_pipeline.config import ConfigError

KEY = "sk-or-v1-0123456789abcdef0123456789abcdef"
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
README = (config.PROJECT_ROOT / "README.md").read_text(encoding="utf-8")
VARIABLES = sorted(set(re.findall(r"`((?:OPENROUTER|CREDITS)_[A-Z_]+)`", README)))


@pytest.fixture
def private(tmp_path) -> Path:
    """A file that only we may use."""
    path = tmp_path / "private"
    path.touch(mode=0o600)
    return path


def one_problem(**env: str) -> str:
    settings = config.load({"OPENROUTER_API_KEY": KEY, **env})
    found = settings.problems + settings.alert_problems + settings.warnings
    assert len(found) == 1, found
    assert "\n" not in found[0]
    assert KEY not in found[0]
    return found[0]


def test_an_empty_environment_and_empty_values_give_the_documented_defaults():
    """Empty as in a line of `.env` or of a unit file that nobody has filled in."""
    names = ["CREDITS_START_DATE", "CREDITS_ALERT_URLS_FILE", "CREDITS_DATA_DIR", "OPENROUTER_BASE_URL", "DAGSTER_HOME"]
    settings = config.load({})
    assert settings == config.load(dict.fromkeys(names, ""))
    assert settings.accounts == ()
    assert settings.base_url == "https://openrouter.ai/api/v1"
    assert not settings.is_simulated
    assert settings.data_dir == config.PROJECT_ROOT / "data"
    assert settings.start_date == date(2025, 1, 1)
    assert settings.snapshot_cron == "5 0 * * *"
    assert settings.alert_urls == ()
    assert settings.alert_days == (14, 7, 3)
    assert settings.problems == settings.alert_problems == settings.warnings == ()


def test_a_key_under_two_names_is_warned_about_without_being_shown():
    settings = config.load({"OPENROUTER_API_KEY": KEY, "OPENROUTER_API_KEY_B": KEY, "OPENROUTER_API_KEY_C": "other"})
    assert settings.require() is settings
    (warning,) = settings.warnings
    assert warning.startswith("OPENROUTER_API_KEY and OPENROUTER_API_KEY_B hold the same key")
    assert KEY not in warning


def test_real_readings_do_not_go_into_the_demos_folder():
    demo = {"OPENROUTER_API_KEY": KEY, "CREDITS_DATA_DIR": "data/demo"}
    with pytest.raises(ConfigError, match=r"^CREDITS_DATA_DIR is the demo's folder"):
        config.load(demo).valid()
    simulated = {"OPENROUTER_BASE_URL": "http://127.0.0.1:1/api/v1", "OPENROUTER_ALLOW_CUSTOM_HOST": "1"}
    assert config.load(demo | simulated).valid()


def test_accounts_are_named_by_the_variable_in_lower_case_and_ordered():
    env = {"OPENROUTER_API_KEY_B2": "k3", "OPENROUTER_API_KEY_ACME_EU": "k2", "OPENROUTER_API_KEY": "k1"}
    accounts = config.load(env).accounts
    assert [(a.name, a.key, a.variable) for a in accounts] == [
        ("default", "k1", "OPENROUTER_API_KEY"),
        ("acme_eu", "k2", "OPENROUTER_API_KEY_ACME_EU"),
        ("b2", "k3", "OPENROUTER_API_KEY_B2"),
    ]


def test_the_default_account_may_be_named_once_only():
    alone = config.load({"OPENROUTER_API_KEY_DEFAULT": KEY})
    assert [a.name for a in alone.require().accounts] == ["default"]
    assert one_problem(OPENROUTER_API_KEY_DEFAULT=KEY) == (
        "OPENROUTER_API_KEY_DEFAULT and OPENROUTER_API_KEY both name the account default: remove one of them"
    )


@pytest.mark.parametrize("suffix", ["", "../../x", "A-B", "ſ", "x" * 65, "<script>", "\x1b[31m", "a\nb", "\udcff"])
def test_an_account_name_that_is_no_plain_word_is_refused_and_shown_escaped(suffix):
    problem = one_problem(**{"OPENROUTER_API_KEY_" + suffix: KEY})
    assert problem.startswith("OPENROUTER_API_KEY_")
    assert problem.isascii()
    assert problem.isprintable()


@pytest.mark.parametrize("value", [" ", "sk a", "sk\r\nHost: evil", "sk-é", "sk\udcff", "sk\x7f"])
def test_a_key_that_is_empty_or_could_not_be_a_header_is_refused_without_showing_it(value):
    """An empty one is not taken for none, as other variables are: an account would be left out in silence."""
    problem = one_problem(OPENROUTER_API_KEY_ACME=value)
    assert problem.startswith(f"OPENROUTER_API_KEY_ACME {'holds a space' if value.strip() else 'is empty'}")
    assert "sk" not in problem


def test_the_empty_key_of_a_fresh_template_is_none_whether_or_not_there_are_further_accounts():
    settings = config.load({"OPENROUTER_API_KEY": " ", "OPENROUTER_API_KEY_ACME": KEY})
    assert [account.name for account in settings.require().accounts] == ["acme"]
    with pytest.raises(ConfigError, match="OPENROUTER_API_KEY is not set"):
        config.load({"OPENROUTER_API_KEY": ""}).require()


def test_neither_settings_nor_accounts_show_a_secret_and_a_fingerprint_stands_for_a_key():
    url = "slack://token-a/token-b/token-c"
    settings = config.load({"OPENROUTER_API_KEY": KEY, "OPENROUTER_API_KEY_B": f"{KEY}x", "CREDITS_ALERT_URLS": url})
    one, other = settings.accounts
    for text in (repr(settings), str(settings), f"{one}", f"{one!r}", f"{settings.accounts}"):
        assert KEY not in text
        assert "token" not in text
    assert one.fingerprint == "8cf819f48b6f"  # printf %s KEY | sha256sum
    assert other.fingerprint != one.fingerprint


ATTACKS = [
    *("https://opentouter.ai/api/v1", "https://openrouter.ai.evil.example/api/v1", "https://openrouter.ai./api/v1"),
    *("https://evil.example/https://openrouter.ai/api/v1", "https://evil.openrouter.ai/api/v1", "https://"),
    *("https://OPENROUTER.AI/api/v1", "https://openrouter.ai:443/api/v1", "//openrouter.ai/api/v1"),
    *("ftp://openrouter.ai/api/v1", "http://openrouter.ai/api/v1", "http://127.0.0.1:8787/api/v1"),
]
# Never allowed, on whatever host: parsers disagree about them, or they carry secrets of their own.
MALFORMED = [
    *("https://openrouter.ai@evil.example/api/v1", "https://user:password@openrouter.ai/api/v1"),
    *("https://openrouter.ai\\@evil.example/api/v1", "https://openrouter.ai%2eevil.example/api/v1"),
    *("https://openrouter.ai\t.evil.example/api/v1", "https://openrouter.ai/api/v1\r\nHost: evil.example"),
    *("https://openrouter.ai/api/v1?x=https://evil.example", "https://\u043epenrouter.ai/api/v1"),
    *("https://openrouter.ai\x00.evil.example/api/v1", "http://127.0.0.1:8787@evil.example/api/v1"),
    "http://[::1%25eth0]/api/v1",
]


@pytest.mark.parametrize("url", ATTACKS + MALFORMED)
def test_a_key_goes_to_no_host_that_only_looks_like_the_api(url):
    with pytest.raises(ConfigError, match=r"^OPENROUTER_BASE_URL ") as refused:
        config.check_base_url(url, allow_custom_host=False)
    assert "evil" not in str(refused.value)
    assert one_problem(OPENROUTER_BASE_URL=url, OPENROUTER_ALLOW_CUSTOM_HOST="0")
    assert config.load({"OPENROUTER_BASE_URL": url}).base_url == "https://openrouter.ai/api/v1"


@pytest.mark.parametrize(
    "url",
    [
        *MALFORMED,
        *("http://openrouter.ai/api/v1", "http://127.0.0.1.evil.example/api/v1", "http://127.1/api/v1"),
        *("http://0.0.0.0:8787/api/v1", "http://[::ffff:127.0.0.1]/api/v1", "http://128.0.0.1/api/v1"),
        *("http://[::1/api/v1", "ftp://127.0.0.1/api/v1"),
    ],
)
def test_allowing_custom_hosts_still_refuses_plain_http_beyond_loopback_and_malformed_urls(url):
    with pytest.raises(ConfigError, match=r"^OPENROUTER_BASE_URL "):
        config.check_base_url(url, allow_custom_host=True)


@pytest.mark.parametrize(
    "url",
    [
        *("http://127.0.0.1:8787/api/v1", "http://127.0.0.1:4010", "http://[::1]:8787/api/v1"),
        *("http://localhost:8787/api/v1", "https://gateway.example.com/openrouter/v1", "https://10.0.0.5:8443/api/v1"),
    ],
)
def test_a_custom_host_is_used_when_allowed_and_what_this_machine_itself_says_is_called_simulated(url):
    settings = config.load(
        {"OPENROUTER_API_KEY": KEY, "OPENROUTER_BASE_URL": url + "/", "OPENROUTER_ALLOW_CUSTOM_HOST": "1"}
    )
    assert settings.require().base_url == url
    assert settings.is_simulated == url.startswith("http:")  # plain http is for this machine only
    for spelled in ("https://OPENROUTER.AI:443/api/v1", "https://openrouter.ai/api/v2"):
        assert not config.load({"OPENROUTER_BASE_URL": spelled, "OPENROUTER_ALLOW_CUSTOM_HOST": "1"}).is_simulated


@pytest.mark.parametrize(
    ("kind", "variable", "value"),
    [
        *(("problems", "CREDITS_START_DATE", day) for day in ("2025-02-30", "2026-03-02")),  # no day, tomorrow
        *(("problems", "CREDITS_SNAPSHOT_CRON", cron) for cron in ("daily", "5 0 * * * *", "0 0 31 4 *", KEY)),
        ("problems", "OPENROUTER_ALLOW_CUSTOM_HOST", "true"),
        *(("alert_problems", "CREDITS_ALERT_DAYS", days) for days in ("0", "1.5", "366")),
        ("alert_problems", "CREDITS_ALERT_URLS", f"slack://{KEY}, me"),
        *(("warnings", "CREDITS_BUDGET", budget) for budget in ("500", "a lot/month", "0/month")),
        *(("warnings", "CREDITS_AUTO_TOPUP", rule) for rule in ("50", "10:0", "-10:50")),
        # Two that are no days, yesterday, and one beyond the forecast.
        *(("warnings", "CREDITS_TOPUP_UNTIL", day) for day in ("31.12.2026", "2026-02-30", "2026-02-28", "2028-01-01")),
    ],
)
def test_a_wrong_value_is_one_line_that_names_the_variable_leaves_the_default_and_stops_no_more_than_it_must(
    kind, variable, value
):
    """`problems` stop a run, `alert_problems` alerts only, `warnings` nothing."""
    with clock.frozen(NOON):
        problem = one_problem(**{variable: value})
        wrong, default = config.load({variable: value}), config.load({})
    assert problem.startswith(variable)
    assert getattr(wrong, kind) == (problem,)
    assert replace(wrong, **{kind: ()}) == default


def test_a_digest_goes_out_on_mondays_where_alerts_have_a_channel_unless_its_line_is_empty_or_another():
    channel = {"CREDITS_ALERT_URLS": "ntfy://topic"}
    assert config.load({}).digest_cron == ""
    assert config.load(channel).digest_cron == "0 8 * * 1"
    for cron in ("", "0 9 * * fri"):
        assert config.load(channel | {"CREDITS_DIGEST_CRON": cron}).digest_cron == cron
    wrong = config.load(channel | {"CREDITS_DIGEST_CRON": "weekly"})
    assert (wrong.digest_cron, wrong.problems) == ("0 8 * * 1", ())
    assert wrong.alert_problems[0].startswith("CREDITS_DIGEST_CRON must be a cron line")


def test_a_wrong_alert_address_stops_no_readings_nor_the_others_and_thresholds_are_ordered_and_said_once():
    urls = "nowhere, mailto://u:p@example.com?to=a@x.org,b@x.org , ntfy://t,"
    env = {"OPENROUTER_API_KEY": KEY, "CREDITS_ALERT_URLS": urls, "CREDITS_ALERT_DAYS": " 3, 30,7,7"}
    settings = config.load(env).require()
    assert settings.alert_days == (30, 7, 3)
    assert settings.alert_urls == ("mailto://u:p@example.com?to=a@x.org,b@x.org", "ntfy://t")
    (problem,) = settings.alert_problems
    assert problem.startswith("CREDITS_ALERT_URLS: entry 1 ")
    assert "nowhere" not in problem


@hypothesis.settings(max_examples=25)
@given(
    st.dictionaries(
        st.sampled_from(VARIABLES) | st.text(max_size=8).map("OPENROUTER_API_KEY_".__add__),
        st.text(max_size=30) | st.from_regex(r"[0-9*/,\- @]{1,12}", fullmatch=True),
    )
)
def test_no_environment_makes_loading_raise(env):
    settings = config.load(env)
    assert settings.data_dir.is_absolute()
    assert all("\n" not in problem for problem in settings.problems + settings.alert_problems)


@pytest.mark.parametrize("quoted", ['"{}"', "'{}'", ' "{}" \n'])
def test_quotes_around_a_whole_value_are_taken_off(tmp_path, quoted):
    """As `docker run --env-file` keeps them."""
    values = {
        "OPENROUTER_API_KEY": KEY,
        "CREDITS_DATA_DIR": str(tmp_path),
        "CREDITS_START_DATE": "2026-01-02",
        "CREDITS_ALERT_URLS": "ntfy://topic",
    }
    settings = config.load({name: quoted.format(value) for name, value in values.items()})
    assert settings.require() == config.load(values)


def test_a_variable_in_a_value_stands_for_its_own_and_one_that_is_not_set_is_refused():
    env = {"MINE": "/srv", "K": KEY, "OPENROUTER_API_KEY": "$K", "CREDITS_DATA_DIR": "${MINE}/credits"}
    settings = config.load(env).require()
    assert settings.data_dir == Path("/srv/credits")
    assert settings.accounts[0].key == KEY
    assert config.load({"DAGSTER_HOME": "${HOEM:-/srv}/x"}).dagster_home == Path("/srv/x")
    for variable in ("OPENROUTER_API_KEY_ACME", "CREDITS_DATA_DIR", "DAGSTER_HOME", "CREDITS_ALERT_URLS"):
        assert one_problem(**{variable: "slack://$HOEM/x"}).startswith(f"{variable} refers to a variable")


def test_every_path_may_begin_with_a_tilde_and_a_relative_one_begins_at_the_project_root(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert config.load({"CREDITS_DATA_DIR": "data-demo"}).data_dir == config.PROJECT_ROOT / "data-demo"
    for variable in ("CREDITS_DATA_DIR", "DAGSTER_HOME"):
        settings = config.load({variable: "~/credits"})
        assert Path.home() / "credits" in (settings.data_dir, settings.dagster_home)
        assert one_problem(**{variable: "~nobody-of-this-name/x"}).startswith(f"{variable} must be a path")


def test_a_secret_may_stand_in_a_file_of_its_own(tmp_path):
    """As containers have them, with the line break that every editor adds."""
    for name, text in (("a", f"{KEY}\n"), ("b", f'\ufeff"{KEY}b"\r\n'), ("urls", "ntfy://a\nslack://b/c/d\n")):
        (tmp_path / name).write_text(text, encoding="utf-8")
    files = {"OPENROUTER_API_KEY": "a", "OPENROUTER_API_KEY_ACME": "b", "CREDITS_ALERT_URLS": "urls"}
    settings = config.load({f"{name}_FILE": str(tmp_path / file) for name, file in files.items()}).require()
    assert [(a.name, a.key) for a in settings.accounts] == [("acme", f"{KEY}b"), ("default", KEY)]
    assert settings.alert_urls == ("ntfy://a", "slack://b/c/d")


def test_a_secrets_file_that_gives_none_is_one_sentence(tmp_path):
    (tmp_path / "empty").write_text(" \n")
    (tmp_path / "two").write_text(f"{KEY}\n{KEY}\n")
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\0")
    for name in ("empty", "two", "bytes", "missing", "."):
        problem = one_problem(OPENROUTER_API_KEY_ACME_FILE=str(tmp_path / name))
        assert "OPENROUTER_API_KEY_ACME_FILE" in problem
    assert KEY not in one_problem(OPENROUTER_API_KEY_ACME_FILE=KEY), "a key where a path belongs"


def test_the_accounts_of_a_file_and_of_the_environment_are_read_together(private):
    private.write_text(f"\ufeff# ours\n\nacme = {KEY}a\r\n  B2={KEY}==\n", encoding="utf-8")
    env = {"OPENROUTER_API_KEY": KEY, "OPENROUTER_API_KEYS_FILE": str(private)}
    accounts = config.load(env).require().accounts
    assert [(a.name, a.key, a.variable) for a in accounts] == [
        ("default", KEY, "OPENROUTER_API_KEY"),
        ("acme", f"{KEY}a", "line 3 of OPENROUTER_API_KEYS_FILE"),
        ("b2", f"{KEY}==", "line 4 of OPENROUTER_API_KEYS_FILE"),
    ]
    assert config.load({"OPENROUTER_API_KEYS_FILE": str(private)}).require().accounts == accounts[1:]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (KEY, "line 2 of OPENROUTER_API_KEYS_FILE must be name=key"),
        (f"{KEY}=acme", "line 2 of OPENROUTER_API_KEYS_FILE must be name=key"),
        (f"acme={KEY} # ours", "line 2 of OPENROUTER_API_KEYS_FILE holds a space"),
        (f"A={KEY}", "line 2 of OPENROUTER_API_KEYS_FILE and line 1 of OPENROUTER_API_KEYS_FILE both name the account"),
    ],
)
def test_a_wrong_line_in_the_file_of_keys_is_one_sentence_with_its_number(private, line, problem):
    private.write_text(f"a={KEY}a\n{line}\n", encoding="utf-8")
    assert one_problem(OPENROUTER_API_KEYS_FILE=str(private)).startswith(problem)


def test_a_file_of_keys_that_others_may_use_is_refused(private):
    private.write_text(f"acme={KEY}\n", encoding="utf-8")
    for mode in (0o640, 0o604, 0o602):
        private.chmod(mode)
        assert one_problem(OPENROUTER_API_KEYS_FILE=str(private)).endswith(f"run chmod 600 {private}")
    assert "must name a file" in one_problem(OPENROUTER_API_KEYS_FILE=str(private.parent))


def test_twenty_thousand_accounts_in_a_file_are_read_in_a_moment(private):
    private.write_text("".join(f"account_{n}=sk-or-v1-{n:064x}\n" for n in range(20_000)), encoding="utf-8")
    began = time.process_time()
    settings = config.load({"OPENROUTER_API_KEYS_FILE": str(private)}).require()
    assert time.process_time() - began < 1
    assert (len(settings.accounts), len(settings.plans), settings.warnings) == (20_000, 20_000, ())


@pytest.mark.parametrize(
    ("cron", "hours"),
    [("5 0 * * *", 36), ("@hourly", 36), ("0 6,18 * * mon-fri", 60 + 12), ("0 0 1 * *", 31 * 24 + 12)],
)
def test_readings_are_stale_half_a_day_after_the_longest_pause_of_the_schedule(cron, hours):
    with clock.frozen(NOON):
        assert config.load({"CREDITS_SNAPSHOT_CRON": cron}).stale_after == timedelta(hours=hours)


def test_what_dotenv_says_is_used_and_another_value_in_the_environment_is_warned_about(private):
    """As Dagster's services do with the same file, so that a key exported for another tool changes nothing."""
    private.write_text(f"OPENROUTER_API_KEY={KEY}\nCREDITS_ALERT_DAYS=5 # days\n", encoding="utf-8")
    exported = {"OPENROUTER_API_KEY": "sk-or-v1-of-a-tool", "CREDITS_ALERT_DAYS": "'5'"}
    settings = config.load(exported, private)
    assert (settings.require().accounts[0].key, settings.alert_days) == (KEY, (5,))
    (warning,) = settings.warnings
    assert warning.startswith(f"OPENROUTER_API_KEY is set in {private} and to something else in the environment")
    assert "sk-or" not in warning


def test_an_empty_key_in_a_fresh_copy_of_the_example_hides_none_and_a_byte_order_mark_is_no_part_of_a_name(private):
    private.write_text("OPENROUTER_API_KEY=\n", encoding="utf-8")
    settings = config.load({"OPENROUTER_API_KEY": KEY}, private).require()
    assert (settings.accounts[0].key, settings.warnings) == (KEY, ())
    private.write_text(f"OPENROUTER_API_KEY={KEY}\n", encoding="utf-8-sig")
    assert config.load({}, private).require().accounts[0].key == KEY


def test_read_mart_and_every_command_find_the_same_settings(private, tmp_path, monkeypatch):
    from credits_pipeline.env_file import export_others

    home = tmp_path / "home of the test"
    text = f"CREDITS_DATA_DIR={tmp_path}/from-dotenv\nDAGSTER_HOME=$CREDITS_DATA_DIR/$X\nTHE_CA={home}\n"
    private.write_text(text, encoding="utf-8")
    monkeypatch.setenv("CREDITS_ENV_FILE", str(private))
    monkeypatch.setenv("X", "x")
    monkeypatch.delenv("THE_CA", raising=False)
    monkeypatch.setenv("DAGSTER_HOME", "")
    export_others(private)
    assert os.environ["THE_CA"] == str(home)
    assert "CREDITS_DATA_DIR" not in os.environ, "read anew each time, so that an edit is seen"
    assert config.current().valid().data_dir == tmp_path / "from-dotenv"
    assert config.current().dagster_home == tmp_path / "from-dotenv" / "x"


def test_a_file_that_is_named_and_missing_is_warned_about(tmp_path):
    path = tmp_path / "missing"
    (warning,) = config.load({"CREDITS_ENV_FILE": str(path)}, path).warnings
    assert warning.startswith(f"CREDITS_ENV_FILE names {path}, which is no file")


def test_a_dotenv_that_is_no_text_is_one_sentence_without_its_content(private):
    """As PowerShell's `>` writes it."""
    private.write_text(f"OPENROUTER_API_KEY={KEY}\n", encoding="utf-16")
    (problem,) = config.load({"OPENROUTER_API_KEY": KEY}, private).problems
    assert "save it as plain text" in problem
    assert KEY not in problem
