"""The demo: the real pipeline, in a data directory of its own, against the simulated API."""

import os
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import date, timedelta

from credits_pipeline import clock, config, files
from credits_pipeline.simulator import SimulatedAPI, demo_accounts, readings, write_readings

DATA_DIR = config.PROJECT_ROOT / config.DEMO_DATA_DIR

# The simulated histories are made for this day; a UI opened tomorrow goes on with the same ones.
ANCHOR_FILE = DATA_DIR / "anchor"

# How long the simulated owner had been logging the two counters by hand before this program came.
DAYS_LOGGED = 180


def run() -> int:
    """Import earlier readings, backfill a year, do today's run, and print the answer."""
    from credits_pipeline import commands

    with only_one():
        shutil.rmtree(DATA_DIR, ignore_errors=True)
        DATA_DIR.mkdir(parents=True, mode=0o700)
        ANCHOR_FILE.write_text(clock.today().isoformat(), encoding="utf-8")
        with simulated_environment() as api:
            print(f"A simulated API with {len(api.accounts)} accounts answers at {api.base_url}.")
            since, until = clock.today() - timedelta(days=DAYS_LOGGED), clock.today() + timedelta(days=1)
            for account in api.accounts.values():
                file = DATA_DIR / f"readings-{account.name}.csv"
                write_readings(file, [r for r in readings(account, since, until) if r.time < clock.now()])
                commands.import_readings_of(file, account.name, tz=None)
            return commands.run()


def show(port: int) -> int:
    """The Dagster UI on the demo's data, with the simulated API answering."""
    from credits_pipeline import launch

    if not ANCHOR_FILE.exists():
        raise config.ConfigError("there is no demo yet: run `make demo` first")
    with only_one(), simulated_environment():
        return launch.user_interface(config.current(), port)


@contextmanager
def simulated_environment() -> Iterator[SimulatedAPI]:
    """The environment of a run whose API is simulated: nothing of the user's own keys, data or channels in it."""
    own = dict(os.environ)
    for name in [name for name in own if name.startswith(("OPENROUTER_", "CREDITS_", "DAGSTER_"))]:
        del os.environ[name]
    anchor = date.fromisoformat(ANCHOR_FILE.read_text(encoding="utf-8"))
    with SimulatedAPI(demo_accounts(anchor)) as api:
        os.environ.update(api.environment(), CREDITS_DATA_DIR=str(DATA_DIR))
        try:
            yield api
        finally:
            os.environ.clear()
            os.environ.update(own)


def only_one() -> AbstractContextManager[None]:
    """A demo begins by removing the data of the one before: none may be using them."""
    busy = config.ConfigError("another demo, or its UI, is running: end it first")
    return files.only_one(DATA_DIR.with_suffix(".lock"), otherwise=busy)
