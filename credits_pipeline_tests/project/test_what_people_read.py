"""What people read is what the tables say: page, terminal, alerts and the UI's metadata, parsed and compared.

A real rebuild over extreme accounts side by side writes all four. This reader knows their sentences, and nothing of
how they are made: it takes every amount, day and share that is said of an account, and looks for it in the tables.
What the page alone shows: report/test_page.py.
"""

import html
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from functools import cache
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import dagster as dg
import pytest
from markdown_it import MarkdownIt

from credits_pipeline import clock, config
from credits_pipeline.report import answer
from credits_pipeline.warehouse import Warehouse, fetch_dicts, open_published
from credits_pipeline_tests.receiver import Receiver
from credits_pipeline_tests.report.test_page import Page, part
from credits_pipeline_tests.sql.test_oracle import FIRST, HOUR, MINUTE, History, RawBill, RawReading, histories, load

DAY = timedelta(days=1)
MONEY, DATE = r"[−+-]?\$[\d,.]*\d|unknown", r"\d{1,2} [A-Z][a-z]{2} \d{4}"
SCIENTIFIC = re.compile(r"(?<![\w.-])\d+(?:\.\d+)?[eE][-+]?\d+(?![\w-])|\b(?:nan|inf|NaT)\b")
MARTS = "select table_name as name from duckdb_tables() where schema_name = 'marts'"
# Of every bill a third by a key that has spent most of its limit, and another that nobody named.
BROKEN_DOWN = """
    insert into raw.usage_breakdown_days
    select account, usage_date, 'api_key', credits_usd, fetched_at, run_id from raw.model_usage_days;
    insert into raw.usage_breakdown
    select account, usage_date, 'api_key', member, model, credits_usd / 3, 0, 0, 0, 0, 0, 0 from raw.model_usage,
        (select unnest(['batch', 'web']) as member);
    insert into raw.api_keys
    select account, max(fetched_at), 'hash of batch', 'batch', '…', null, 20, 1, 'monthly', false, 19, null, null, null,
        false, null, null, 'r'
    from raw.model_usage_days group by account
"""
Row = dict[str, Any]


def account(daily: str, left: str, *, every: int = 1, billed: range = range(0), last: int = 40) -> History:
    """Spends about `daily` for 40 days; `left` is left; read up to day `last` of them."""
    spend = [Decimal(daily) * (1 + n % 3) / 2 for n in range(40)]
    usage = [Decimal(900) * (daily != "0") + sum(spend[:n], Decimal(0)) for n in range(41)]
    read = range(last, -1, -every)
    readings = [RawReading(FIRST + n * DAY + 5 * MINUTE, usage[-1] + Decimal(left), usage[n]) for n in read]
    bills = [RawBill((FIRST + n * DAY).date(), spend[n], FIRST + (n + 1) * DAY + HOUR) for n in billed]
    return History(tuple(readings), tuple(bills))


PEOPLE = [
    account("2", "60"),
    account("0", "20"),  # never spends
    account("0", "0"),  # never bought, never spent
    account("38", "-944.2"),
    account("2", "40000"),  # lasts for years
    account("0.00000001", "0.0000003"),
    account("1000000", "9000000"),
    account("3", "700", every=40, billed=range(34, 40)),  # most days are not known
    account("2", "20", last=20),  # lost its key on day 20
    History((), account("5", "0", billed=range(40)).bills),  # billed, never read
    account("2", "-500", last=20),  # used up, and read last before 00003, which is as well
]
WITHOUT_KEY, UNREAD = {"00008"}, "unread"


def amount_is(shown: str, exact: Decimal | None) -> bool:
    """To the cent, under a cent to two significant digits; a zero only where it is one, "unknown" only for null."""
    if shown == "unknown" or exact is None:
        return shown == "unknown" and exact is None
    said = Decimal(shown.replace("−", "-").replace("$", "").replace(",", "").lstrip("+"))
    places = -int(said.as_tuple().exponent)
    near = max(Decimal("0.5").scaleb(-places) if places == 2 else abs(exact) / 20, Decimal("1e-9"))
    return places >= 2 and abs(said - exact) <= near and (said == 0) == (exact == 0) and abs(near) < 1


def share_is(shown: str, exact: float | None) -> bool:
    if exact is None or shown == "unknown":
        return exact is None and shown == "unknown"
    if shown in ("<1", ">99"):
        return 0 < exact < 0.01 if shown == "<1" else 0.99 < exact < 1
    return abs(int(shown) - 100 * exact) <= 0.5001 and (shown not in ("0", "100") or exact == int(exact))


def day(text: str) -> date:
    return datetime.strptime(text, "%d %b %Y").date()  # noqa: DTZ007


def said_of_the_end(text: str) -> tuple[Any, ...]:
    """What an answer promises: the status and the three run-out dates."""
    for words, status in (
        ("redits are used up", "exhausted"), ("the account is idle", "idle"), ("too little history", "accumulating"),
        ("o credits were ever bought or spent.", "unused"), ("has never been read", "unread"),
    ):  # fmt: skip
        if words in text:
            return status, None, None, None
    if found := re.search(f"redits probably last longer than a year. There is a 1-in-10 chance .* by ({DATE})", text):
        return "ok", day(found[1]), None, None
    if "redits last longer than a year." in text:
        return "ok", None, None, None
    found = re.search(f"redits last until about ({DATE})[.] 80 % sure: (.*?)[.]", text)
    assert found, text
    middle, span = day(found[1]), found[2]
    if span == "on that day":
        return "ok", middle, middle, middle
    if early := re.fullmatch(f"not before ({DATE}), and possibly for more than a year", span):
        return "ok", day(early[1]), middle, None
    both = re.fullmatch(f"between (.*) and ({DATE})", span)
    assert both, span
    first = both[1] if re.fullmatch(DATE, both[1]) else f"{both[1]} {both[2][-4:]}"
    return "ok", day(first), middle, day(both[2])


def plain(text: str) -> str:
    return " ".join(text.replace("\u00a0", " ").split())


# What a sentence of any surface calls an amount or a share, and the figure that it then is.
CALLED = (
    (rf"[Bb]alance(?: is)?:? ({MONEY})", "balance_usd"),
    (rf"so the ({MONEY}) ", "balance_usd"),
    (rf"(?:At about|expected spend) ({MONEY})(?: a day|;)", "expected_daily_spend_usd"),
    (rf"(?:spent |, )({MONEY}) in 7 days|7 days to [^$]{{5,6}} ({MONEY})|last 7 days ({MONEY})", "spend_7d_usd"),
    (rf"(?:spent |, )({MONEY}) in 30 days|30 days to [^$]{{5,6}} ({MONEY})|in the last 30 ({MONEY})", "spend_30d_usd"),
    (rf"\bmonth ({MONEY}) (?:of {MONEY} in|so far)|Spent so far[^$−]*({MONEY})", "spent_usd"),
    (rf"top-up buy ({MONEY}) ", "credits_usd"),
    (rf"\(charged ({MONEY})\)", "charged_usd"),
    (r"(<?>?\d+) % likely to pass", "probability_over_budget"),
    (r"within 7 days: (<?>?\d+) %", "probability_7d"),
    (r"within 30 days: (<?>?\d+) %", "probability_30d"),
    (r"have been right (<?>?\d+) %", "calibration_80"),
)


@dataclass(eq=False)
class Tables:
    """What is published, and what people said against it. Counts what it compared."""

    marts: dict[str, list[Row]]
    keyed: list[str]
    wrong: list[str] = field(default_factory=list)
    compared: Counter[str] = field(default_factory=Counter)

    def of(self, mart: str, name: str) -> list[Row]:
        return [row for row in self.marts[mart] if row["account"] == name]

    @cache  # noqa: B019
    def row(self, name: str) -> Row:
        """The figures of the account, one mart's over another's; its `state` is what should be said of it."""
        row = dict.fromkeys([*self.marts["credits_runway"][0], *self.marts["spend_summary"][0]])
        advised = [plan for plan in self.of("topup_plan", name) if plan["is_advised"]]
        for mart in ("month_outlook", "spend_summary", "credits_runway"):
            row |= next(iter(self.of(mart, name)), {})
        row |= {figure: advised[0][figure] for figure in ("credits_usd", "charged_usd") if advised}
        readings = self.of("credits_readings", name)
        is_unused = readings and not any(r["total_credits"] or r["total_usage"] for r in readings)
        return {**row, "state": "unused" if is_unused else row["status"] or "unread"}

    def same(self, what: str, is_so: object, *found: object) -> None:
        self.compared[what.split(",")[0]] += 1
        if not is_so:
            self.wrong.append(f"{what}: " + " against ".join(map(str, found)))

    def reads(self, what: str, text: str, name: str) -> None:
        """The answer, each figure that is called by its name, and no amount and no day that no table has of it."""
        row = self.row(name)
        self.answers(what, text, row)
        self.figures(what, text, row)
        self.nothing_else(what, text, name)

    def answers(self, what: str, text: str, row: Row) -> None:
        dates = [row[f"run_out_p{p}"] if row["state"] == "ok" else None for p in (10, 50, 90)]
        expected, found = (row["state"], *dates), said_of_the_end(text)
        self.same(f"{what}: the answer", found == expected, found, expected)
        if row["state"] in ("ok", "idle", "accumulating"):
            self.same(f"{what}: the explanation", row["explanation"] in text, text, row["explanation"])
        if old := re.search(f"No reading since ({DATE})", text):
            self.same(f"{what}: newest reading", day(old[1]) == row["as_of"].date(), old[1], row["as_of"])

    def figures(self, what: str, text: str, row: Row) -> None:
        for pattern, figure in CALLED:
            is_so = amount_is if figure.endswith("_usd") else share_is
            for found in re.finditer(pattern, text):
                shown = next(filter(None, found.groups()))
                self.same(f"{figure}, {what}", is_so(shown, row[figure]), found[0], row[figure])

    def nothing_else(self, what: str, text: str, name: str) -> None:
        amounts, days = self.known(name)
        for shown in re.findall(r"\$([\d,.]*\d)", text):
            self.same(f"{what}: an amount", Decimal(shown.replace(",", "")) in amounts, shown, "no table")
        for shown in re.findall(DATE, text):
            self.same(f"{what}: a day", day(shown) in days, shown, "no table")

    @cache  # noqa: B019
    def known(self, name: str) -> tuple[set[Decimal], set[date]]:
        """Every amount of the account as it is said, to the cent or to two digits, and every day of it."""
        values = [v for rows in self.marts.values() for r in rows if r.get("account") == name for v in r.values()]
        amounts = {abs(Decimal(repr(v)) if type(v) is float else v) for v in values if isinstance(v, Decimal | float)}
        days = {v.date() if isinstance(v, datetime) else v for v in values if isinstance(v, date)}
        return {round(v, 2 if round(v, 2) else min(9, 1 - v.adjusted())) for v in amounts}, days


def read_terminal(tables: Tables, text: str) -> list[str]:
    """The accounts in the order in which they are said; so do `read_page` and `read_ui`."""
    order = []
    for block in text.split("\n\n")[1:-1]:
        said = plain(block)
        name = re.split("[, :]", said)[0]
        if "no key any more" in said:
            tables.same(f"terminal, {name}", name not in tables.keyed and "$" not in said, said)
            continue
        order.append(name)
        tables.reads(f"terminal, {name}", said, name)
        tables.same(f"terminal, {name}", bool(tables.row(name)["status"]) == ("balance" in block), said)
    return order


def read_page(tables: Tables, page: Page) -> list[str]:
    overview = page.text[page.text.index("| Account | Credits last until") : page.text.index("| All accounts |")]
    cells = overview.split(" | ")
    order = [cell for cell in cells if cell in tables.keyed]
    for name, end in zip(order, [*order[1:], cells[-1]], strict=True):
        rest = cells[cells.index(name) + 1 : cells.index(end)]
        for shown, figure in zip((cell for cell in rest if re.fullmatch(MONEY, cell)),
                                 ("balance_usd", "spend_30d_usd"), strict=True):  # fmt: skip
            tables.same(f"overview, {name}", amount_is(shown, tables.row(name)[figure]), shown, figure)
    sections = page.html.split('aria-labelledby="account-')[1:]
    for name, section in zip((name for name in order if f"| Account {name} |" in page.text), sections, strict=False):
        text = part(page, name).split(" | Models: the 30 days")[0].replace(" | ", " ")
        tables.reads(f"page, {name}", text, name)
        for said in map(html.unescape, re.findall('aria-label="([^"]*)"', section)):
            tables.nothing_else(f"picture, {name}", plain(said) if "pinball" not in said else "", name)
            if "The forecast continues from there." in said:
                tables.answers(f"picture, {name}", f"{plain(said)} {tables.row(name)['explanation']}", tables.row(name))
    return order


def read_ui(tables: Tables, text: str) -> list[str]:
    order = []
    for name, said in re.findall(r"(?m)^\W*(\w+): (.*)$", text):
        if name not in tables.keyed:
            tables.same(f"UI, {name}", said.startswith("no key any more") and "$" not in said, said)
            continue
        order.append(name)
        row = tables.row(name)
        tables.reads(f"UI, {name}", f"{said} {row['explanation']}" if row["state"] == "ok" else said, name)
    return order


def read_alerts(tables: Tables, alerts: Sequence[Row]) -> None:
    for alert in alerts:
        name, said = alert["account"], plain(f"{alert['title']}\n{alert['body']}")
        row, what = tables.row(name), f"alert, {alert['alert_key']}"
        # A bill may tell of spend that the account's counters do not, and its keys' limits are judged by it.
        is_news = alert["kind"] in ("spend", "key_limit") or row["state"] not in ("unread", "unused", "idle")
        tables.same(what, name in tables.keyed and is_news, row["state"])
        tables.figures(what, said, row)
        for shown in re.findall(r"(\d+) days? left", alert["title"]):
            tables.same(f"{what}: days left", int(shown) == row["days_left_p50"], shown, row["days_left_p50"])
        for shown in re.findall(f"run out around ({DATE})", said):
            tables.same(f"{what}: run-out", day(shown) == row["run_out_p50"], shown, row["run_out_p50"])
        if alert["kind"] == "run_out":
            sure = re.findall(r"How sure: (.*?) Gone within", said)[0]
            dated = f"Credits last until about {alert['title'].split(' around ')[1].split(',')[0]}. {sure} {said}"
            tables.answers(what, dated, row)
            tables.same(f"{what}: early", ("early estimate" in said) == row["is_early"], said)
        if alert["kind"] == "spend":
            tables.nothing_else(what, said.split("The forecast now:")[0], name)
            tables.answers(what, f"{said.split('The forecast now:')[1]} {row['explanation']}", row)


def shown_in_the_ui(result: dg.ExecuteInProcessResult) -> Iterator[tuple[str, str, Any]]:
    """Asset, key and value of everything that the run's assets and checks show."""
    for event in result.get_asset_materialization_events():
        of = event.step_materialization_data.materialization
        yield from ((of.asset_key.path[-1], key, entry.value) for key, entry in of.metadata.items())
    for check in result.get_asset_check_evaluations():
        yield check.check_name, "description", check.description or ""


def unmarked(markdown: str) -> str:
    """Markdown as people see it."""
    shown = html.unescape(re.sub(r"<[^>]+>", "", MarkdownIt("commonmark").render(markdown)))
    return "\n".join(plain(line) for line in shown.splitlines())


def read_everything(
    told: Sequence[History], without_key: set[str], folder: Path, monkeypatch: pytest.MonkeyPatch, run_job: Any
) -> Tables:
    """Rebuild over these accounts in this process, and read all that it wrote."""
    names = [f"{n:05}" for n in range(len(told))]
    keyed = [*(name for name in names if name not in without_key), UNREAD]
    for name in keyed:
        monkeypatch.setenv(f"OPENROUTER_API_KEY_{name.upper()}", f"sk-or-v1-of-{name}")
    monkeypatch.setenv("CREDITS_DATA_DIR", str(folder))
    monkeypatch.setenv("CREDITS_ALERT_DAYS", "365,14")
    monkeypatch.setenv("CREDITS_BUDGET_00000", "50/month")
    monkeypatch.setenv("CREDITS_AUTO_TOPUP_00000", "10:50")
    newest = max(reading.at for history in told for reading in history.readings)
    with Receiver() as receiver, clock.frozen(newest.replace(tzinfo=UTC) + timedelta(minutes=2)):
        monkeypatch.setenv("CREDITS_ALERT_URLS", receiver.url())
        settings = config.current()
        warehouse = Warehouse(settings.warehouse_path)
        with warehouse.writing("filling a test") as con:
            load(SimpleNamespace(con=con, empty=lambda: None), told)  # type: ignore[arg-type]
            con.execute(BROKEN_DOWN)
        result = run_job("rebuild")
        assert result.success
        with open_published(settings.published_path) as con:
            marts = [row["name"] for row in fetch_dicts(con, MARTS)]
            tables = Tables({mart: fetch_dicts(con, f"select * from marts.{mart}") for mart in marts}, keyed)
        with warehouse.reading() as con:
            alerts = fetch_dicts(con, "select distinct alert_key, kind, account, title, body from ops.alerts_sent")
        terminal = answer.text(settings)
        page = Page(settings.report_path.read_text(encoding="utf-8"))
    ui = list(shown_in_the_ui(result))
    [said] = [value for asset, key, value in ui if (asset, key) == ("credits_runway", "answer")]
    orders = [read_terminal(tables, terminal), read_page(tables, page), read_ui(tables, unmarked(said))]
    read_alerts(tables, alerts)
    rows = {name: tables.row(name) for name in keyed}
    dated = {name: rows[name]["run_out_p50"] for name in keyed if rows[name]["state"] in ("ok", "exhausted")}
    needs = [(rows[name]["state"] != "exhausted", dated.get(name) or date.max) for name in orders[0]]
    tables.same("one order", orders[0] == orders[1] == orders[2] and sorted(orders[0]) == sorted(keyed), *orders)
    tables.same("order of need", needs == sorted(needs), orders[0], needs)
    titles = "\n".join(body["message"] for _, body in receiver.messages)
    sent = re.findall(r"(?m)^(?:- )?(\w+): credits (?:run|are)", f"{receiver.messages[0][1]['title']}\n{titles}")
    sent = list(dict.fromkeys(sent))
    tables.same("order of alerts", sent == [name for name in orders[0] if name in sent], sent, orders[0])
    plots = {key: value for asset, key, value in ui if asset == "credits_runway" and not isinstance(value, str)}
    balances = [rows[name]["balance_usd"] for name in keyed if rows[name]["balance_usd"] is not None]
    tables.same("plotted balance", plots["balance_usd"] == float(sum(balances)), plots["balance_usd"], sum(balances))
    ends = [rows[name]["days_left_p50"] for name in keyed if rows[name]["days_left_p50"] is not None]
    tables.same("plotted days left", plots.get("days_left_p50") == min(ends, default=None), plots, ends)
    for where, text in (
        *(("page", text) for text in re.findall(r">([^<]+)<", re.sub(r"(?s)<style.*?</style>", "", page.html))),
        ("terminal", terminal),
        *((f"alert {alert['alert_key']}", f"{alert['title']}\n{alert['body']}") for alert in alerts),
        *((f"{asset}.{key}", unmarked(value)) for asset, key, value in ui
          if isinstance(value, str) and key != "picture"),
        *(("explanation", row["explanation"]) for row in tables.marts["credits_runway"]),
    ):  # fmt: skip
        tables.same(f"{where}: plain", not SCIENTIFIC.search(text), text[:400], SCIENTIFIC.search(text))
    return tables


def test_page_terminal_alerts_and_ui_say_of_every_account_what_the_tables_say(tmp_path, monkeypatch, run_job):
    tables = read_everything(PEOPLE, WITHOUT_KEY, tmp_path, monkeypatch, run_job)
    assert not tables.wrong, "\n".join(tables.wrong)
    assert tables.compared.total() > 1000
    assert {figure for _, figure in CALLED} <= tables.compared.keys(), "each name of a figure was met somewhere"


@pytest.mark.heavy
@pytest.mark.parametrize("seed", range(1, 13))
def test_they_say_it_of_any_accounts(tmp_path, monkeypatch, run_job, seed):
    told, random = histories(60, seed, longest=400), Random(seed)
    without_key = {f"{n:05}" for n in range(60) if random.random() < 0.2}
    tables = read_everything(told, without_key, tmp_path, monkeypatch, run_job)
    assert not tables.wrong, f"{len(tables.wrong)} of {tables.compared.total()}\n" + "\n".join(tables.wrong[:60])
