"""The command line behind the Makefile: `python -m credits_pipeline <command>`."""

import argparse
import errno
import io
import os
import sys
from datetime import date
from pathlib import Path

from credits_pipeline import config
from credits_pipeline.environment import export_others
from credits_pipeline.text import one_line


def main(arguments: list[str] | None = None) -> int:
    """Run one command; its exit code. What goes wrong is one line on stderr."""
    options = parser().parse_args(arguments)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without an ellipsis must not cost a reading
    before = os.umask(0o077)  # balances and spend are nobody else's business, in Dagster's files neither
    try:
        return perform(options)
    except errors() as error:
        print(f"error: {one_line(str(error))}", file=sys.stderr)
    except storage_errors() as error:
        said = of_storage(error)
        if said is None:
            raise
        print(f"error: {one_line(said)}", file=sys.stderr)
    except KeyboardInterrupt:
        print(
            "stopped. Everything committed so far is kept; the next run continues from there", file=sys.stderr
        )
    finally:
        os.umask(before)
    return 1


def errors() -> tuple[type[Exception], ...]:
    """What says in one sentence what to do; anything else is a bug and shows its traceback."""
    from credits_pipeline.warehouse import WarehouseError
    from credits_pipeline.warehouse.importing import ImportRefused

    return config.ConfigError, ImportRefused, WarehouseError


def storage_errors() -> tuple[type[Exception], ...]:
    """What Dagster lets through when it cannot read or write its history."""
    import sqlite3

    from sqlalchemy.exc import DBAPIError

    return OSError, sqlite3.Error, DBAPIError


# What SQLite says of a file that is not a database, or no longer a whole one.
DAMAGED = ("not a database", "malformed")
# What the operating system says where there is no room or no permission; anything else is a bug.
NOT_WRITABLE = {
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR
}  # fmt: skip


def of_storage(error: Exception) -> str | None:
    """One sentence about Dagster's history or the disk it is on; None for an error that is about something else."""
    place = getattr(error, "filename", None) or os.environ.get("DAGSTER_HOME", "the data directory")
    said = getattr(error, "strerror", None) or getattr(error, "orig", None) or error
    if any(sign in str(said) for sign in DAMAGED):
        return (
            f"Dagster's history in {place} is damaged ({said}): move that folder away, then run this again (it holds"
            " only runs, no readings and no figures)"
        )
    if isinstance(error, OSError) and error.errno not in NOT_WRITABLE:
        return None
    return f"{place} cannot be written ({said}): free some space or make it writable for this user, then run this again"


def perform(options: argparse.Namespace) -> int:
    from credits_pipeline import demo

    if options.name == "demo":
        return demo.run()
    if options.name == "dev" and options.demo:
        return demo.show(options.port)
    export_others(config.dotenv_path())
    for warning in config.current().warnings:
        print(f"warning: {warning}", file=sys.stderr)
    return with_own_data(options)


def with_own_data(options: argparse.Namespace) -> int:
    from credits_pipeline import commands

    match options.name:
        case "run":
            return commands.run()
        case "backfill":
            return commands.backfill(options.first, options.last)
        case "import":
            return commands.import_and_rebuild(options.file, options.account, options.tz or None)
        case "backup":
            return commands.backup(options.into)
        case "restore":
            return commands.restore(options.source)
        case "alert-test":
            return commands.alert_test()
        case "dev":
            return commands.user_interface(options.port)
        case _:
            return commands.answer()


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="python -m credits_pipeline", description=__doc__)
    subcommands = top.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, text: str) -> argparse.ArgumentParser:
        added = subcommands.add_parser(name, help=text, description=text)
        added.set_defaults(name=name)
        return added

    command("run", "take today's readings, fill what is missing of the past, and print the answer")
    command("demo", "the whole pipeline against a simulated API, in data/demo")
    command("answer", "print the answer again: balance, spend, run-out date")
    command("alert-test", "send a test alert to every channel of CREDITS_ALERT_URLS")
    dev = command("dev", "open the Dagster UI, with schedules running, on http://127.0.0.1:3000")
    dev.add_argument("--demo", action="store_true", help="on the demo's data, with the simulated API")
    dev.add_argument("--port", type=int, default=3000)
    backfill_ = command("backfill", "fetch what was billed on a range of past UTC days")
    backfill_.add_argument("--from", dest="first", type=day, metavar="YYYY-MM-DD")
    backfill_.add_argument("--to", dest="last", type=day, metavar="YYYY-MM-DD")
    import_ = command("import", "append readings that were logged earlier (CSV or Parquet)")
    import_.add_argument("file", type=Path, help="columns time, total_credits, total_usage")
    import_.add_argument("--account", default=config.DEFAULT_ACCOUNT)
    import_.add_argument("--tz", help="time zone of times that name none, such as Europe/Zurich")
    backup_ = command("backup", "write a consistent copy of the warehouse, and Parquet of its tables")
    backup_.add_argument("into", type=Path, nargs="?", help="a folder (default: backups in the data folder)")
    restore_ = command("restore", "put a backup in the warehouse's place, and rebuild everything from it")
    restore_.add_argument("source", type=Path, help="a folder that backup has made")
    return top


def day(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a UTC day such as 2026-01-31") from None


if __name__ == "__main__":
    sys.exit(main())
