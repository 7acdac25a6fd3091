"""`python -m credits_pipeline.simulator`: serve the demo accounts, or write their earlier readings."""

import argparse
import threading
from datetime import date, timedelta
from pathlib import Path

from credits_pipeline import clock
from credits_pipeline.simulator.accounts import demo_accounts
from credits_pipeline.simulator.readings import readings, write_readings
from credits_pipeline.simulator.server import SimulatedAPI

DAYS_LOGGED = 180


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m credits_pipeline.simulator", description=__doc__)
    parser.add_argument("--port", type=int, default=8787, help="loopback port, 0 for any (default 8787)")
    parser.add_argument(
        "--anchor", type=date.fromisoformat, default=clock.today(),
        help="the UTC day the accounts' histories are made for, YYYY-MM-DD (default today)",
    )  # fmt: skip
    parser.add_argument("--write-readings", type=Path, metavar="FILE", help="write a CSV of earlier readings, and stop")
    parser.add_argument("--account", default="default", help="whose readings (default: default)")
    parser.add_argument(
        "--days",
        type=int,
        default=DAYS_LOGGED,
        help=f"how many days of them, up to yesterday (default {DAYS_LOGGED})",
    )
    options = parser.parse_args()
    accounts = demo_accounts(options.anchor)
    if options.write_readings:
        named = {account.name: account for account in accounts}
        if options.account not in named:
            parser.error(f"no simulated account {options.account!r}: there are {', '.join(named)}")
        logged = readings(named[options.account], options.anchor - timedelta(days=options.days), options.anchor)
        lines = write_readings(options.write_readings, logged)
        print(f"Wrote {lines} readings of the simulated account {options.account} to {options.write_readings}")
        return
    try:
        api = SimulatedAPI(accounts, port=options.port, log=lambda line: print(line, flush=True))
    except OSError as error:
        parser.error(f"port {options.port} cannot be had ({error.strerror}): choose another with --port")
    with api:
        print(f"Simulated OpenRouter at {api.base_url}, anchored at {options.anchor}. To read from it:\n")
        for name, value in api.environment().items():
            print(f"export {name}={value}")
        print("\nCtrl-C stops it.", flush=True)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            print("Stopped.")


if __name__ == "__main__":
    main()
