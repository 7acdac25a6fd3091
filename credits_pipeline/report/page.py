"""`report.html`: one self-contained page that says when the credits run out, and how sure that is.

The page loads nothing: styles and charts are inline, there is no script, and its Content-Security-Policy forbids
fetching and scripts, should a name ever get past the escaping.
"""

from contextlib import suppress
from datetime import timedelta
from operator import itemgetter
from typing import Any

from credits_pipeline import clock, files, wording
from credits_pipeline.config import Settings
from credits_pipeline.errors import CreditsError
from credits_pipeline.report import charts, drawing
from credits_pipeline.report.answer import FOLDER, Row, accounts
from credits_pipeline.warehouse import Connection, fetch_dicts, open_published

# Accounts with charts and tables of their own; the others are in the overview only. Each costs 0.3 s and 80 kB, and
# nobody scrolls past the ten that run out first.
FULL_ACCOUNTS = 10

# Accounts in the overview: with thousands, a page of them all is one that nobody opens. Totals are over all.
LISTED_ACCOUNTS = 200
# Writing takes milliseconds; a process that holds the lock longer is hung.
LOCK_TIMEOUT_S = 30


def write(settings: Settings) -> None:
    """Render the published copy and put the page in place in one step, readable by its owner only (mode 0600).

    Raises WarehouseError where there is no published copy yet, CreditsError where the disk refuses the page.
    """
    path = settings.report_path
    with open_published(settings.published_path) as con:
        page = render(con, settings)
    hung = CreditsError(f"Another run has been writing {path} for {LOCK_TIMEOUT_S} s: stop it, then run again.")
    try:
        with files.only_one(path.with_name(f".{path.name}.lock"), otherwise=hung, timeout_s=LOCK_TIMEOUT_S):
            files.write(path, page)
    except OSError as error:
        raise CreditsError(
            f"{path} could not be written ({error.strerror}): free some space, or let this user write there."
        ) from error


def render(con: Connection, settings: Settings) -> str:
    """The page as HTML, from a connection to the marts."""
    rows = accounts(con, settings)
    keyed = [row for row in rows if row["has_key"]]
    published = next(iter(fetch_dicts(con, "from marts.published")), None)
    (total,) = fetch_dicts(con, FOLDER / "total.sql", {"accounts": [row["account"] for row in keyed]})
    sections: list[dict[str, Any]] = []
    for number, row in enumerate(keyed[:LISTED_ACCOUNTS], start=1):
        anchor, is_full = f"account-{number}", number <= FULL_ACCOUNTS
        sections.append({"anchor": anchor, "row": row, "answer": wording.answer(row), "is_full": is_full})
        if is_full:
            sections[-1] |= {"figures": figures(con, row["account"], anchor), "tables": tables(con, row["account"])}
    return wording.template(FOLDER / "report.html.j2").render(
        sections=sections,
        not_listed=len(keyed[LISTED_ACCOUNTS:]),
        full_accounts=FULL_ACCOUNTS,
        without_key=[row for row in rows if not row["has_key"]],
        total=total,
        published=published,
        newest=max((row for row in keyed if row["as_of"]), key=itemgetter("as_of"), default=None),
        now=clock.now().replace(tzinfo=None),
        stale_hours=settings.stale_after // timedelta(hours=1),
        light=drawing.css("light"),
        dark=drawing.css("dark"),
    )


def tables(con: Connection, account: str) -> dict[str, list[Row]]:
    """The rows of every query in `tables/`, by its name."""
    return {file.stem: fetch_dicts(con, file, {"account": account}) for file in (FOLDER / "tables").glob("*.sql")}


def figures(con: Connection, account: str, anchor: str) -> dict[str, dict[str, Any]]:
    """The charts of an account by name, in words, and drawn where there is something to draw and drawing works."""
    found = {}
    for number, name in enumerate(charts.CHARTS, start=1):
        chart, svg = charts.of_account(con, name, account), ""
        if chart.name:
            with suppress(drawing.DrawingFailed):
                svg = drawing.svg(chart, name=f"{anchor}-{number}")
        found[name] = {"words": chart.words, "has_picture": bool(chart.name), "svg": svg}
    return found
