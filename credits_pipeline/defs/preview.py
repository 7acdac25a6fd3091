"""A table's newest rows and its columns, as people see them on an asset's page."""

from typing import TYPE_CHECKING, Any

import dagster as dg

from credits_pipeline.text import markdown_table

if TYPE_CHECKING:
    import duckdb

# A week: enough to see the rhythm of a daily table.
PREVIEW_ROWS = 7


def preview(
    con: "duckdb.DuckDBPyConnection", relation: str, rows: int = PREVIEW_ROWS
) -> dg.MarkdownMetadataValue:
    """The newest rows of `relation` (a quoted name) as a Markdown table; all text in it is escaped."""
    columns = con.execute(f"describe {relation}").fetchall()
    times = [name for name, kind, *_ in columns if kind in {"DATE", "TIMESTAMP"}]
    order = f'order by "{times[0]}" desc' if times else ""
    newest = con.execute(f"select * from {relation} {order} limit {rows}").fetchall()
    return dg.MetadataValue.md(markdown_table([name for name, *_ in columns], newest))


def table_metadata(con: "duckdb.DuckDBPyConnection", schema: str, table: str) -> dict[str, Any]:
    """How many rows a table has, and its columns as their comments describe them: for tables that no .yml describes."""
    columns = con.execute(
        "select column_name, data_type, comment from duckdb_columns() where schema_name = ? and table_name = ? "
        "order by column_index",
        [schema, table],
    ).fetchall()
    rows = con.execute(f'select count(*) from "{schema}"."{table}"').fetchall()[0][0]
    return {
        "dagster/row_count": rows,
        "dagster/column_schema": dg.TableSchema(
            [dg.TableColumn(name, kind, description=comment) for name, kind, comment in columns]
        ),
    }
