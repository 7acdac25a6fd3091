"""Who opens DuckDB: `Warehouse`, and `open_published` and `read_mart` for the published copy."""

from credits_pipeline.warehouse.backup import Backups
from credits_pipeline.warehouse.connection import WarehouseBusy, WarehouseCorrupt, WarehouseError, fetch_dicts
from credits_pipeline.warehouse.file import MIGRATIONS
from credits_pipeline.warehouse.published import Publisher, open_published, read_mart
from credits_pipeline.warehouse.tables import Reading, Tables


class Warehouse(Tables, Publisher, Backups):
    """The warehouse at `path`, opened for the length of one call or one `with` block, never longer."""


__all__ = [
    "MIGRATIONS",
    "Reading",
    "Warehouse",
    "WarehouseBusy",
    "WarehouseCorrupt",
    "WarehouseError",
    "fetch_dicts",
    "open_published",
    "read_mart",
]
