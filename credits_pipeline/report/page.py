"""`report.html`: one self-contained page that says when the credits run out, and how sure that is.

It is written from the published copy after each daily run, as of the latest reading. The page loads nothing: styles
and charts are inline, there is no script, and its Content-Security-Policy forbids fetching and scripts, should a name
ever get past the escaping. Where a mart is empty or does not exist yet, its part of the page is left out, or says in
a sentence why there is nothing.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from credits_pipeline import clock, warehouse, wording
from credits_pipeline.report import charts

if TYPE_CHECKING:
    import duckdb
    from jinja2 import Template

Row = dict[str, Any]

# Accounts with charts and tables of their own; the others are in the overview only. Each costs 0.3 s and 80 kB, and
# nobody scrolls past the ten that run out first.
FULL_ACCOUNTS = 10
TABLE_DAYS = 30
MODEL_ROWS = 12
EVENT_ROWS = 12
# Fewer checks than this say little about a 1-in-5 chance.
FEW_CHECKS = 20
# The explanation of a forecast is one sentence; a longer one can only come from a hostile name.
LONGEST_SENTENCE = 400
# How far ahead the forecast looks.
HORIZON_DAYS = 365
# "300 % more" is harder to read than "4 times".
TIMES_FROM = 4
# Writing takes milliseconds; a process that holds the lock longer is hung.
LOCK_TIMEOUT_S = 30

_METHODS = {"observed": "measured", "billed": "as billed", "interpolated": "estimate"}
_EVENTS = {
    "top_up": "top-up",
    "credit_decrease": "refund, transfer or expiry",
    "usage_correction": "correction by OpenRouter",
}

_URGENCY = ("exhausted", "ok", "accumulating", "idle")

_NEWEST = """
select account, max(observed_at) as as_of, arg_max(balance_usd, observed_at) as balance_usd
from marts.credits_readings
group by account
"""

# If an amount is unknown for one account, the total is unknown.
_TOTAL = """
select
    count(*) as accounts,
    case when count(*) = count(balance_usd) then sum(balance_usd) end as balance_usd,
    case when count(*) = count(spend_30d_usd) then sum(spend_30d_usd) end as spend_30d_usd
from marts.credits_runway
"""

# Comparisons end with the last complete day. A span is compared only when all its days are known.
_SPEND = """
with ends as (
    select account, max(spend_date) filter (where is_complete) as last_day from marts.daily_spend group by account
)
select
    account,
    last_day,
    sum(spend_usd) filter (where spend_date = last_day) as spend_1d,
    sum(spend_usd) filter (where spend_date = last_day - 1) as before_1d,
    sum(spend_usd) filter (where spend_date > last_day - 7) as spend_7d,
    sum(spend_usd) filter (where spend_date between last_day - 13 and last_day - 7) as before_7d,
    sum(spend_usd) filter (where spend_date > last_day - 30) as spend_30d,
    sum(spend_usd) filter (where spend_date between last_day - 59 and last_day - 30) as before_30d,
    count(spend_usd) filter (where spend_date = last_day) as days_1d,
    count(spend_usd) filter (where spend_date > last_day - 7) as days_7d,
    count(spend_usd) filter (where spend_date > last_day - 30) as days_30d,
    count(spend_usd) filter (where spend_date = last_day - 1) as days_before_1d,
    count(spend_usd) filter (where spend_date between last_day - 13 and last_day - 7) as days_before_7d,
    count(spend_usd) filter (where spend_date between last_day - 59 and last_day - 30) as days_before_30d
from marts.daily_spend
join ends using (account)
where spend_date <= last_day
group by account, last_day
"""

# The same thirty days as the tile; shares are of what was billed on those days.
_MODELS = """
with ends as (
    select account, max(spend_date) filter (where is_complete) as last_day from marts.daily_spend group by account
),
spent as (
    select
        account,
        model,
        sum(spend_usd) as spend_usd,
        sum(requests) as requests,
        sum(prompt_tokens) as prompt_tokens,
        sum(completion_tokens) as completion_tokens
    from marts.daily_spend_by_model
    join ends using (account)
    where spend_date between last_day - 29 and last_day
    group by account, model
),
ranked as (
    select
        *,
        row_number() over (partition by account order by spend_usd desc, model) as place,
        sum(spend_usd) over (partition by account) as whole_usd
    from spent
    where account in (select unnest($accounts))
)
select
    account,
    least(place, $rows + 1) as slot,
    min(model) as model,
    count(*) as models,
    sum(spend_usd) as spend_usd,
    case when whole_usd > 0 then sum(spend_usd)::double / whole_usd::double end as share,
    sum(requests) as requests,
    sum(prompt_tokens) as prompt_tokens,
    sum(completion_tokens) as completion_tokens
from ranked
group by account, slot, whole_usd
order by account, slot
"""

_DETAILS = {
    mart: f"select * from marts.{mart} where account in (select unnest($accounts))"
    for mart in (
        "daily_spend", "daily_balance", "credit_events", "balance_forecast", "runway_history", "forecast_accuracy"
    )
} | {
    # A year of it: accounts may use hundreds of models a day.
    "daily_spend_by_model": """
        select account, spend_date, model, spend_usd
        from marts.daily_spend_by_model
        where account in (select unnest($accounts))
        qualify spend_date > max(spend_date) over (partition by account) - 366
    """
}  # fmt: skip


@dataclass(frozen=True)
class Tile:
    """One number of the first screen."""

    label: str
    value: str
    change: str | None = None


@dataclass(frozen=True)
class Figure:
    """A chart on the page: its title, its drawing, and the same in words."""

    title: str
    words: str
    svg: str


@dataclass(frozen=True)
class Section:
    """All that the page says about one account; the parts from `figures` on only for the first FULL_ACCOUNTS."""

    anchor: str
    name: str
    account: str
    runway: Row | None
    answer: wording.Answer
    as_of: datetime | None
    is_stale: bool
    balance_usd: Decimal | None
    spend_30d_usd: Decimal | None
    tiles: Sequence[Tile]
    last_day: date | None  # the newest complete one
    record: str = ""
    figures: Sequence[Figure] = ()
    days: Sequence[Row] = ()
    events: Sequence[Row] = ()
    more_events: int = 0
    models: Sequence[Row] = ()


class ReportNotWritten(Exception):
    """The page could not be replaced; the previous one is still there."""


def write(published_path: Path, report_path: Path) -> None:
    """Render the published copy and put the page in place in one step, readable by its owner only (mode 0600).

    Raises NotPublished where there is no published copy yet, ReportNotWritten where the disk refuses the page.
    """
    page = render(published_path, generated_at=clock.now())
    fresh = report_path.with_name(f".{report_path.name}.new")
    try:
        report_path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # One writer at a time, so that one name is enough and a killed run leaves one file, not one more each time.
        with FileLock(report_path.with_name(f".{report_path.name}.lock"), timeout=LOCK_TIMEOUT_S, mode=0o600):
            fresh.unlink(missing_ok=True)
            _write_whole(page, fresh)
            fresh.replace(report_path)
    except Timeout:
        raise ReportNotWritten(
            f"Another run has been writing {report_path} for more than {LOCK_TIMEOUT_S} s: stop it, then run again."
        ) from None
    except OSError as error:
        raise ReportNotWritten(
            f"{report_path} could not be written ({error.strerror}): free some space, or let this user write there."
        ) from error


def _write_whole(page: str, file: Path) -> None:
    try:
        with os.fdopen(
            os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8"
        ) as opened:
            opened.write(page)
            opened.flush()
            os.fsync(opened.fileno())
    except BaseException:
        file.unlink(missing_ok=True)
        raise


def render(source: "Path | duckdb.DuckDBPyConnection", *, generated_at: datetime) -> str:
    """The page as HTML, from a published copy or a connection to one. `generated_at` is aware."""
    with _connection(source) as con:
        marts = _Marts(con)
        published = marts.first("select * from marts.published")
        total = marts.first(_TOTAL)
        sections = _sections(marts, generated_at)
    accounts = len(sections)
    newest = max((s.as_of for s in sections if s.as_of), default=None)
    return _template().render(
        sections=sections,
        full=[section for section in sections if section.figures],
        accounts=accounts,
        total=total if total and total["accounts"] == accounts else None,
        is_simulated=bool(published and published.get("is_simulated")),
        published=published,
        as_of=newest,
        is_stale=wording.is_stale(newest, generated_at),
        age=age(newest, generated_at),
        generated_at=generated_at.astimezone(UTC),
        table_days=TABLE_DAYS,
        stale_hours=int(wording.STALE_AFTER.total_seconds() // 3600),
        event_kinds=_EVENTS,
        light=charts.css("light"),
        dark=charts.css("dark"),
    )


# ---------------------------------------------------------------- reading the marts


class _Marts:
    """Reads the marts as rows; a mart that does not exist has none."""

    def __init__(self, con: "duckdb.DuckDBPyConnection") -> None:
        self._con = con

    def rows(self, sql: str, parameters: Mapping[str, object] | None = None) -> list[Row]:
        import duckdb

        try:
            return warehouse.fetch_dicts(self._con, sql, parameters)
        except duckdb.CatalogException:
            return []

    def first(self, sql: str) -> Row | None:
        return next(iter(self.rows(sql)), None)

    def of(self, accounts: Sequence[str], sql: str, **parameters: object) -> dict[str, list[Row]]:
        """The rows of some accounts, by account; `sql` refers to these accounts as `$accounts`."""
        by_account: dict[str, list[Row]] = {account: [] for account in accounts}
        for row in self.rows(sql, {"accounts": list(accounts), **parameters}) if accounts else []:
            by_account[row["account"]].append(row)
        return by_account


@contextmanager
def _connection(source: "Path | duckdb.DuckDBPyConnection") -> "Iterator[duckdb.DuckDBPyConnection]":
    if isinstance(source, Path):
        with warehouse.open_published(source) as con:
            yield con
    else:
        yield source


# ---------------------------------------------------------------- what the page says


def _sections(marts: _Marts, generated_at: datetime) -> list[Section]:
    """One section per account, the nearest run-out first."""
    runways = {row["account"]: row for row in marts.rows("select * from marts.credits_runway")}
    newest = {row["account"]: row for row in marts.rows(_NEWEST)}
    spend = {row["account"]: row for row in marts.rows(_SPEND)}
    accounts = sorted({*runways, *newest, *spend}, key=lambda account: urgency(account, runways.get(account)))
    sections = []
    for number, account in enumerate(accounts, start=1):
        runway, reading = runways.get(account), newest.get(account, {})
        as_of = (runway or reading).get("as_of")
        sections.append(
            Section(
                anchor=f"account-{number}",
                name=wording.name(account),
                account=account,
                runway=runway,
                answer=wording.answer(runway, seen_at=generated_at),
                as_of=as_of,
                is_stale=wording.is_stale(as_of, generated_at),
                balance_usd=(runway or reading).get("balance_usd"),
                spend_30d_usd=(runway or {}).get("spend_30d_usd", spend.get(account, {}).get("spend_30d")),
                tiles=_tiles(runway or reading, spend.get(account, {})),
                last_day=spend.get(account, {}).get("last_day"),
            )
        )
    return _with_details(marts, sections[:FULL_ACCOUNTS]) + sections[FULL_ACCOUNTS:]


def _with_details(marts: _Marts, sections: Sequence[Section]) -> list[Section]:
    """The sections with their charts and tables."""
    accounts = [section.account for section in sections]
    of = {mart: marts.of(accounts, sql) for mart, sql in _DETAILS.items()}
    models = marts.of(accounts, _MODELS, rows=MODEL_ROWS)
    detailed = []
    for section in sections:
        mine = {mart: rows[section.account] for mart, rows in of.items()}
        events = sorted(mine["credit_events"], key=lambda row: row["event_at_latest"], reverse=True)
        detailed.append(
            replace(
                section,
                record=record(section.runway, mine["forecast_accuracy"]),
                figures=_figures(section, mine),
                days=_days(mine["daily_spend"], mine["daily_balance"]),
                events=events[:EVENT_ROWS],
                more_events=len(events) - EVENT_ROWS,
                models=models[section.account],
            )
        )
    return detailed


def _figures(section: Section, mine: Mapping[str, list[Row]]) -> list[Figure]:
    drawn = {
        "Balance and forecast": charts.balance(
            mine["daily_balance"], mine["balance_forecast"], section.runway
        ),
        "Spend per day": charts.daily_spend(mine["daily_spend"], mine["credit_events"]),
        "Spend by model": charts.spend_by_model(mine["daily_spend_by_model"]),
        "Predicted run-out date, day by day": charts.run_out_history(
            mine["runway_history"], mine["daily_spend"]
        ),
        "How often the 80\u00a0% interval was right": charts.interval_coverage(mine["forecast_accuracy"]),
        "How far off the forecast was": charts.forecast_loss(mine["forecast_accuracy"]),
    }
    return [
        Figure(title, chart.words, charts.svg(chart, name=f"{section.anchor}-{number}"))
        for number, (title, chart) in enumerate(drawn.items(), start=1)
    ]


def _tiles(newest: Row, spend: Row) -> list[Tile]:
    """Balance, and spend of the last complete day, 7 and 30 days with its change."""
    last: date | None = spend.get("last_day")
    ended = f" to {wording.day(last, year=False)}" if last else ""
    return [
        Tile("Balance", wording.usd(newest.get("balance_usd")), f"on {wording.instant(newest.get('as_of'))}"),
        Tile(
            f"Spent on {wording.day(last, year=False)}" if last else "Spent on the last full day",
            wording.usd(spend.get("spend_1d")),
            change(spend, 1, "the day before"),
        ),
        Tile(
            f"7 days{ended}",
            wording.usd(newest.get("spend_7d_usd", spend.get("spend_7d"))),
            change(spend, 7, "the 7 days before"),
        ),
        Tile(
            f"30 days{ended}",
            wording.usd(newest.get("spend_30d_usd", spend.get("spend_30d"))),
            change(spend, 30, "the 30 days before"),
        ),
    ]


def change(spend: Row, span: int, than: str) -> str | None:
    """The change against the span before, when every day of both is known."""
    now, before = spend.get(f"spend_{span}d"), spend.get(f"before_{span}d")
    known, known_before = spend.get(f"days_{span}d", 0), spend.get(f"days_before_{span}d", 0)
    if now is None:
        return None
    if known < span:
        return f"{known} of these {span} days {'is' if known == 1 else 'are'} known"
    if before is None or known_before < span:
        return f"no full {'day' if span == 1 else f'{span} days'} before to compare"
    if before == now:
        return f"the same as {than}"
    if before <= 0 or now < 0:
        return f"{wording.usd(before)} {than}"
    if now == 0:
        return f"after {wording.usd(before)} {than}"
    ratio = float(now / before)
    if ratio >= TIMES_FROM:
        return f"▲ {ratio:,.0f} times that of {than}"
    more = "▲ {} more" if ratio > 1 else "▼ {} less"
    return f"{more.format(wording.percent(abs(ratio - 1)))} than {than}"


def record(runway: Row | None, accuracy: Sequence[Row]) -> str:
    """How often the 80 % interval was right so far, in words, at the horizon nearest to the run-out date."""
    if not runway or runway["run_out_p10"] is None or runway["status"] != "ok":
        return ""
    checked = [row for row in accuracy if row["replays"]]
    if not checked:
        return "It is too early to say how often this is right: no forecast of a week or more can be checked yet."
    ahead = runway["days_left_p50"] or HORIZON_DAYS
    row = min(checked, key=lambda row: (abs(row["horizon_days"] - ahead), row["horizon_days"]))
    replays, days = row["replays"], row["horizon_days"]
    if replays < FEW_CHECKS:
        right = round(row["coverage_80"] * replays)
        return (
            f"Tested on this account’s own history, {right} of {replays} {days}-day forecasts were right: "
            f"too few to rely on."
        )
    return (
        f"Tested on this account’s own history, {wording.count(replays)} {days}-day forecasts were right "
        f"{wording.percent(row['coverage_80'])} of the time (target: 80\u00a0%)."
    )


def _days(spend: Sequence[Row], balance: Sequence[Row]) -> list[Row]:
    """The latest days, newest first, each with its end-of-day balance; a day that is not over has none yet."""
    closes = {row["balance_date"]: row for row in balance}
    rows = sorted(spend, key=lambda row: row["spend_date"], reverse=True)[:TABLE_DAYS]
    newest = rows[0]["spend_date"] if rows else None
    return [
        {
            **row,
            "is_running": row["spend_date"] == newest and not row["is_complete"],
            "how": _METHODS.get(row["method"], wording.UNKNOWN),
            "balance_usd": closes.get(row["spend_date"], {}).get("balance_usd"),
            "is_estimated": closes.get(row["spend_date"], {}).get("is_estimated"),
        }
        for row in rows
    ]


def urgency(account: str, runway: Row | None) -> tuple[object, ...]:
    """Used up first, then by the median date and by the early one; accounts without a date last."""
    status = (runway or {}).get("status")
    place = _URGENCY.index(status) if status in _URGENCY else len(_URGENCY)
    middle, early = ((runway or {}).get(key) or date.max for key in ("run_out_p50", "run_out_p10"))
    return place, middle, early, account


def age(as_of: datetime | None, generated_at: datetime) -> str:
    """How old the latest reading was when the page was written; a static page cannot keep counting."""
    if as_of is None:
        return "without a reading"
    minutes = max(0, int((generated_at - as_of.replace(tzinfo=UTC)).total_seconds() // 60))
    for size, unit in ((1440, "day"), (60, "hour"), (1, "minute")):
        if minutes >= (2 * size if unit == "day" else size):
            number = minutes // size
            return f"{number} {unit}{'' if number == 1 else 's'} old"
    return "less than a minute old"


@cache
def _template() -> "Template":
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=PackageLoader("credits_pipeline.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        usd=wording.usd,
        day=wording.day,
        instant=wording.instant,
        percent=wording.percent,
        count=wording.count,
        compact=wording.compact,
        days=wording.days,
        name=wording.name,
        sentence=lambda words: wording.name(words, longest=LONGEST_SENTENCE),
        # A model's name may wrap after the vendor's part.
        breakable=lambda words: Markup("/<wbr>").join(words.split("/")),
        # Drawn by vl-convert from our own specs; names are escaped there.
        drawn=lambda svg: Markup(svg),  # noqa: S704
    )
    return environment.get_template("report.html.j2")
