"""Who opens DuckDB: `Warehouse`, and `open_published` and `read_mart` for the published copy."""

from credits_pipeline.warehouse.file import (
    MIGRATIONS,
    NotPublished,
    Reading,
    Warehouse,
    WarehouseBusy,
    WarehouseCorrupt,
    WarehouseError,
    fetch_dicts,
    open_published,
    read_mart,
)

__all__ = [
    "MIGRATIONS",
    "NotPublished",
    "Reading",
    "Warehouse",
    "WarehouseBusy",
    "WarehouseCorrupt",
    "WarehouseError",
    "fetch_dicts",
    "open_published",
    "read_mart",
]
