"""What a table shows of itself on its page in the UI: the answer as a sentence, a picture, its newest rows, figures.

The drawing code is the report's. Only three tables have a picture: it is kept with every run's history, 10 to 50 kB.
"""

from typing import TYPE_CHECKING, Any

import dagster as dg

from credits_pipeline import config, wording
from credits_pipeline.sql_project import Model, ModelResult
from credits_pipeline.text import markdown, markdown_table
from credits_pipeline.warehouse import fetch_dicts

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection as Connection

    from credits_pipeline.report.drawing import Chart

Metadata = dict[str, Any]
Row = dict[str, Any]

# A week: enough to see the rhythm of a daily table.
PREVIEW_ROWS = 7

PICTURES = {"credits_runway", "daily_spend", "daily_spend_by_model"}

# A build of some models may come before the others were ever built.
OF_ACCOUNTS = ("credits_runway", "spend_summary", "credits_readings")


def of_model(con: "Connection", model: Model, built: ModelResult) -> Metadata:
    """What a build says of a table. A figure that cannot be computed, or a picture that cannot be drawn, says so."""
    entries: Metadata = {"dagster/row_count": built.row_count, "build_seconds": round(built.seconds, 4)}
    parts = {"answer": answers, "picture": picture, "plots": plots, "preview": newest_rows}
    for name, part in parts.items():
        try:
            entries |= part(con, model)
        except Exception as error:  # what is shown of the figures must not cost the figures
            entries[name] = dg.MetadataValue.md(f"This could not be shown: {markdown(str(error))}")
    return entries


def answers(con: "Connection", model: Model) -> Metadata:
    """One sentence per account, the most urgent first; at the end, those that have no key any more."""
    if model.name != "credits_runway":
        return {}
    keyed, others = accounts_by_urgency(con)
    said = {row["account"]: sentences(row) for row in keyed} | {row["account"]: wording.no_key(row) for row in others}
    lines = [f"**{markdown(wording.name(name))}**: {markdown(text)}" for name, text in said.items()]
    return {"answer": dg.MetadataValue.md("\n\n".join(lines))} if lines else {}


def sentences(row: Row) -> str:
    answer = wording.answer(row if row["status"] else None)
    balance = f" Balance {wording.usd(row['balance_usd'])}." if row["status"] == "ok" else ""
    return f"{answer.headline} {answer.detail}{balance}"


def picture(con: "Connection", model: Model) -> Metadata:
    """A chart of the account whose credits run out first, with what it says for those who cannot see it."""
    if model.name not in PICTURES or not (keyed := accounts_by_urgency(con)[0]):
        return {}
    from credits_pipeline.report import drawing

    drawn = chart(con, model.name, keyed[0])
    shown = f"![{markdown(drawn.words)}]({drawing.data_uri(drawn)})" if drawn.name else markdown(drawn.words)
    return {"picture": dg.MetadataValue.md(f"{markdown(wording.name(keyed[0]['account']))}\n\n{shown}")}


def accounts_by_urgency(con: "Connection") -> tuple[list[Row], list[Row]]:
    """The accounts with a key, and those without one, as the report has them."""
    from credits_pipeline.report.accounts import accounts

    return accounts(con, config.current()) if all(exists(con, mart) for mart in OF_ACCOUNTS) else ([], [])


def chart(con: "Connection", model: str, runway: Row) -> "Chart":
    from credits_pipeline.report import charts

    def rows(mart: str) -> list[Row]:
        query = f"select * from marts.{mart} where account = ?"
        return fetch_dicts(con, query, [runway["account"]]) if exists(con, mart) else []

    if model == "daily_spend":
        return charts.daily_spend(rows("daily_spend"), rows("credit_events"))
    if model == "daily_spend_by_model":
        return charts.spend_by_model(rows("daily_spend_by_model"))
    return charts.balance(rows("daily_balance"), rows("balance_forecast"), runway if runway["status"] else None)


def plots(con: "Connection", model: Model) -> Metadata:
    """The model's own `meta: plots:`, metadata key → aggregate over its rows: the UI plots numbers over time.

    Over accounts that have a key: the last balance of one that has none would stay in the sum for ever.
    """
    if not (aggregates := model.config.meta.get("plots")):
        return {}
    names = [account.name for account in config.current().accounts]
    query = f"select {', '.join(aggregates.values())} from {model.relation} where account in (select unnest(?))"
    row = con.execute(query, [names]).fetchone() or ()
    return {name: plotted(value) for name, value in zip(aggregates, row, strict=True) if value is not None}


def plotted(value: Any) -> int | float | str:
    """Exact amounts as the UI can plot them; what is no number as text."""
    try:
        return value if isinstance(value, int) else float(value)
    except (TypeError, ValueError):
        return str(value)


def newest_rows(con: "Connection", model: Model) -> Metadata:
    return {"preview": preview(con, model.relation)}


def preview(con: "Connection", relation: str, rows: int = PREVIEW_ROWS) -> dg.MarkdownMetadataValue:
    """The newest rows of `relation` (a quoted name) as a Markdown table; all text in it is escaped."""
    columns = con.execute(f"describe {relation}").fetchall()
    times = [name for name, kind, *_ in columns if kind in {"DATE", "TIMESTAMP"}]
    order = f'order by "{times[0]}" desc' if times else ""
    newest = con.execute(f"select * from {relation} {order} limit {rows}").fetchall()
    return dg.MetadataValue.md(markdown_table([name for name, *_ in columns], newest))


def exists(con: "Connection", mart: str) -> bool:
    query = "from duckdb_tables() where schema_name = 'marts' and table_name = ?"
    return con.execute(query, [mart]).fetchone() is not None


def table_metadata(con: "Connection", schema: str, table: str) -> Metadata:
    """How many rows a table has, and its columns as their comments describe them: for tables that no .yml describes."""
    columns = con.execute(
        "select column_name, data_type, comment from duckdb_columns() where schema_name = ? and table_name = ? "
        "order by column_index",
        [schema, table],
    ).fetchall()
    return {
        "dagster/row_count": con.execute(f'select count(*) from "{schema}"."{table}"').fetchall()[0][0],
        "dagster/column_schema": dg.TableSchema(
            [dg.TableColumn(name, kind, description=comment) for name, kind, comment in columns]
        ),
    }
