"""What some tables show of themselves in the UI before any number: the answer as a sentence, and a picture.

The drawing code is the report's. Only these three: a picture is kept with every run's history, some 10 to 50 kB each.
"""

from typing import TYPE_CHECKING, Any

import dagster as dg

from credits_pipeline import wording
from credits_pipeline.text import markdown
from credits_pipeline.warehouse import fetch_dicts

if TYPE_CHECKING:
    import duckdb

    from credits_pipeline.report.charts import Chart

Rows = list[dict[str, Any]]

# One picture is of one account: the one whose credits run out first.
MOST_URGENT = (
    "select account from marts.credits_runway order by run_out_p50 nulls last, balance_usd, account limit 1"
)


def picture_metadata(con: "duckdb.DuckDBPyConnection", model: str) -> dict[str, dg.MarkdownMetadataValue]:
    """Metadata `answer` and `picture` of the model; empty for the many that show rows only."""
    if model not in {"credits_runway", "daily_spend", "daily_spend_by_model"}:
        return {}
    if not (urgent := exists(con, "credits_runway") and con.execute(MOST_URGENT).fetchone()):
        return {}
    entries = {"answer": sentences(con)} if model == "credits_runway" else {}
    try:
        entries["picture"] = image(urgent[0], chart(con, model, urgent[0]))
    except Exception as error:  # a picture that cannot be drawn must not cost the figures behind it
        entries["picture"] = f"The picture could not be drawn: {markdown(str(error))}"
    return {name: dg.MetadataValue.md(text) for name, text in entries.items()}


def exists(con: "duckdb.DuckDBPyConnection", mart: str) -> bool:
    return bool(
        con.execute("from duckdb_tables() where schema_name = 'marts' and table_name = ?", [mart]).fetchone()
    )


def sentences(con: "duckdb.DuckDBPyConnection") -> str:
    """One sentence per account, the most urgent first."""
    lines = []
    for row in fetch_dicts(
        con, "select * from marts.credits_runway order by run_out_p50 nulls last, balance_usd, account"
    ):
        answer = wording.answer(row)
        said = f"{answer.headline} {answer.detail} Balance {wording.usd(row['balance_usd'])}."
        lines.append(f"**{markdown(wording.name(row['account']))}**: {markdown(said)}")
    return "\n\n".join(lines)


def chart(con: "duckdb.DuckDBPyConnection", model: str, account: str) -> "Chart":
    from credits_pipeline.report import (
        charts,  # here, because the drawing library takes half a second to load
    )

    def of(mart: str) -> Rows:
        return (
            fetch_dicts(con, f"select * from marts.{mart} where account = ?", [account])
            if exists(con, mart)
            else []
        )

    if model == "daily_spend":
        return charts.daily_spend(of("daily_spend"), of("credit_events"))
    if model == "daily_spend_by_model":
        return charts.spend_by_model(of("daily_spend_by_model"))
    return charts.balance(of("daily_balance"), of("balance_forecast"), of("credits_runway")[0])


def image(account: str, drawn: "Chart") -> str:
    """The chart as a Markdown picture, with what it says in words for those who cannot see it."""
    from credits_pipeline.report import charts

    return f"{markdown(wording.name(account))}\n\n![{markdown(drawn.words)}]({charts.data_uri(drawn)})"
