"""What a table shows of itself on its page in the UI: the answer as a sentence, a picture, its newest rows, figures.

The drawing code is the report's. Only some tables have a picture: it is kept with every run's history, 10 to 50 kB.
"""

from collections.abc import Callable, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import dagster as dg

from credits_pipeline import config, wording
from credits_pipeline.report import answer, charts, drawing
from credits_pipeline.sql_project import Model, ModelResult
from credits_pipeline.text import markdown, markdown_table
from credits_pipeline.warehouse import Connection, fetch_dicts

Metadata = dict[str, Any]
Row = dict[str, Any]
Accounts = Callable[[], list[Row]]  # `by_urgency`, asked once for all tables

ANSWERS = Path(__file__).with_name("answers.txt.j2")
# A week: enough to see the rhythm of a daily table.
PREVIEW_ROWS = 7

# Table → chart of the report.
PICTURES = {
    "credits_runway": "balance",
    "daily_spend": "daily_spend",
    "daily_spend_by_model": "spend_by_model",
    "spend_summary_by_member": "spend_by_member",
}


def of_model(con: Connection, model: Model, built: ModelResult, accounts: Accounts) -> Metadata:
    """What a build says of a table. A figure that cannot be computed, or a picture that cannot be drawn, says so."""
    entries: Metadata = {"dagster/row_count": built.row_count, "build_seconds": round(built.seconds, 4)}
    parts: dict[str, Callable[[], Metadata]] = {
        "answer": lambda: answers(model, accounts),
        "picture": lambda: picture(con, model, accounts),
        "plots": lambda: plots(con, model),
        "preview": lambda: {"preview": preview(con, model.relation)},
    }
    for name, part in parts.items():
        try:
            entries |= part()
        except Exception as error:  # what is shown of the figures must not cost the figures
            entries[name] = dg.MetadataValue.md(f"This could not be shown: {markdown(str(error))}")
    return entries


def answers(model: Model, accounts: Accounts) -> Metadata:
    """One sentence per account, the most urgent first; at the end, those that have no key any more."""
    if not hasattr(wording.template(ANSWERS).module, model.name):
        return {}
    said = [(row["account"], wording.say(model.name, row, file=ANSWERS)) for row in accounts()]
    lines = [f"**{markdown(wording.name(account))}**: {markdown(words)}" for account, words in said if words]
    return {"answer": dg.MetadataValue.md("\n\n".join(lines))} if lines else {}


def picture(con: Connection, model: Model, accounts: Accounts) -> Metadata:
    """A chart of the account whose credits run out first, with what it says for those who cannot see it."""
    keyed = [row["account"] for row in accounts() if row["has_key"]] if model.name in PICTURES else []
    if not keyed:
        return {}
    drawn = charts.of_account(con, PICTURES[model.name], keyed[0])
    shown = f"![{markdown(drawn.words)}]({drawing.data_uri(drawn)})" if drawn.name else markdown(drawn.words)
    return {"picture": dg.MetadataValue.md(f"{markdown(wording.name(keyed[0]))}\n\n{shown}")}


def by_urgency(con: Connection) -> list[Row]:
    import duckdb

    try:
        return answer.accounts(con, config.current())
    except duckdb.CatalogException:  # a build of some models may come before the others were ever built
        return []


def plots(con: Connection, model: Model) -> Metadata:
    """The model's own `meta: plots:`, metadata key → aggregate over its rows: the UI plots numbers over time.

    Over accounts that have a key: the last balance of one that has none would stay in the sum for ever.
    """
    if not (aggregates := model.config.meta.get("plots")):
        return {}
    names = [account.name for account in config.current().accounts]
    query = f"select {', '.join(aggregates.values())} from {model.relation} where account in (select unnest(?))"
    [row] = con.execute(query, [names]).fetchall()
    return {name: plotted(value) for name, value in zip(aggregates, row, strict=True) if value is not None}


def plotted(value: Any) -> int | float | str:
    """Exact amounts as the UI can plot them; what is no number as text."""
    return float(value) if isinstance(value, Decimal) else value if isinstance(value, int | float) else str(value)


def preview(con: Connection, relation: str, rows: int = PREVIEW_ROWS) -> dg.MarkdownMetadataValue:
    """The newest rows of `relation` (a quoted name or a query) as a Markdown table; all text in it is escaped."""
    return preview_of([newest(con, relation, rows)], rows)


class Newest(NamedTuple):
    """The newest rows of a table, or of a shard of it."""

    columns: list[str]
    time: int | None  # the place of the column that says which is newer
    rows: list[tuple[Any, ...]]


def newest(con: Connection, relation: str, rows: int = PREVIEW_ROWS) -> Newest:
    columns = con.execute(f"describe select * from {relation}").fetchall()
    times = [place for place, (_, kind, *_) in enumerate(columns) if kind in {"DATE", "TIMESTAMP"}]
    order = f"order by {times[0] + 1} desc" if times else ""
    found = con.execute(f"select * from {relation} {order} limit {rows}").fetchall()
    return Newest([name for name, *_ in columns], times[0] if times else None, found)


def preview_of(parts: Sequence[Newest], rows: int = PREVIEW_ROWS) -> dg.MarkdownMetadataValue:
    """The newest rows of all parts as a Markdown table; all text in it is escaped."""
    columns, time, _ = parts[0]
    found = [row for part in parts for row in part.rows]
    if time is not None and len(parts) > 1:
        found.sort(key=lambda row: (row[time] is not None, row[time]), reverse=True)
    return dg.MetadataValue.md(markdown_table(columns, found[:rows]))


def columns(con: Connection, schema: str, table: str) -> dg.TableSchema:
    """The columns of a table as their comments describe them: for one that no .yml describes."""
    query = """
        select column_name as name, data_type as type, comment as description
        from duckdb_columns()
        where database_name = 'warehouse' and schema_name = ? and table_name = ? order by column_index
    """
    return dg.TableSchema([dg.TableColumn(**column) for column in fetch_dicts(con, query, [schema, table])])
