"""`metrics.prom`: what is known of each account, for Prometheus' textfile collector, as the published copy says it."""

from pathlib import Path

from credits_pipeline import files
from credits_pipeline.config import Settings
from credits_pipeline.warehouse import Connection, fetch_dicts, open_published

SQL = Path(__file__).with_name("metrics.sql")


def write(settings: Settings) -> None:
    """Put the file in place in one step, readable by all (mode 0444). Raises WarehouseError."""
    with open_published(settings.published_path) as con:
        files.write(settings.metrics_path, text(con, settings), mode=0o444)


def text(con: Connection, settings: Settings) -> str:
    """The text format of Prometheus, from a connection to the marts; metrics without a sample are left out."""
    [file] = fetch_dicts(con, SQL, {"accounts": [account.name for account in settings.accounts]})
    return str(file["text"])
