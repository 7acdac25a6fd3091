"""`report.html`: one self-contained page that says when the credits run out, and how sure that is.

It is written from the published copy after each daily run, as of the latest reading. The page loads nothing: styles
and charts are inline, there is no script, and its Content-Security-Policy forbids fetching and scripts, should a name
ever get past the escaping. Where a mart is empty, its part of the page says in a sentence why there is nothing; where
a picture cannot be drawn, what it shows is there in words.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, Any

from credits_pipeline import clock, files, wording
from credits_pipeline.config import Settings
from credits_pipeline.errors import CreditsError
from credits_pipeline.report import accounts, charts, drawing
from credits_pipeline.warehouse import fetch_dicts, open_published

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection as Connection
    from jinja2 import Template

Row = dict[str, Any]

# Accounts with charts and tables of their own; the others are in the overview only. Each costs 0.3 s and 80 kB, and
# nobody scrolls past the ten that run out first.
FULL_ACCOUNTS = 10
TABLE_DAYS = 30
EVENT_ROWS = 12
# Accounts may use hundreds of models a day: a year of them is enough for a chart.
MODEL_DAYS = 366
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

METHODS = {"observed": "measured", "billed": "as billed", "interpolated": "estimate"}
DETAILS = (
    "daily_spend", "daily_balance", "credit_events", "daily_spend_by_model", "spend_summary_by_model",
    "balance_forecast", "runway_history", "forecast_accuracy",
)  # fmt: skip

# A sum with an unknown part is unknown.
TOTAL = """
select
    case when count(*) = count(balance_usd) then sum(balance_usd) end as balance_usd,
    case when count(*) = count(spend_30d_usd) then sum(spend_30d_usd) end as spend_30d_usd
from (select unnest($accounts) as account)
left join marts.credits_runway using (account)
"""


class ReportNotWritten(CreditsError):
    """The page could not be replaced; the previous one is still there."""


@dataclass(frozen=True)
class Section:
    """All that the page says about one account; `details` only for the first FULL_ACCOUNTS."""

    anchor: str
    row: Row  # of accounts.sql
    answer: wording.Answer
    is_stale: bool
    details: Mapping[str, Any] = field(default_factory=dict)


def write(settings: Settings) -> None:
    """Render the published copy and put the page in place in one step, readable by its owner only (mode 0600).

    Raises WarehouseError where there is no published copy yet, ReportNotWritten where the disk refuses the page.
    """
    path = settings.report_path
    with open_published(settings.published_path) as con:
        page = render(con, settings, generated_at=clock.now())
    hung = ReportNotWritten(
        f"Another run has been writing {path} for more than {LOCK_TIMEOUT_S} s: stop it, then run again."
    )
    try:
        lock = path.with_name(f".{path.name}.lock")
        with files.only_one(lock, otherwise=hung, timeout_s=LOCK_TIMEOUT_S):
            files.write(path, page)
    except OSError as error:
        raise ReportNotWritten(
            f"{path} could not be written ({error.strerror}): free some space, or let this user write there."
        ) from error


def render(con: "Connection", settings: Settings, *, generated_at: datetime) -> str:
    """The page as HTML, from a connection to the marts. `generated_at` is aware."""
    keyed, others = accounts.accounts(con, settings)
    names = [row["account"] for row in keyed]
    published = next(iter(fetch_dicts(con, "select * from marts.published")), None)
    tables = {mart: _by_account(con, mart, names[:FULL_ACCOUNTS]) for mart in DETAILS}
    total = fetch_dicts(con, TOTAL, {"accounts": names})[0]
    sections = []
    for number, row in enumerate(keyed, start=1):
        mine = {mart: rows.get(row["account"], []) for mart, rows in tables.items()}
        sections.append(
            Section(
                anchor=f"account-{number}",
                row=row,
                answer=accounts.answer(row, settings, seen_at=generated_at),
                is_stale=wording.is_stale(row["as_of"], generated_at, settings.stale_after),
                details=_details(f"account-{number}", row, mine) if number <= FULL_ACCOUNTS else {},
            )
        )
    newest = max((row["as_of"] for row in keyed if row["as_of"]), default=None)
    return _template().render(
        sections=sections,
        full=sections[:FULL_ACCOUNTS],
        without_key=others,
        total=total,
        published=published,
        as_of=newest,
        is_stale=wording.is_stale(newest, generated_at, settings.stale_after),
        age=age(newest, generated_at),
        generated_at=generated_at.astimezone(UTC),
        table_days=TABLE_DAYS,
        stale_hours=int(settings.stale_after.total_seconds() // 3600),
        light=drawing.css("light"),
        dark=drawing.css("dark"),
    )


def _by_account(con: "Connection", mart: str, names: Sequence[str]) -> dict[str, list[Row]]:
    sql = f"select * from marts.{mart} where account in (select unnest($accounts))"
    if mart == "daily_spend_by_model":
        sql += f" qualify spend_date > max(spend_date) over (partition by account) - {MODEL_DAYS}"
    rows: dict[str, list[Row]] = {}
    for row in fetch_dicts(con, sql, {"accounts": list(names)}):
        rows.setdefault(row["account"], []).append(row)
    return rows


def _details(anchor: str, row: Row, mine: Mapping[str, list[Row]]) -> Mapping[str, Any]:
    runway = row if row["status"] else None
    drawn = {
        "Balance and forecast": charts.balance(mine["daily_balance"], mine["balance_forecast"], runway),
        "Spend per day": charts.daily_spend(mine["daily_spend"], mine["credit_events"]),
        "Spend by model": charts.spend_by_model(mine["daily_spend_by_model"]),
        "Predicted run-out date, day by day": charts.run_out_history(mine["runway_history"], runway),
        "How often the 80\u00a0% interval was right": charts.interval_coverage(mine["forecast_accuracy"]),
        "How far off the forecast was": charts.forecast_loss(mine["forecast_accuracy"]),
    }
    events = sorted(mine["credit_events"], key=lambda event: event["event_at_latest"], reverse=True)
    return {
        "record": record(row, mine["forecast_accuracy"]),
        "tiles": tiles(row),
        "figures": [
            {
                "title": title,
                "words": chart.words,
                "has_picture": bool(chart.name),
                "svg": _svg(chart, f"{anchor}-{n}"),
            }
            for n, (title, chart) in enumerate(drawn.items(), start=1)
        ],
        "days": days(mine["daily_spend"], mine["daily_balance"], row["first_read_at"]),
        "events": events[:EVENT_ROWS],
        "more_events": max(0, len(events) - EVENT_ROWS),
        "models": sorted(mine["spend_summary_by_model"], key=lambda model: model["place"]),
    }


def _svg(chart: drawing.Chart, name: str) -> str:
    """The picture; none where there is nothing to draw, or where drawing fails: the words say the same."""
    try:
        return drawing.svg(chart, name=name) if chart.name else ""
    except drawing.DrawingFailed:
        return ""


# ---------------------------------------------------------------- what the page says


def tiles(row: Row) -> list[dict[str, str]]:
    """Balance, and spend of the last complete day, 7 and 30 days, each with its change: label, value, change."""
    read = f"on {wording.instant(row['as_of'])}" if row["as_of"] else "never read"
    found = [{"label": "Balance", "value": wording.usd(row["balance_usd"]), "change": read}]
    last = wording.day(row["close_date"], year=False) if row["close_date"] else ""
    for span in (1, 7, 30):
        label = (
            (f"Spent on {last or 'the last full day'}")
            if span == 1
            else f"{span} days" + (f" to {last}" if last else "")
        )
        than = "the day before" if span == 1 else f"the {span} days before"
        value = wording.usd(row[f"spend_{span}d_usd"])
        found.append({"label": label, "value": value, "change": change(row, span, than)})
    return found


def change(row: Row, span: int, than: str) -> str:
    """The change of `spend_{span}d_usd` against the span before, when every day of both is known."""
    now, before = row[f"spend_{span}d_usd"], row[f"before_{span}d_usd"]
    if now is None:
        return ""
    if row[f"unknown_days_{span}d"]:
        return wording.of_days(row[f"unknown_days_{span}d"], span)
    if before is None or row[f"unknown_days_before_{span}d"]:
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


def record(row: Row, accuracy: Sequence[Row]) -> str:
    """How often the 80 % interval was right so far, in words, at the horizon nearest to the run-out date."""
    if row["status"] != "ok" or row["run_out_p10"] is None:
        return ""
    checked = [check for check in accuracy if check["replays"]]
    if not checked:
        return "It is too early to say how often this is right: no forecast of a week or more can be checked yet."
    ahead = row["days_left_p50"] or HORIZON_DAYS
    check = min(checked, key=lambda check: (abs(check["horizon_days"] - ahead), check["horizon_days"]))
    replays, horizon = check["replays"], check["horizon_days"]
    tested = "Tested on this account’s own history,"
    if replays < FEW_CHECKS:
        right = round(check["coverage_80"] * replays)
        return f"{tested} {right} of {replays} {horizon}-day forecasts were right: too few to rely on."
    return (
        f"{tested} {wording.count(replays)} {horizon}-day forecasts were right "
        f"{wording.percent(check['coverage_80'])} of the time (target: 80\u00a0%)."
    )


def days(spend: Sequence[Row], balance: Sequence[Row], first_read_at: datetime | None) -> list[Row]:
    """The latest days, newest first, each with its source in words and its end-of-day balance."""
    closes = {row["balance_date"]: row for row in balance}
    rows = sorted(spend, key=lambda row: row["spend_date"], reverse=True)[:TABLE_DAYS]
    return [
        {
            **row,
            "is_running": row is rows[0] and not row["is_complete"],
            "how": _source(row, row is rows[0], first_read_at),
            **{key: closes.get(row["spend_date"], {}).get(key) for key in ("balance_usd", "is_estimated")},
        }
        for row in rows
    ]


def _source(row: Row, is_newest: bool, first_read_at: datetime | None) -> str:
    """Where the day's spend is from; a day that is not known from its start says since when it is."""
    if row["spend_usd"] is None:
        return "not known"
    if row["is_complete"] or row["method"] == "billed":
        return METHODS[row["method"]] if row["is_complete"] else "billed so far"
    if first_read_at and row["spend_date"] == first_read_at.date():
        return f"since {first_read_at:%H:%M}"
    estimate = METHODS[row["method"]] if row["method"] == "interpolated" or not is_newest else ""
    return ", ".join(filter(None, ("so far" if is_newest else "", estimate)))


def age(as_of: datetime | None, generated_at: datetime) -> str:
    """How old the latest reading was when the page was written; a static page cannot keep counting."""
    if as_of is None:
        return "without a reading"
    minutes = max(0, int((generated_at - as_of.replace(tzinfo=UTC)).total_seconds() // 60))
    for size, unit in ((1440, "day"), (60, "hour"), (1, "minute")):
        if minutes >= (2 * size if unit == "day" else size):
            return f"{minutes // size} {unit}{'' if minutes // size == 1 else 's'} old"
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
    words = (
        "usd",
        "day",
        "instant",
        "percent",
        "count",
        "compact",
        "days",
        "name",
        "effect",
        "no_key",
        "of_days",
    )
    environment.filters.update({word: getattr(wording, word) for word in words})
    environment.filters.update(
        event=lambda kind: wording.EVENTS.get(kind, "change of a counter"),
        sentence=lambda words: wording.name(words, longest=LONGEST_SENTENCE),
        # A model's name may wrap after the vendor's part.
        breakable=lambda words: Markup("/<wbr>").join(words.split("/")),
        # Drawn by vl-convert from our own specs; names are escaped there.
        drawn=lambda svg: Markup(svg),  # noqa: S704
    )
    return environment.get_template("report.html.j2")
