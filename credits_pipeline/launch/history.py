"""Dagster's log of events in its usual SQLite files, kept open for as long as they are used. dagster.yaml names it.

For each of a daily run's 900 events Dagster connects anew, and SQLite syncs the disk at each close: kept open, a run
takes a third less CPU time and half the wall time. With a write-ahead log `synchronous = normal` is safe from
corruption. Without these lines in dagster.yaml Dagster reads and writes the same files.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any, Final

import dagster as dg
import sqlalchemy as sa
from dagster._core.definitions.asset_checks.asset_check_evaluation import AssetCheckEvaluationPlanned
from dagster._core.events.log import EventLogEntry
from dagster._core.storage.event_log import SqlEventLogStorage, SqlEventLogStorageTable, SqliteEventLogStorage
from dagster._serdes import ConfigurableClassData

INDEX: Final = "index"
BUSY_TIMEOUT_S: Final = 30
"""How long Dagster itself waits for a file that another process writes to."""


RANGES_LOOKED_AT: Final = 50
"""More runs of a range than are going on at once or failed of late."""


class PlansOnce(SqlEventLogStorage):
    """Plans a run of many days once for each asset and check, which Dagster plans for each day of each.

    For a year that is 17,000 events of assets, in two minutes, and 26,000 rows (60 MB) of checks that nothing updates.
    """

    @property
    def supports_partition_subset_in_asset_materialization_planned_events(self) -> bool:
        """One event says for which days a run plans an asset; the days of a run that failed show as missing."""
        return True

    def get_latest_asset_partition_materialization_attempts_without_materializations(
        self, asset_key: dg.AssetKey, after_storage_id: int | None = None
    ) -> Mapping[str, tuple[str, int]]:
        """With the days that a run planned with one event, which Dagster passes over when it asks what is going on."""
        found = dict(
            super().get_latest_asset_partition_materialization_attempts_without_materializations(
                asset_key, after_storage_id
            )
        )
        planned, made = dg.DagsterEventType.ASSET_MATERIALIZATION_PLANNED, dg.DagsterEventType.ASSET_MATERIALIZATION
        wanted = dg.EventRecordsFilter(planned, asset_key=asset_key, after_cursor=after_storage_id)
        for record in reversed(self.get_event_records(wanted, limit=RANGES_LOOKED_AT)):
            subset = record.event_log_entry.get_dagster_event().asset_materialization_planned_data.partitions_subset
            days = set(subset.get_partition_keys()) if subset else set()
            done = self.get_latest_storage_id_by_partition(asset_key, made, days, record.storage_id) if days else {}
            found |= {day: (record.run_id, record.storage_id) for day in days - done.keys()}
        return found

    def store_asset_check_event(self, event: EventLogEntry, event_id: int | None) -> None:
        """Checks look at whole tables, so a planned one is of no day: its result finds it."""
        told = event.get_dagster_event()
        if isinstance(planned := told.event_specific_data, AssetCheckEvaluationPlanned):
            whole = AssetCheckEvaluationPlanned(asset_key=planned.asset_key, check_name=planned.check_name)
            event = event._replace(dagster_event=told._replace(event_specific_data=whole))
        super().store_asset_check_event(event, event_id)


class EventLog(PlansOnce, SqliteEventLogStorage):
    """`event_log_storage` of dagster.yaml; `base_dir` is DAGSTER_HOME."""

    def __init__(self, base_dir: str, inst_data: ConfigurableClassData | None = None) -> None:
        self._held: dict[str, sa.Engine] = {}  # the index of all runs, and the events of one
        self._held_lock = Lock()
        self._tables = set[str]()
        super().__init__(base_dir, inst_data)

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]) -> "EventLog":
        return cls(str(Path(config_value["base_dir"]) / "history" / "runs"), inst_data)

    def has_table(self, table_name: str) -> bool:
        """A table that is there stays: Dagster looks for that of the checks twice for each of them."""
        if table_name not in self._tables and super().has_table(table_name):
            self._tables.add(table_name)
        return table_name in self._tables

    @contextmanager
    def run_connection(self, run_id: str | None = None) -> Iterator[sa.Connection]:
        with self._engine(str(run_id)).begin() as connection:
            yield connection

    @contextmanager
    def index_connection(self) -> Iterator[sa.Connection]:
        with self._engine(INDEX).begin() as connection:
            yield connection

    def delete_events(self, run_id: str) -> None:
        """Forget a run: its events, its results of checks, its file."""
        super().delete_events(run_id)
        with self.index_connection() as connection:
            connection.execute(sa.text("delete from asset_check_executions where run_id = :run_id"), {"run_id": run_id})
        if engine := self._held.pop(run_id, None):
            engine.dispose()
        for suffix in ("", "-wal", "-shm"):
            Path(self.path_for_shard(run_id) + suffix).unlink(missing_ok=True)

    def delete_logs(self, run_id: str) -> bool:
        """Remove a run's own events; what it materialized stays in the index. False if there were none.

        Its file is emptied, not removed: a web server that has shown the run before would find no table.
        """
        if not Path(self.path_for_shard(run_id)).exists():
            return False
        with self.run_connection(run_id) as connection:
            removed = connection.execute(SqlEventLogStorageTable.delete()).rowcount
        if removed:
            with self._engine(run_id).connect() as connection:
                connection.execution_options(isolation_level="AUTOCOMMIT").execute(sa.text("vacuum"))
        return removed > 0

    def dispose(self) -> None:
        for engine in self._held.values():
            engine.dispose()
        super().dispose()

    def _engine(self, shard: str) -> sa.Engine:
        with self._held_lock:
            if shard not in self._held:
                for other in self._held.keys() - {INDEX}:
                    self._held.pop(other).dispose()
                url, options = self.conn_string_for_shard(shard), {"timeout": BUSY_TIMEOUT_S}
                engine = sa.create_engine(url, connect_args=options)
                sa.event.listen(engine, "connect", lose_nothing_but_the_last_events)
                with engine.connect() as connection:  # if another program holds the file: Dagster would wait ten times
                    connection.execute(sa.text("select count(*) from sqlite_master"))
                with super().index_connection() if shard == INDEX else super().run_connection(shard):
                    pass  # makes the tables
                self._held[shard] = engine
            return self._held[shard]


def lose_nothing_but_the_last_events(connection: Any, _: object) -> None:
    connection.execute("pragma synchronous = normal")
