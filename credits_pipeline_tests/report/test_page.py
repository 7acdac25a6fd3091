"""report.html as the person who pays reads it, and as somebody with a hostile model name would like it to be."""

import re
import stat
from collections import Counter
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from credits_pipeline import clock, wording
from credits_pipeline.errors import CreditsError
from credits_pipeline.report import answer, charts, drawing, page
from credits_pipeline.warehouse import WarehouseError
from credits_pipeline_tests.models import World
from credits_pipeline_tests.report.people import KEYED, NOW, WRITTEN, publish, settings, spending

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


def rendered(world: World, *names: str, at: datetime = WRITTEN) -> Page:
    with clock.frozen(at):
        return Page(page.render(world.con, settings(*names)))


@pytest.fixture(scope="module")
def one(people: World) -> Page:
    """The page of somebody with one account."""
    return rendered(people, "steady")


@pytest.fixture(scope="module")
def all_of_them(people: World) -> Page:
    return rendered(people, *KEYED)


def part(whole: Page, account: str) -> str:
    """What the page says about one account."""
    start = whole.text.index(f"| Account {account} |")
    end = whole.text.find("| Account ", start + 10)
    return whole.text[start : end if end > 0 else None]


def row_of(text: str, first: str, cells: int) -> list[str]:
    """That many cells of a table's row, from its first."""
    return text[text.index(f"| {first} |") + 2 :].split(" | ")[:cells]


def test_the_first_screen_answers_when_how_sure_and_how_old(people, one):
    first = one.text[: one.text.index("Balance and forecast")]
    (runway,) = people.table("credits_runway", "steady")
    early, late = (wording.day(runway[f"run_out_p{p}"], year=False) for p in (10, 90))
    assert f"Credits last until about {wording.day(runway['run_out_p50'])}." in first
    assert f"80 % sure: between {early} and {late} 2026." in first
    assert re.search(r"\d+ 14-day forecasts were right \d+ % of the time \(target: 80 %\)\.", first)
    assert f"| {runway['explanation']} |" in first
    latest = "Based on the latest reading, | 22 Nov 2026 00:05 UTC | : 2 minutes old when this page was written"
    assert latest in first
    assert "The page does not update itself." in first
    for label in ("Balance", "Spent on 21 Nov", "7 days to 21 Nov", "30 days to 21 Nov"):
        assert label in first


def test_every_day_and_model_of_an_account_is_that_of_the_tables(people, all_of_them):
    """And every other figure: project/test_what_people_read.py."""
    for name in [row["account"] for row in answer.accounts(people.con, settings(*KEYED))[: page.FULL_ACCOUNTS]]:
        said = part(all_of_them, name)
        for day in people.table("daily_spend", name)[-30:]:
            assert row_of(said, wording.day(day["spend_date"]), 2)[1] == wording.usd(day["spend_usd"])
        for model in people.table("spend_summary_by_model", name):
            assert wording.usd(model["spend_usd"]) in said.split(" | ")


def test_accounts_come_in_the_one_order_of_need_and_a_taken_away_key_stands_apart(people, all_of_them):
    order = ["debt", "gaps", "tiny", "steady", "corrected", "soon", "huge", "years", "free", "late", "young", "calm",
             "unused", "unread"]  # fmt: skip
    rows = answer.accounts(people.con, settings(*KEYED))
    assert [row["account"] for row in rows] == [*order, "former"]
    assert [row["account"] for row in rows if not row["has_key"]] == ["former"]
    overview = all_of_them.text[: all_of_them.text.index("| Account debt |")]
    assert [name for name in re.findall(r"\| (\w+) (?=\|)", overview) if name in order] == order
    former = "former: no key any more, last read on 3 Nov 2026, when the balance was $45.00. It is in no total."
    assert former in overview
    assert "Account former" not in all_of_them.text


def test_totals_are_of_the_accounts_with_a_key_and_unknown_where_a_part_is(people, all_of_them):
    three = rendered(people, "soon", "steady", "years").text
    assert row_of(three, "All accounts", 3) == ["All accounts", "$40,132.00", "$350.00"]
    assert row_of(all_of_them.text, "All accounts", 3) == ["All accounts", "unknown", "unknown"]


def test_where_no_key_is_configured_nothing_is_said_about_keys(people):
    text = rendered(people).text
    assert "14 accounts, nearest run-out first" in text
    assert "no key any more" not in text


def test_an_account_that_was_never_read_says_so_and_what_to_do(people):
    text = rendered(people, "soon", "unread").text
    assert "never read: check its key" in text
    assert "This account has never been read. | Check its key, then run again." in text
    for words in ("No forecast yet", "on unknown", "has no row"):
        assert words not in text


def test_the_first_day_says_since_when_it_is_known_and_the_bill_stands_beside_it(all_of_them):
    text = part(all_of_them, "late")
    assert row_of(text, "21 Nov 2026", 4) == ["21 Nov 2026", "$0.00", "since 23:50", "$5.72"]
    assert "The last UTC day, in USD" in text


def test_sums_say_how_many_of_their_days_are_unknown_and_such_days_are_no_zeros(all_of_them):
    text = part(all_of_them, "gaps")
    assert "7 days to 21 Nov | $5.99 | 5 of these 7 days are unknown" in text
    assert row_of(text, "15 Nov 2026", 3) == ["15 Nov 2026", "unknown", "not known"]
    assert "days are unknown" in all_of_them.html[all_of_them.html.index("Account gaps") :]


@pytest.mark.parametrize(
    ("spent", "before", "unknown", "unknown_before", "words"),
    [
        (3.998, 2, 0, 0, "▲ 100 % more than the 7 days before"),
        (0.002, 2, 0, 0, "▼ >99 % less than the 7 days before"),
        (2, 2, 0, 0, "the same as the 7 days before"),
        (40, 2, 0, 0, "▲ 20 times that of the 7 days before"),
        (0, 2, 0, 0, "after $2.00 the 7 days before"),
        (2, 0, 0, 0, "$0.00 the 7 days before"),
        (-2, 5, 0, 0, "$5.00 the 7 days before"),
        (2, 2, 0, 1, "no full 7 days before to compare"),
        (2, 2, 1, 0, "1 of these 7 days is unknown"),
        (2, None, 0, 7, "no full 7 days before to compare"),
        (None, None, 0, 0, ""),
    ],
)
def test_a_change_is_worded_only_from_whole_spans(spent, before, unknown, unknown_before, words):
    row = {"spend_7d_usd": spent, "before_7d_usd": before}
    row = {name: usd if usd is None else Decimal(usd) for name, usd in row.items()}
    row |= {"unknown_days_7d": unknown, "unknown_days_before_7d": unknown_before}
    assert wording.say("change", row, 7).replace("\u00a0", " ") == words


def test_how_often_the_interval_was_right_depends_on_how_often_it_was_checked():
    for replays, coverage, said in (
        (19, 15 / 19, "15 of 19 30-day forecasts were right: too few to rely on."),
        (20, 0.8, "20 30-day forecasts were right 80 % of the time (target: 80 %)."),
    ):
        check = {"horizon_days": 30, "replays": replays, "coverage_80": coverage}
        assert wording.say("record", check).replace("\u00a0", " ") == f"Tested on this account’s own history, {said}"


def test_the_age_is_in_the_largest_unit_that_says_enough():
    minutes = (-5, 0, 1, 59, 60, 47 * 60, 48 * 60)
    assert [wording.say("age", age).removesuffix(" old") for age in minutes] == [
        *["less than a minute"] * 2, "1 minute", "59 minutes", "1 hour", "47 hours", "2 days",
    ]  # fmt: skip


def test_the_record_shown_is_that_of_the_horizon_nearest_to_the_run_out_date(people):
    (runway,) = people.table("credits_runway", "steady")
    (record,) = page.tables(people.con, "steady")["record"]
    ahead = {row["horizon_days"]: abs(row["horizon_days"] - runway["days_left_p50"])
             for row in people.table("forecast_accuracy", "steady")}  # fmt: skip
    assert ahead[record["horizon_days"]] == min(ahead.values())
    assert wording.say("record", None).startswith("It is too early to say how often this is right")


def test_a_drawing_program_that_dies_costs_the_pictures_only(people):
    drawing.start().kill()
    drawing.start().wait()
    drawing.draw.cache_clear()
    text = rendered(people, "years").text
    drawing.start.cache_clear()
    assert "Balance in USD at the end of each UTC day" in text
    assert text.count("(The picture could not be drawn.)") >= 3
    assert drawing.svg(charts.of_account(people.con, "balance", "years"))


def test_simulated_data_say_so_on_top_and_real_data_do_not(people, one):
    assert "SIMULATED" not in one.html
    people.con.execute("update marts.published set is_simulated = true")
    text = rendered(people, "young").texts[:12]
    people.con.execute("update marts.published set is_simulated = false")
    assert "SIMULATED DATA." in text


@pytest.mark.parametrize(("hours", "is_stale"), [(36, False), (36.01, True)])
def test_data_older_than_the_schedule_allows_are_called_stale(people, hours, is_stale):
    later = NOW.replace(tzinfo=UTC) + timedelta(hours=hours)
    text = rendered(people, "young", at=later).text
    assert ("There has been no reading for more than 36 hours" in text) == is_stale
    weekly = settings("young")
    weekly.stale_after = timedelta(days=8)
    with clock.frozen(later):
        assert "Out of date" not in Page(page.render(people.con, weekly)).text


def named(*names: str) -> World:
    """Accounts, each with a model of its own name."""
    world = World()
    for name in names:
        spending(world, name, [2, 3, 4], 100)
        world.bill("2026-11-20", 3, models={name: 3}, account=name)
    world.build(list(world.project.models))
    world.con.execute("create table marts.published (is_simulated boolean)")
    return world


def test_hostile_names_add_no_tag_no_attribute_and_no_invisible_character():
    """A model's name comes from the vendor's catalogue, an account's from the environment: neither is ours."""
    expected = rendered(named(*(f"account {number}" for number in range(len(HOSTILE)))))
    world = named(*HOSTILE)
    hostile = rendered(world)
    grown = {tag for (tag, _) in hostile.shape - expected.shape}
    assert grown <= {"wbr", "path"}, "a blank to break at after each / of a model's name, and legends, are ours"
    assert not any(attribute.startswith("on") for _, attributes in hostile.tags for attribute in attributes)
    forbidden = {"script", "img", "iframe", "object", "link", "form", "base", "image", "use"}
    assert not forbidden & {tag for tag, _ in hostile.tags}
    assert not re.search("[\u202a-\u202e\u2066-\u2069\u200b-\u200f\x00-\x08\x0b-\x1f\x7f]", hostile.html)
    assert "49" not in [text for text in hostile.texts if "7 * 7" in text]
    for name in HOSTILE:
        assert any(wording.name(name) in text for text in hostile.texts), name
    world.con.execute(
        "update marts.credits_runway set status = 'ok', explanation = 'mostly <script>alert(1)</script>\u202e'"
    )
    assert "mostly <script>alert(1)</script>\ufffd" in rendered(world).texts
    assert not rendered(world).of("script")


def test_the_page_asks_nothing_of_anybody(one):
    policy = next(meta["content"] for meta in one.of("meta") if meta.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none'; style-src 'unsafe-inline'; img-src data:")
    outside = re.findall(r"https?:\\?/\\?/[^\s\"'<>)]*", one.html)
    assert set(outside) == {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert not one.of("script")
    assert all(not attributes.get("src") for _, attributes in one.tags)
    assert all((attributes.get("href") or "#").startswith("#") for _, attributes in one.tags)
    assert not re.search(r"url\((?!#)|@import|expression\(", one.html)


def test_the_page_is_built_for_screen_readers(one):
    assert one.of("html") == [{"lang": "en"}]
    for landmark in ("header", "main", "footer", "h1", "title"):
        assert len(one.of(landmark)) == 1
    levels = [int(tag[1]) for tag, _ in one.tags if re.fullmatch("h[1-6]", tag)]
    assert all(after - before <= 1 for before, after in pairwise(levels))
    assert len(one.of("caption")) == len(one.of("table")) == 4 + 3 + 4
    assert all(header.get("scope") in ("row", "col") for header in one.of("th"))
    pictures = [attributes for _, attributes in one.tags if attributes.get("role") == "img"]
    assert len(pictures) == len(one.of("svg")) == 7
    assert all(len(picture["aria-label"] or "") > 40 for picture in pictures)
    ids = [attributes["id"] for _, attributes in one.tags if attributes.get("id")]
    assert len(ids) == len(set(ids))
    referred = [attributes["aria-labelledby"] for _, attributes in one.tags if "aria-labelledby" in attributes]
    assert {*referred, *re.findall(r"url\(#([^)]+)\)", one.html)} <= {*ids}


def test_every_colour_of_a_drawing_is_defined_for_light_dark_and_paper(one):
    style = one.html[one.html.index("<style>") : one.html.index("</style>")]
    used = set(re.findall(r"var\((--[a-z0-9-]+)\)", one.html))
    for variable in used:
        assert style.count(f"{variable}: ") == 3, variable


def test_tables_hold_thirty_days_the_models_and_the_top_ups(one):
    days = one.text[one.text.index("The last 30 UTC days") : one.text.index("Models: the 30 days")]
    assert days.count(" 2026 | ") == 30
    assert "22 Nov 2026 | $0.02 | so far" in days
    assert "day not over" in days
    assert "anthropic/ | claude-sonnet-4.5" in one.text
    assert "3 other models" in one.text
    assert "1 – 2 Nov 2026 | top-up | +$100.00" in one.text


def test_without_any_reading_the_page_says_what_to_do():
    world = World()
    world.build(list(world.project.models))
    world.con.execute("create table marts.published (is_simulated boolean)")
    empty = rendered(world)
    assert "No data yet" in empty.text
    assert not empty.of("svg")
    assert "This account has never been read." in rendered(world, "default").text


@pytest.fixture
def files(people: World, tmp_path: Path) -> Any:
    """Settings whose published copy holds everybody's tables."""
    published = tmp_path / "credits.duckdb"
    publish(people, published)
    return settings("young", published_path=published, report_path=tmp_path / "out" / "report.html")


def test_the_page_is_written_whole_and_for_its_owner_only_and_always_the_same(files):
    with clock.frozen(WRITTEN):
        page.write(files)
        first = files.report_path.read_text(encoding="utf-8")
        page.write(files)
    assert stat.S_IMODE(files.report_path.stat().st_mode) == 0o600
    assert sorted(file.name for file in files.report_path.parent.iterdir()) == [".report.html.lock", "report.html"]
    assert "written (22 Nov 2026 00:07 UTC)" in first
    assert files.report_path.read_text(encoding="utf-8") == first


def test_a_page_that_cannot_be_made_or_finds_no_room_leaves_the_last_one_and_says_what_to_do(files):
    target: Path = files.report_path
    target.parent.mkdir()
    target.write_text("yesterday's", encoding="utf-8")
    target.with_name(".report.html.new").mkdir()  # refuses every write, also root's
    with clock.frozen(WRITTEN), pytest.raises(CreditsError, match=r"could not be written .*: free some space"):
        page.write(files)
    files.published_path.unlink()
    with pytest.raises(WarehouseError):
        page.write(files)
    assert target.read_text(encoding="utf-8") == "yesterday's"


@pytest.mark.browser
@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_a_browser_finds_nothing_wrong(all_of_them, browser, tmp_path, width, theme):
    """No request leaves, nothing is logged, nothing scrolls sideways, axe has nothing serious."""
    from axe_playwright_python.sync_playwright import Axe

    file = tmp_path / "report.html"
    file.write_text(all_of_them.html, encoding="utf-8")
    tab = browser.new_page(viewport={"width": width, "height": 844}, color_scheme=theme)
    said, asked = [], []
    tab.on("console", lambda message: said.append(message.text))
    tab.on("pageerror", lambda error: said.append(str(error)))
    tab.on("request", lambda request: asked.append(request.url))
    tab.goto(file.as_uri())
    wide = tab.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert (said, asked, wide) == ([], [file.as_uri()], 0)
    found = Axe().run(tab).response["violations"]
    assert [rule["id"] for rule in found if rule["impact"] in ("serious", "critical")] == []


@pytest.mark.browser
@pytest.mark.parametrize(("names", "most"), [(["soon"], 3), (["steady"], 3), (["steady", "soon", "years"], 2)])
def test_it_prints_on_few_pages(people, browser, tmp_path, names, most):
    file = tmp_path / "report.html"
    file.write_text(rendered(people, *names).html, encoding="utf-8")
    tab = browser.new_page()
    tab.goto(file.as_uri())
    assert len(re.findall(rb"/Type /Page\b", tab.pdf(prefer_css_page_size=True))) <= most


def test_of_many_accounts_the_most_urgent_are_listed_and_totals_are_over_all(people, all_of_them, monkeypatch):
    monkeypatch.setattr(page, "LISTED_ACCOUNTS", 3)
    monkeypatch.setattr(page, "FULL_ACCOUNTS", 0)
    few = rendered(people, *KEYED)
    first = [row["account"] for row in answer.accounts(people.con, settings(*KEYED))][:3]
    assert f"{len(KEYED) - 3} more, less urgent, are in the table credits_runway." in few.text
    table = re.findall(r'<th scope="row" class="name">(?:<a[^>]*>)?([^<]+)', few.html)
    assert [name for name in table if name in KEYED] == first
    total = re.search(r"All accounts[^|]*\|[^|]*", all_of_them.text)
    assert total
    assert total[0] in few.text
