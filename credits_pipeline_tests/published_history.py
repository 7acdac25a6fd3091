"""Real marts, grown day by day from the simulated accounts as the pipeline grows them, but without Dagster."""

from dataclasses import astuple
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path

from credits_pipeline.simulator import AGENTS, STEADY, SimulatedAccount
from credits_pipeline.simulator.keys import demo_keys
from credits_pipeline.warehouse import Reading, Warehouse
from credits_pipeline_tests.models import DAY, project
from credits_pipeline_tests.warehouse.stored import Row

FIRST_DAY = date(2026, 1, 1)
READ_AT = time(0, 5, 3)


class History:
    """A warehouse and its published copy, in `folder`; `day` is the next day to run."""

    def __init__(self, folder: Path, *, lock_timeout_s: float = 60) -> None:
        self.warehouse = Warehouse(folder / "warehouse.duckdb", lock_timeout_s=lock_timeout_s)
        self.path = folder / "credits.duckdb"
        self.day = FIRST_DAY
        self.project = project()
        anchor = FIRST_DAY + 90 * DAY
        keys = demo_keys(anchor)
        self.accounts = [
            SimulatedAccount(name, f"sk-or-v1-simulated-{name}", anchor=anchor, profile=profile, keys=keys[name])
            for name, profile in (("default", STEADY), ("agents", AGENTS))
        ]

    def read(self, days: int = 1) -> None:
        """Readings of the next days, and what was billed on each of them and on the three days before."""
        instants = [datetime.combine(self.day + n * DAY, READ_AT, UTC) for n in range(days)]
        for account in self.accounts:
            counters = [(at, account.credits_at(at), account.usage_at(at)) for at in instants]
            self.warehouse.append_readings(
                Reading(account.name, at.date(), at, credits, usage, None, f"run {at.date()}")
                for at, credits, usage in counters
            )
        self.bill(self.day - 3 * DAY, instants[-1].date(), fetched_at=instants[-1] + timedelta(seconds=2))
        self.day += days * DAY

    def bill(self, first: date, last: date, *, fetched_at: datetime) -> None:
        """Fetch what was billed from `first` to `last`."""
        days = [first + n * DAY for n in range((last - first).days + 1)]
        with self.warehouse.writing("storing usage") as con:
            for account in self.accounts:
                by_model = [(day, "", *part) for day in days for part in account.billed(day).items()]
                by_key = [(day, *of, usage) for day in days for of, usage in account.billed_by("api_key", day).items()]
                for dimension, parts in {"": by_model, "api_key": by_key}.items():
                    rows = [Row(day, model, *astuple(usage), member) for day, member, model, usage in parts]
                    stored = {"fetched_at": fetched_at, "run_id": "run", "con": con, "dimension": dimension}
                    self.warehouse.replace_usage(account.name, first, last, rows, **stored)

    def build(self) -> None:
        with self.warehouse.writing("building the SQL models") as con:
            result = self.project.build(con)
            assert not result.blocking, [test.message for test in result.blocking]

    @property
    def last_run(self) -> date:
        """The day that was read last: its run is called by it."""
        return self.day - DAY

    def publish(self) -> None:
        """Publish as the last run, which is called `run 2026-01-31`."""
        done = datetime.combine(self.last_run, READ_AT, UTC) + timedelta(minutes=1)
        self.warehouse.publish(
            self.path, run_id=f"run {self.last_run}", published_at=done, version="1.2.3", is_simulated=True
        )

    def backfill(self, days: int) -> None:
        """Fetch what was billed on the `days` days before the first reading, and rebuild."""
        now = datetime.combine(self.last_run, READ_AT, UTC) + timedelta(minutes=5)
        self.bill(FIRST_DAY - days * DAY, self.last_run, fetched_at=now)
        self.build()
        self.publish()

    def run(self, days: int = 1) -> None:
        """A daily run, or several days' readings before one."""
        self.read(days)
        self.build()
        self.publish()
