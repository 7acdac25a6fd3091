"""report.html as the person who pays reads it, and as somebody with a hostile model name would like it to be."""

import re
import stat
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import duckdb
import pytest

from credits_pipeline import clock, warehouse, wording
from credits_pipeline.report import page as report
from credits_pipeline_tests.sample_marts import NOW, Sample, create, publish

WRITTEN = NOW.replace(tzinfo=UTC) + timedelta(minutes=2)
HOSTILE = (
    "</svg><script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</style><style>@import 'http://evil.example/x'</style>",
    "javascript:alert(1)//[x](http://evil.example)",
    "{{ 7 * 7 }}{% raw %}",
    "a\u202egnp.exe\x00\x1b[31m\u200b\ud7ff",
    "' onload='alert(1)",
    "&lt;b&gt;&#x3c;script&#x3e;",
)


class Page(HTMLParser):
    """Tags with their attributes, in order, and the text outside of style and drawings."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.html = html
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self._inside: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag in ("style", "svg"):
            self._inside.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if self._inside and self._inside[-1] == tag:
            self._inside.pop()

    def handle_data(self, data: str) -> None:
        if not self._inside and data.strip():
            self.texts.append(" ".join(data.split()).replace("\u00a0", " "))

    @property
    def text(self) -> str:
        return " | ".join(self.texts)

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def shape(self) -> Counter[tuple[str, tuple[str, ...]]]:
        return Counter((tag, tuple(sorted(attributes))) for tag, attributes in self.tags)


def rendered(path: Path, *samples: Sample, at: datetime = WRITTEN, is_simulated: bool = False) -> Page:
    return Page(report.render(publish(path, samples, is_simulated=is_simulated), generated_at=at))


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Page:
    """One account with a year of history."""
    return rendered(tmp_path_factory.mktemp("one") / "credits.duckdb", Sample("default"))


@pytest.fixture
def marts(tmp_path: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect(str(tmp_path / "empty.duckdb")) as con:
        create(con)
        yield con


def test_the_first_screen_answers_when_how_sure_and_how_old(page: Page) -> None:
    first = page.text[: page.text.index("Balance and forecast")]
    assert "Credits last until about 20 Dec 2026." in first
    assert "80 % sure: between 14 Dec and 29 Dec 2026." in first
    assert "328 30-day forecasts were right 74 % of the time (target: 80 %)." in first
    assert (
        "Based on the latest reading, | 22 Nov 2026 00:05 UTC | : 2 minutes old when this page was written"
        in first
    )
    assert "The page does not update itself." in first
    for label in ("Balance", "Spent on 21 Nov", "7 days to 21 Nov", "30 days to 21 Nov"):
        assert label in first


def test_the_figures_are_those_of_the_marts(tmp_path: Path) -> None:
    path = tmp_path / "credits.duckdb"
    page = rendered(path, Sample("default", days=40, balance_usd=1234.567))
    with duckdb.connect(str(path), read_only=True) as con:
        balance, week, month = con.execute(
            "select balance_usd, spend_7d_usd, spend_30d_usd from marts.credits_runway"
        ).fetchall()[0]
        yesterday = con.execute(
            "select spend_usd from marts.daily_spend where spend_date = '2026-11-21'"
        ).fetchall()
        by_model = con.execute(
            "select sum(spend_usd) from marts.daily_spend_by_model "
            "where spend_date between '2026-10-23' and '2026-11-21' group by model"
        ).fetchall()
    assert balance == Decimal("1234.567")
    tiles = page.texts[page.texts.index("Balance") : page.texts.index("Balance and forecast")]
    for amount in (balance, yesterday[0][0], week, month):
        assert wording.usd(amount) in tiles
    for (amount,) in by_model:
        assert wording.usd(amount) in page.texts


def test_the_change_compares_with_the_span_before(tmp_path: Path) -> None:
    path = publish(tmp_path / "credits.duckdb", [Sample("default", days=70, gap=())])
    with duckdb.connect(str(path)) as con:
        con.execute("update marts.daily_spend set spend_usd = 2")
        con.execute("update marts.daily_spend set spend_usd = 3 where spend_date > date '2026-11-21' - 7")
        con.execute("update marts.daily_spend set spend_usd = 2.7 where spend_date = '2026-11-21'")
    text = Page(report.render(path, generated_at=WRITTEN)).text
    assert "▼ 10 % less than the day before" in text
    assert "▲ 48 % more than the 7 days before" in text
    assert "▲ 11 % more than the 30 days before" in text


@pytest.mark.parametrize(
    ("spend", "words"),
    [
        ({"spend_7d": 3, "before_7d": 2}, "▲ 50 % more than before"),
        ({"spend_7d": 1, "before_7d": 2}, "▼ 50 % less than before"),
        ({"spend_7d": 2, "before_7d": 2}, "the same as before"),
        ({"spend_7d": 40, "before_7d": 2}, "▲ 20 times that of before"),
        ({"spend_7d": 0, "before_7d": 2}, "after $2.00 before"),
        ({"spend_7d": 2, "before_7d": 0}, "$0.00 before"),
        ({"spend_7d": -2, "before_7d": 5}, "$5.00 before"),
        ({"spend_7d": 2, "before_7d": 2, "days_before_7d": 6}, "no full 7 days before to compare"),
        ({"spend_7d": 2, "before_7d": 2, "days_7d": 1}, "1 of these 7 days is known"),
        ({"spend_7d": 2, "before_7d": None, "days_before_7d": 0}, "no full 7 days before to compare"),
        ({}, None),
    ],
)
def test_a_change_is_worded_only_from_whole_spans(spend: dict[str, Any], words: str | None) -> None:
    known = {"days_7d": 7, "days_before_7d": 7}
    row = {
        key: Decimal(value) if isinstance(value, int) and "days" not in key else value
        for key, value in spend.items()
    }
    said = report.change({**known, **row}, 7, "before")
    assert (said and said.replace("\u00a0", " ")) == words


@pytest.mark.parametrize(
    ("samples", "said"),
    [
        (Sample("a", days=20, status="exhausted", balance_usd=-3.21), "Credits are used up."),
        (Sample("a", days=20, status="idle"), "No run-out date: the account is idle."),
        (Sample("a", days=1, status="accumulating", gap=()), "No run-out date yet: too little history."),
        (Sample("a", days=6, gap=(), top_up_usd=0), "This is an early estimate from 6 complete days"),
        (Sample("a", days=20, balance_usd=90_000, top_up_usd=0), "Credits last longer than a year."),
    ],
)
def test_each_status_is_told_and_never_with_a_date_it_has_not(
    tmp_path: Path, samples: Sample, said: str
) -> None:
    page = rendered(tmp_path / "credits.duckdb", samples)
    assert said in page.text
    assert ("Credits last until about" in page.text) == (said.startswith("This is an early"))
    assert ("80 % sure: " in page.text) == (said.startswith("This is an early"))


@pytest.mark.parametrize(
    ("replays", "coverage", "said"),
    [
        (
            19,
            15 / 19,
            "Tested on this account’s own history, 15 of 19 30-day forecasts were right: too few to rely on.",
        ),
        (20, 0.8, "Tested on this account’s own history, 20 30-day forecasts were right 80 % of the time"),
        (0, None, "It is too early to say how often this is right"),
    ],
)
def test_how_often_the_interval_was_right_depends_on_how_often_it_was_checked(
    replays: int, coverage: float | None, said: str
) -> None:
    runway = {"status": "ok", "run_out_p10": NOW.date(), "days_left_p50": 28}
    accuracy = [
        {"horizon_days": 7, "replays": replays and 99, "coverage_80": 0.5},
        {"horizon_days": 30, "replays": replays, "coverage_80": coverage},
    ]
    assert said in report.record(runway, accuracy).replace("\u00a0", " ")


def test_simulated_data_say_so_on_top(tmp_path: Path) -> None:
    page = rendered(tmp_path / "credits.duckdb", Sample("default", days=3), is_simulated=True)
    assert "SIMULATED DATA." in page.texts[:12]


def test_real_data_do_not_say_simulated(page: Page) -> None:
    assert "SIMULATED" not in page.html


@pytest.mark.parametrize(("hours", "is_stale"), [(36, False), (36.01, True)])
def test_data_older_than_a_day_and_a_half_are_called_stale(
    tmp_path: Path, hours: float, is_stale: bool
) -> None:
    at = NOW.replace(tzinfo=UTC) + timedelta(hours=hours)
    page = rendered(tmp_path / "credits.duckdb", Sample("default", days=30), at=at)
    assert ("Out of date." in page.text) == is_stale


def test_one_account_whose_readings_stopped_is_called_stale_among_others(tmp_path: Path) -> None:
    stale = Sample("old", days=30, as_of=NOW - timedelta(days=3))
    page = rendered(tmp_path / "credits.duckdb", Sample("new", days=30), stale)
    assert "No reading since 19 Nov 2026. At that time: credits last until about" in page.text
    assert "Out of date." not in page.text


@pytest.mark.parametrize(
    ("minutes", "words"),
    [(0, "less than a minute old"), (1, "1 minute old"), (59, "59 minutes old"), (60, "1 hour old"),
     (47 * 60, "47 hours old"), (48 * 60, "2 days old"), (-5, "less than a minute old")],
)  # fmt: skip
def test_the_age_is_in_the_largest_unit_that_says_enough(minutes: int, words: str) -> None:
    assert report.age(NOW, NOW.replace(tzinfo=UTC) + timedelta(minutes=minutes)) == words


def test_accounts_come_in_the_order_of_their_need(tmp_path: Path) -> None:
    page = rendered(
        tmp_path / "credits.duckdb",
        Sample("idle", days=40, status="idle"),
        Sample("later", days=40, balance_usd=300),
        Sample("years", days=40, balance_usd=90_000, top_up_usd=0),
        Sample("sooner", days=40, balance_usd=20),
        Sample("young", days=1, status="accumulating", gap=()),
        Sample("gone", days=40, status="exhausted", balance_usd=-1),
    )
    headings = [text.removeprefix("Account ") for text in page.texts if text.startswith("Account ")]
    assert headings == ["gone", "sooner", "later", "years", "young", "idle"]
    overview = page.texts[page.texts.index("6 accounts, nearest run-out first") :]
    assert [overview.index(name) for name in headings] == sorted(overview.index(name) for name in headings)


def test_the_overview_sums_up_what_is_known_of_every_account(tmp_path: Path) -> None:
    path = publish(
        tmp_path / "credits.duckdb",
        [
            Sample(name, days=3, gap=(), balance_usd=usd, top_up_usd=0)
            for name, usd in (("a", 10.5), ("b", -3))
        ],
    )
    with duckdb.connect(str(path)) as con:
        con.execute("update marts.credits_runway set spend_30d_usd = null where account = 'a'")
    page = Page(report.render(path, generated_at=WRITTEN))
    total = page.texts.index("All accounts")
    assert page.texts[total : total + 3] == ["All accounts", "$7.50", "unknown"]


@pytest.mark.slow
def test_two_hundred_accounts_still_make_a_usable_page(tmp_path: Path) -> None:
    alike: dict[str, Any] = {"days": 4, "models": ("a/b",), "gap": (), "top_up_usd": 0, "seed": "the same"}
    samples = [Sample(f"team {n:03}", balance_usd=10, **alike) for n in range(200)]
    page = rendered(tmp_path / "credits.duckdb", *samples)
    assert len(page.of("svg")) == 6 * report.FULL_ACCOUNTS
    assert len(page.html) < 1_500_000
    for n in range(200):
        assert f"team {n:03}" in page.texts
    assert "The first 10 each have a section below." in page.text
    assert len([link for link in page.of("a") if link["href"]]) == report.FULL_ACCOUNTS


def test_hostile_names_add_no_tag_no_attribute_and_no_invisible_character(tmp_path: Path) -> None:
    """A model's name comes from the vendor's catalogue, an account's from the environment: neither is ours."""
    alike: dict[str, Any] = {"days": 3, "gap": (), "top_up_usd": 0, "seed": "the same spend"}
    harmless = [Sample(f"account {n}", models=("model",), **alike) for n in range(len(HOSTILE))]
    hostile = [Sample(name, models=(name,), **alike) for name in HOSTILE]
    expected = rendered(tmp_path / "harmless.duckdb", *harmless)
    page = rendered(tmp_path / "hostile.duckdb", *hostile)
    grown = {tag: number for (tag, _), number in (page.shape - expected.shape).items()}
    # A blank to break at after each "/" of a model's name is ours.
    assert set(grown) <= {"wbr"}
    assert not any(attribute.startswith("on") for _, attributes in page.tags for attribute in attributes)
    assert not {"script", "img", "iframe", "object", "link", "form", "base", "image", "use"} & {
        tag for tag, _ in page.tags
    }
    assert not re.search("[\u202a-\u202e\u2066-\u2069\u200b-\u200f\x00-\x08\x0b-\x1f\x7f]", page.html)
    assert "49" not in [text for text in page.texts if "7 * 7" in text]
    for name in HOSTILE:
        assert any(wording.name(name) in text for text in page.texts), name


def test_a_hostile_explanation_stays_text(tmp_path: Path) -> None:
    path = publish(tmp_path / "credits.duckdb", [Sample("default", days=30)])
    with duckdb.connect(str(path)) as con:
        con.execute(
            "update marts.credits_runway set explanation = ?", ["mostly <script>alert(1)</script>\u202e"]
        )
    page = Page(report.render(path, generated_at=WRITTEN))
    assert "mostly <script>alert(1)</script>\ufffd" in page.texts
    assert not page.of("script")


def test_the_page_asks_nothing_of_anybody(page: Page) -> None:
    policy = next(
        meta["content"] for meta in page.of("meta") if meta.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy is not None
    assert policy.startswith("default-src 'none'; style-src 'unsafe-inline'; img-src data:")
    outside = re.findall(r"https?:\\?/\\?/[^\s\"'<>)]*", page.html)
    assert set(outside) == {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert not page.of("script")
    assert all(not attributes.get("src") for _, attributes in page.tags)
    assert all((attributes.get("href") or "#").startswith("#") for _, attributes in page.tags)
    assert not re.search(r"url\((?!#)|@import|expression\(", page.html)


def test_the_page_is_built_for_screen_readers(page: Page) -> None:
    assert page.of("html") == [{"lang": "en"}]
    for landmark in ("header", "main", "footer", "h1", "title"):
        assert len(page.of(landmark)) == 1
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert all(after - before <= 1 for before, after in pairwise(levels))
    assert len(page.of("caption")) == len(page.of("table")) == 3
    assert all(header.get("scope") in ("row", "col") for header in page.of("th"))
    pictures = [attributes for _, attributes in page.tags if attributes.get("role") == "img"]
    assert len(pictures) == len(page.of("svg")) == 6
    assert all(len(picture["aria-label"] or "") > 40 for picture in pictures)
    ids = [attributes["id"] for _, attributes in page.tags if attributes.get("id")]
    assert len(ids) == len(set(ids))
    for _, attributes in page.tags:
        assert attributes.get("aria-labelledby", ids[0]) in ids


def test_every_colour_of_a_drawing_is_defined_for_light_dark_and_paper(page: Page) -> None:
    style = page.html[page.html.index("<style>") : page.html.index("</style>")]
    used = set(re.findall(r"var\((--[a-z0-9-]+)\)", page.html))
    for variable in used:
        assert style.count(f"{variable}: ") == 3, variable


def test_tables_hold_thirty_days_the_models_and_the_top_ups(page: Page) -> None:
    text = page.text
    days = text[text.index("The last 30 UTC days") : text.index("Models: the 30 days")]
    assert days.count(" 2026 | ") == 30
    assert "22 Nov 2026 | $0.03 | so far" in days
    assert "day not over" in days
    assert "anthropic/ | claude-sonnet-4.5" in text
    assert "20 – 21 Oct 2026 | top-up | +$200.00" in text


def test_many_models_and_many_events_are_folded(tmp_path: Path) -> None:
    models = tuple(f"vendor{n:02}" for n in range(30))
    page = rendered(
        tmp_path / "credits.duckdb", Sample("a", days=80, models=models, top_up_usd=20, daily_usd=9)
    )
    assert "18 other models" in page.text
    assert re.search(r"Older ones not shown: \d+\.", page.text)


def test_without_any_reading_the_page_says_what_to_do(marts: duckdb.DuckDBPyConnection) -> None:
    page = Page(report.render(marts, generated_at=WRITTEN))
    assert "No data yet" in page.text
    assert not page.of("svg")


def test_marts_that_do_not_exist_yet_leave_their_part_out(tmp_path: Path) -> None:
    path = publish(tmp_path / "credits.duckdb", [Sample("default", days=30)])
    kept = ("credits_readings", "daily_spend")
    with duckdb.connect(str(path)) as con:
        for (table,) in con.execute(
            "select table_name from duckdb_tables() where schema_name = 'marts'"
        ).fetchall():
            if table not in kept:
                con.execute(f"drop table marts.{table}")
    page = Page(report.render(path, generated_at=WRITTEN))
    assert "No forecast yet." in page.text
    assert "$180.00" in page.texts
    assert "No balance is known yet." in page.html


def test_the_page_is_written_whole_and_for_its_owner_only(tmp_path: Path) -> None:
    published = publish(tmp_path / "credits.duckdb", [Sample("default", days=30)])
    target = tmp_path / "out" / "report.html"
    with clock.frozen(WRITTEN):
        report.write(published, target)
        report.write(published, target)
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert sorted(file.name for file in target.parent.iterdir()) == [".report.html.lock", "report.html"]
    assert "written (22 Nov 2026 00:07 UTC)" in target.read_text(encoding="utf-8")


def test_a_page_that_cannot_be_made_leaves_the_last_one(tmp_path: Path) -> None:
    target = tmp_path / "report.html"
    target.write_text("yesterday's", encoding="utf-8")
    with pytest.raises(warehouse.WarehouseError):
        report.write(tmp_path / "missing.duckdb", target)
    assert target.read_text(encoding="utf-8") == "yesterday's"
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]


def test_a_page_that_finds_no_room_leaves_the_last_one_and_says_what_to_do(tmp_path: Path) -> None:
    published = publish(tmp_path / "credits.duckdb", [Sample("default", days=5, gap=())])
    target = tmp_path / "report.html"
    target.write_text("yesterday's", encoding="utf-8")
    program = (
        "import resource, signal, sys; from pathlib import Path; from credits_pipeline.report import page as report;"
        "page, write = report.render, report._write_whole;"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "report._write_whole = lambda *a: (resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)), write(*a));"
        "report.write(Path(sys.argv[1]), Path(sys.argv[2]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(published), str(target)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert f"ReportNotWritten: {target} could not be written (File too large): free some space" in done.stderr
    assert target.read_text(encoding="utf-8") == "yesterday's"
    assert not (tmp_path / ".report.html.new").exists()


def test_the_same_marts_make_the_same_page(tmp_path: Path) -> None:
    path = publish(tmp_path / "credits.duckdb", [Sample("a", days=30), Sample("b", days=30)])
    assert report.render(path, generated_at=WRITTEN) == report.render(path, generated_at=WRITTEN)


CHROMIUM = Path("/usr/bin/chromium")
FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync")  # fmt: skip


@pytest.mark.browser
@pytest.mark.skipif(not CHROMIUM.exists(), reason="Debian's chromium is not installed")
@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_a_browser_finds_nothing_wrong(tmp_path: Path, width: int, theme: Any) -> None:
    """No request leaves, nothing is logged, nothing scrolls sideways, axe has nothing serious."""
    from axe_playwright_python.sync_playwright import Axe
    from playwright.sync_api import sync_playwright

    published = publish(
        tmp_path / "credits.duckdb",
        [
            Sample("default"),
            Sample("gone", days=40, status="exhausted", balance_usd=-3),
            Sample(HOSTILE[1], days=6, gap=()),
        ],
        is_simulated=True,
    )
    file = tmp_path / "report.html"
    with clock.frozen(WRITTEN):
        report.write(published, file)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=list(FLAGS))
        tab = browser.new_page(viewport={"width": width, "height": 844}, color_scheme=theme)
        said: list[str] = []
        asked: list[str] = []
        tab.on("console", lambda message: said.append(message.text))
        tab.on("pageerror", lambda error: said.append(str(error)))
        tab.on("request", lambda request: asked.append(request.url))
        tab.goto(file.as_uri())
        wide = tab.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert (said, asked, wide) == ([], [file.as_uri()], 0)
        found = Axe().run(tab).response["violations"]
        browser.close()
    assert [rule["id"] for rule in found if rule["impact"] in ("serious", "critical")] == []


@pytest.mark.browser
@pytest.mark.skipif(not CHROMIUM.exists(), reason="Debian's chromium is not installed")
@pytest.mark.parametrize("names", [("one",), ("one", "two", "three")], ids=["one account", "three accounts"])
def test_it_prints_on_one_or_two_pages(tmp_path: Path, names: tuple[str, ...]) -> None:
    from playwright.sync_api import sync_playwright

    published = publish(tmp_path / "credits.duckdb", [Sample(name) for name in names], is_simulated=True)
    file = tmp_path / "report.html"
    with clock.frozen(WRITTEN):
        report.write(published, file)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=list(FLAGS))
        tab = browser.new_page()
        tab.goto(file.as_uri())
        printed = tab.pdf(prefer_css_page_size=True)
        browser.close()
    assert len(re.findall(rb"/Type /Page\b", printed)) in (1, 2)
