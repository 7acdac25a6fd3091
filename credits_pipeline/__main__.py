"""The command line behind the Makefile: `python -m credits_pipeline <command>`."""

import io
import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

import click

from credits_pipeline import config
from credits_pipeline.accounts import DEFAULT_ACCOUNT
from credits_pipeline.env_file import as_path, export_others
from credits_pipeline.errors import CreditsError
from credits_pipeline.text import one_line


def main(arguments: list[str] | None = None) -> int:
    """Run one command; its exit code. What goes wrong is one line on stderr."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without an ellipsis must not cost a reading
    before = os.umask(0o077)  # balances and spend are nobody else's business, in Dagster's files neither
    try:
        given = sys.argv[1:] if arguments is None else arguments
        with cli.make_context("python -m credits_pipeline", list(given)) as context:
            return int(cli.invoke(context))
    except CreditsError as error:
        print(f"error: {one_line(str(error))}", file=sys.stderr)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.exceptions.Exit as asked_for_help:
        return asked_for_help.exit_code
    except KeyboardInterrupt:
        print("stopped. Everything committed so far is kept; the next run continues from there", file=sys.stderr)
    finally:
        os.umask(before)
    return 1


def perform(name: str, **options: Any) -> int:
    from credits_pipeline import commands, launch

    with launch.in_sentences():
        if name == "demo" or options.pop("demo", False):
            from credits_pipeline import demo

            return demo.show(**options) if options else demo.run()
        export_others(config.dotenv_path())
        commands.warn(config.current().warnings)
        command = getattr(commands, name.replace("-", "_"), None) or commands.import_
        return int(command(**options))


def path(text: str) -> Path:
    return as_path("the path", text, Path())


cli = click.Group(help=__doc__)
Argument, Option = partial(click.Argument, type=path), click.Option
Day = partial(click.Option, type=click.DateTime(["%Y-%m-%d"]), metavar="YYYY-MM-DD")


def command(name: str, text: str, *parameters: click.Parameter) -> None:
    cli.add_command(click.Command(name, callback=partial(perform, name), params=list(parameters), help=text))


command("run", "Take today's readings, fill what is missing of the past, and print the answer.")
command("demo", "The whole pipeline against a simulated API, in data/demo.")
answer = "Print the answer again: balance, spend, run-out date. Exit code 3: credits are gone too soon."
as_json = Option(["--json", "as_json"], is_flag=True, help="As JSON, see docs/machines.md.")
within = Option(["--fail-if-gone-within", "days"], type=click.IntRange(1, 365), metavar="DAYS")
chance = click.FloatRange(0, 1, min_open=True)
probability = Option(["--probability"], type=chance, default=0.5, help="How likely that must be; 0.5 by default.")
command("answer", answer, as_json, within, probability)
moved = "Spend and run-out date if part of a model's tokens went to another, at the prices of your own bills."
models = (Option([name, to], required=True) for name, to in (("--model", "model"), ("--to", "other")))
share = Option(["--share"], type=chance, default=1.0, help="Part of the tokens, such as 0.5; all by default.")
command("what-if", moved, *models, share, Option(["--account"]))
command("alert-test", "Send a test alert to every channel of CREDITS_ALERT_URLS.")
demo_ = Option(["--demo"], is_flag=True, help="On the demo's data, with the simulated API.")
port = Option(["--port"], type=int, default=3000)
command("dev", "Open the Dagster UI, with schedules running, on http://127.0.0.1:3000.", demo_, port)
days = Day(["--from", "first"]), Day(["--to", "last"])
command("backfill", "Fetch what was billed on a range of past UTC days.", *days)
account = Option(["--account"], default=DEFAULT_ACCOUNT)
tz = Option(["--tz"], help="Time zone of times that name none, such as Europe/Zurich.")
logged = "Append readings that were logged earlier (CSV or Parquet: time, total_credits, total_usage)."
command("import", logged, Argument(["file"]), account, tz)
folder = Argument(["into"], required=False)
command("backup", "Write a consistent copy of the warehouse, and Parquet of its tables, into a folder.", folder)
command("restore", "Put a backup in the warehouse's place, and rebuild the rest from it.", Argument(["source"]))
names = Argument(["old"], type=str), Argument(["new"], type=str)
shards = Argument(["shards"], type=click.IntRange(1, 9999))
command("reshard", "Spread a lake over another number of shards, or move the warehouse into a lake.", shards)
command("rename", "Give an account another name, with all that is known of it.", *names)


if __name__ == "__main__":
    sys.exit(main())
