"""Who opens DuckDB: `Warehouse`, and `read_mart` for the published copy."""

from credits_pipeline.warehouse.file import (
    Reading,
    Warehouse,
    WarehouseBusy,
    WarehouseError,
    fetch_dicts,
    open_published,
    read_mart,
)

__all__ = [
    "Reading",
    "Warehouse",
    "WarehouseBusy",
    "WarehouseError",
    "fetch_dicts",
    "open_published",
    "read_mart",
]
