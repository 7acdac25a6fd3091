"""Who opens DuckDB: `Warehouse`, and `open_published` and `read_mart` for the published copy."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from credits_pipeline.config import Settings
from credits_pipeline.warehouse.backup import Backups
from credits_pipeline.warehouse.connection import (
    Connection,
    WarehouseBusy,
    WarehouseCorrupt,
    WarehouseError,
    fetch_dicts,
    tables_of,
)
from credits_pipeline.warehouse.file import MIGRATIONS
from credits_pipeline.warehouse.published import Publisher, open_published, read_mart
from credits_pipeline.warehouse.tables import Reading, Tables

T = TypeVar("T")


class AnyWarehouse(ABC):
    """The warehouse as a whole: one file, or the shards of a lake."""

    @abstractmethod
    def each(self, do: Callable[..., T], *args: Any) -> list[T]:
        """What `do(shard, *args)` returns for each shard, of type `Tables`; a file is the only shard.

        `do` is a function of a module; all that goes and comes can be pickled and holds no key.
        """

    @abstractmethod
    def of(self, account: str) -> Tables:
        """The shard that holds the account."""

    @abstractmethod
    def reading(self, purpose: str = "reading") -> AbstractContextManager[Connection]:
        """A read-only connection to `marts` as they were published last or later, and to `ops`."""

    @abstractmethod
    def built(self, purpose: str) -> AbstractContextManager[Connection]:
        """A read-only connection to `marts` as they were built last."""

    @abstractmethod
    def writing(self, purpose: str) -> AbstractContextManager[Connection]:
        """A read-write connection to `ops`, inside one transaction."""

    @abstractmethod
    def publish(self, target: Path, *, run_id: str, published_at: datetime, version: str, is_simulated: bool) -> None:
        """Replace the file `target` by what was built last."""


class Warehouse(Publisher, Backups, Tables, AnyWarehouse):
    """The warehouse at `path`, opened for the length of one call or one `with` block, never longer."""

    def each(self, do: Callable[..., T], *args: Any) -> list[T]:
        return [do(self, *args)]

    def of(self, account: str) -> Tables:
        return self

    def built(self, purpose: str) -> AbstractContextManager[Connection]:
        return self.reading(purpose)


def open_warehouse(settings: Settings, *, lock_timeout_s: float = 60) -> AnyWarehouse:
    """The warehouse that is configured: a file, or the shards of a lake (CREDITS_LAKE)."""
    if settings.lake is None:
        return Warehouse(settings.warehouse_path, lock_timeout_s=lock_timeout_s)
    from credits_pipeline.warehouse.lake import Lake

    return Lake(settings, lock_timeout_s=lock_timeout_s)


__all__ = [
    "MIGRATIONS",
    "AnyWarehouse",
    "Connection",
    "Reading",
    "Tables",
    "Warehouse",
    "WarehouseBusy",
    "WarehouseCorrupt",
    "WarehouseError",
    "fetch_dicts",
    "open_published",
    "open_warehouse",
    "read_mart",
    "tables_of",
]
