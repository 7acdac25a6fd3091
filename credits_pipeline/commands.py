"""What the command line does, each command a function that returns its exit code."""

import os
import shlex
import sys
from collections.abc import Iterable
from datetime import datetime, timedelta
from pathlib import Path

import dagster as dg

from credits_pipeline import clock, config, launch
from credits_pipeline.accounts import DEFAULT_ACCOUNT, account_name
from credits_pipeline.alerts import notify as alerts
from credits_pipeline.defs import schedules
from credits_pipeline.defs.assets import model_usage
from credits_pipeline.defs.partitions import oldest_day
from credits_pipeline.report import answer as report
from credits_pipeline.warehouse import Warehouse, open_warehouse
from credits_pipeline.warehouse.importing import import_readings

SOON_GONE = 3  # exit code; 1 is an error, 2 a wrong command line


def run() -> int:
    """Today's readings, after whatever is missing of the past; then the answer."""
    settings = config.current().require()
    warn(settings.alert_problems)
    try:
        with launch.open_instance(settings) as instance:
            refused = model_usage.keys_without_analytics(instance)
            ok = fetch_missing(settings, instance)
            ok = take_readings(instance) and ok
            # A key that was refused until now, and answered just now, has its past still to be fetched.
            if refused - model_usage.keys_without_analytics(instance):
                ok = fetch_missing(settings, instance) and ok
    except launch.HistoryLocked as error:
        # A past balance cannot be read: today's reading must not depend on a file that only the UI needs.
        warn([f"{error}. The readings are taken all the same; this run is not in the history"])
        with dg.DagsterInstance.ephemeral() as instance:
            ok = take_readings(instance)
    print_answer(settings)
    return 0 if ok else 1


def fetch_missing(settings: config.Settings, instance: dg.DagsterInstance) -> bool:
    """Fetch what is missing of the past, where some of it lies before the days that the daily run reads by itself."""
    days = schedules.unsettled_range(open_warehouse(settings), instance)
    read_again = clock.today() - timedelta(days=model_usage.DAYS_READ_AGAIN)
    return fetch_history(instance, *days) if days and days[0] < read_again.isoformat() else True


def take_readings(instance: dg.DagsterInstance) -> bool:
    tell("Taking today's readings …")
    today = clock.today().isoformat()
    return launch.run_job(instance, job("daily_credits"), tags=schedules.range_tags(today, today))


def job(name: str) -> dg.JobDefinition:
    from credits_pipeline.definitions import defs

    return defs.resolve_job_def(name)


def backfill(first: datetime | None, last: datetime | None) -> int:
    """What was billed from `first` to `last` (UTC days, inclusive); all that the API knows by default."""
    settings = config.current().require()
    oldest, today = oldest_day(), clock.today()
    since, until = first.date() if first else oldest, last.date() if last else today
    if not oldest <= since <= until <= today:
        raise config.ConfigError(
            f"the API can be asked for {oldest} to {today} (365 days, from CREDITS_START_DATE on), not for {since}"
            f" to {until}: choose FROM and TO within, the earlier day first"
        )
    with launch.open_instance(settings) as instance:
        ok = fetch_history(instance, since.isoformat(), until.isoformat())
    print_answer(settings)
    return 0 if ok else 1


def fetch_history(instance: dg.DagsterInstance, first: str, last: str) -> bool:
    tell(f"Fetching what was billed from {first} to {last} …")
    return launch.run_job(instance, job("backfill_history"), tags=schedules.range_tags(first, last))


def rebuild(settings: config.Settings) -> int:
    with launch.open_instance(settings) as instance:
        return 0 if launch.run_job(instance, job("rebuild")) else 1


def import_(file: Path, account: str, tz: str | None) -> int:
    import_readings_of(file, account, tz or None)
    return rebuild(config.current())


def import_readings_of(file: Path, account: str, tz: str | None) -> None:
    settings = config.current().valid()
    shard = open_warehouse(settings).of(account)
    known = {DEFAULT_ACCOUNT, *(configured.name for configured in settings.accounts)}
    # Readings cannot be taken out again one by one, so a typo must not create an account.
    if account not in known and account not in shard.read_at():
        raise config.ConfigError(
            f"there is no account {account!r}: name one of {', '.join(sorted(known))}, or set"
            f" {config.KEY_VARIABLE}_<NAME> first"
        )
    appended, known_already = import_readings(shard, file, account, tz)
    tell(f"{file.name}: {appended} readings appended to {account}, {known_already} already there.")


def backup(into: Path | None) -> int:
    """A consistent copy of everything that the API cannot tell again, and Parquet of the tables."""
    settings = config.current().valid()
    warehouse = the_file(settings)
    if not warehouse.path.exists():
        raise config.ConfigError(f"there is nothing to back up in {settings.data_dir} yet: run `make run` first")
    made = warehouse.backup(into or settings.data_dir / "backups")
    tell(f"Backup written to {made}: `make restore FROM={shlex.quote(str(made))}` puts it back.")
    return 0


def restore(source: Path) -> int:
    """A backup in the warehouse's place; what was derived is built anew. The next run asks the API for the rest."""
    settings = config.current().valid()
    kept = the_file(settings).restore(source)
    tell(f"Restored {source}." + (f" The earlier file is kept as {kept}." if kept else ""))
    code = rebuild(settings)
    tell("Run `make run` to fetch what the API knows of the time since then.")
    return code


def rename(old: str, new: str) -> int:
    """Another name for an account, whose rows it takes along; what was derived is built anew."""
    settings = config.current().valid()
    old, new = old.lower(), account_name(f"{config.KEY_VARIABLE}_{new}")
    rows = the_file(settings).rename_account(old, new)
    tell(f"{rows} rows of {old} are now those of {new}.")
    warn(
        f"{a.variable} still holds a key: rename it too, or {old} begins anew"
        for a in settings.accounts
        if a.name == old
    )
    return rebuild(settings)


def the_file(settings: config.Settings) -> Warehouse:
    """The warehouse, for what is done with a file only. Raises ConfigError in a lake."""
    if settings.lake:
        raise config.ConfigError("CREDITS_LAKE is set: for this in a lake see docs/scale.md, nothing was changed")
    return Warehouse(settings.warehouse_path)


def reshard(shards: int) -> int:
    """All rows into another number of shards, or out of the file into a lake; what was derived is built anew."""
    from credits_pipeline.warehouse.lake import reshard as move

    settings = config.current().valid()
    if settings.lake is None:
        raise config.ConfigError("CREDITS_LAKE is not set: name the lake first (docs/scale.md)")
    rows = move(settings, shards)
    tell(f"{rows} rows are in {shards} shards now.")
    if shards != settings.lake.shards:
        tell(f"Set CREDITS_SHARDS={shards} everywhere, then run `make run`: the tables are built from them anew.")
        return 0
    return rebuild(settings)


def answer(as_json: bool, days: int | None, probability: float) -> int:
    """The answer as of the newest reading; 3 where credits are gone within `days` with at least this probability."""
    settings = config.current().valid()
    if as_json:
        tell(report.as_json(settings))
    else:
        print_answer(settings)
    gone = report.gone_within(settings, days, probability) if days else []
    warn(f"{account}: at least {probability:.0%} likely to be without credits within {days} days" for account in gone)
    return SOON_GONE if gone else 0


def what_if(model: str, other: str, share: float, account: str | None) -> int:
    """Spend and run-out if `share` of the tokens of one model went to another."""
    tell(report.what_if(config.current().valid(), model=model, other=other, share=share, account=account))
    return 0


def dev(port: int) -> int:
    settings = config.current()
    warn((*settings.problems, *settings.alert_problems))
    if not settings.accounts:
        warn([f"{config.KEY_VARIABLE} is not set: readings will fail until it is"])
    return launch.user_interface(settings, port)


def alert_test() -> int:
    settings = config.current()
    warn(settings.alert_problems)
    outcomes = alerts.send_test(settings)
    for outcome in outcomes:
        tell(f"{outcome.channel}: {'sent' if outcome.delivered else outcome.reason}")
    if not outcomes:
        warn(["CREDITS_ALERT_URLS names no channel, so alerts are only logged: give it one or more Apprise URLs"])
    return 0 if outcomes and all(outcome.delivered for outcome in outcomes) else 1


def print_answer(settings: config.Settings) -> None:
    tell(report.text(settings))


def tell(line: str) -> None:
    """Print to stdout; a closed pipe or a full disk behind it must not cost a reading."""
    try:
        print(line, flush=True)
    except OSError:
        # What is still in the buffer would fail once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def warn(warnings: Iterable[str]) -> None:
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)
