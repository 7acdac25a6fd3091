"""Run the jobs from a shell, in this process, with the history kept where the UI finds it."""

import errno
import logging
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
import filelock
import yaml
from dagster_shared.check import CheckError
from dagster_shared.error import SerializableErrorInfo

from credits_pipeline import config
from credits_pipeline.files import is_alive
from credits_pipeline.launch import run_history
from credits_pipeline.text import one_line, plain

# On a run: which process does it, as host/pid.
PROCESS_TAG = "credits_pipeline/process"

JOBS = frozenset({"daily_credits", "backfill_history", "rebuild", "housekeeping"})

INSTANCE_SETTINGS = Path(__file__).with_name("dagster.yaml")


def dagster_home(settings: config.Settings) -> Path:
    """Where Dagster keeps its history: DAGSTER_HOME, or a folder beside the data, ready to use. Raises ConfigError.

    Without one, Dagster would use a temporary folder and forget every run at exit.
    """
    home = settings.dagster_home
    if set("?%*[]") & set(str(home)):  # Dagster writes it into a URL, and into a search pattern, as it is
        raise config.ConfigError(
            f"Dagster cannot keep its history in {home}: set DAGSTER_HOME to a path without ? % * [ and ]"
        )
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not (home / "dagster.yaml").exists():
        shutil.copyfile(INSTANCE_SETTINGS, home / "dagster.yaml")
    os.environ["DAGSTER_HOME"] = str(home)
    return home


@contextmanager
def instance(settings: config.Settings) -> Iterator[dg.DagsterInstance]:
    """The Dagster instance that the UI shows. Raises ConfigError where its dagster.yaml cannot be read."""
    home = dagster_home(settings)
    run_history.keep_open()
    try:
        with load_instance(home) as held:
            end_dead_runs(held)
            yield held
    finally:
        run_history.let_go()


def load_instance(home: Path) -> dg.DagsterInstance:
    try:
        return dg.DagsterInstance.get()
    except (dg.DagsterError, CheckError, yaml.YAMLError, UnicodeError) as error:
        said = textwrap.shorten(str(error), 200, placeholder=" …")
        raise config.ConfigError(
            f"{home / 'dagster.yaml'} cannot be read ({said}): fix it, or move it away to get the default again"
        ) from error


def tag_with_process(context: dg.InitResourceContext) -> None:
    """Write on the run which process does it, so that its death can be told from slowness."""
    if context.instance and context.run:
        context.instance.add_run_tags(
            context.run.run_id, {PROCESS_TAG: f"{socket.gethostname()}/{os.getpid()}"}
        )


def is_ours(run: dg.DagsterRun) -> bool:
    """Whether a run is surely of this project: other projects may keep their history in the same DAGSTER_HOME."""
    return run.job_name in JOBS or PROCESS_TAG in run.tags


def end_dead_runs(instance: dg.DagsterInstance) -> list[str]:
    """Mark as failed the runs whose process of this machine is gone, and return their ids.

    Dagster cannot tell: such a run would count as under way, and keep all others waiting for the warehouse's pool.
    """
    under_way = dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING])
    ended = []
    for run in instance.get_runs(under_way):
        host, _, pid = run.tags.get(PROCESS_TAG, "").rpartition("/")
        if host == socket.gethostname() and not is_alive(int(pid)):
            instance.report_run_failed(run, "its process died. Committed data is kept; run it again")
            ended.append(run.run_id)
    return ended


def run_job(
    held: dg.DagsterInstance,
    name: str,
    *,
    partition: str | None = None,
    tags: Mapping[str, str] | None = None,
) -> bool:
    """Run a job to its end; say on stderr, in a sentence each, what failed. True when all went well."""
    from credits_pipeline.definitions import defs

    result = defs.resolve_job_def(name).execute_in_process(
        instance=held,
        partition_key=partition,
        tags=dict(tags or {}),
        run_config={"loggers": {"console": {}}},
        raise_on_error=False,
    )
    failed = [event for event in result.all_events if event.is_step_failure]
    if any(was_interrupted(event) for event in failed):
        raise KeyboardInterrupt  # SIGTERM, which Dagster turned into a failure: nothing more is to be begun
    for event in failed:
        print(one_line(f"failed: {event.step_key}: {reason(event)}"), file=sys.stderr)
    return result.success


def reason(event: dg.DagsterEvent) -> str:
    """The sentence that a failed step ended with, without its traceback."""
    data = event.step_failure_data
    if data.user_failure_data and data.user_failure_data.description:
        return data.user_failure_data.description
    if was_interrupted(event):
        return "it was stopped from outside: run it again"
    error = root_error(event)
    return without_class(error.message.strip()) if error else (event.message or "no reason given")


def was_interrupted(event: dg.DagsterEvent) -> bool:
    error = root_error(event)
    return error is not None and error.cls_name == "DagsterExecutionInterruptedError"


def root_error(event: dg.DagsterEvent) -> SerializableErrorInfo | None:
    """What the step's own code raised, out of Dagster's wrapping; not what caused that, which says what, not why."""
    error = event.step_failure_data.error
    while error and error.cause and (error.cls_name or "").startswith("Dagster"):
        error = error.cause
    return error


def without_class(message: str) -> str:
    """Our own errors are sentences; of others the type is part of what they say."""
    return re.sub(r"^credits_pipeline\.[\w.]+: ", "", message)


class OneLine(logging.Formatter):
    """What the pipeline says in its own words; Dagster's events are in the UI."""

    def format(self, record: logging.LogRecord) -> str:
        said = getattr(record, "dagster_meta", {}).get("orig_message") or record.getMessage()
        return f"  {plain(str(said).splitlines()[0])}"


@dg.logger({}, description="One short line per thing worth knowing, on stderr.")
def console(_: dg.InitLoggerContext) -> logging.Logger:
    log = logging.Logger("credits_pipeline", level=logging.INFO)
    handler = logging.StreamHandler()
    handler.setFormatter(OneLine())
    # Errors come from Dagster, one per step that could not follow; what failed is said at the end, once.
    handler.addFilter(lambda record: record.levelno < logging.ERROR)
    log.addHandler(handler)
    return log


def user_interface(settings: config.Settings, port: int) -> int:
    """The Dagster UI and daemon until Ctrl-C; bound to this machine, for the open-source UI has no login."""
    home = dagster_home(settings)
    with only_one(home, port):
        return serve(settings, home, port)


@contextmanager
def only_one(home: Path, port: int) -> Iterator[None]:
    """Refuse a second UI on the same history, whose daemons would tick twice, and a port that is taken."""
    try:
        with filelock.FileLock(home / "dev.lock", timeout=0, mode=0o600):
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(("127.0.0.1", port))
            yield
    except filelock.Timeout:
        raise config.ConfigError(
            f"a Dagster UI is already running on {home}: use that one, or stop it first"
        ) from None
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        raise config.ConfigError(
            f"port {port} is taken by another program: name a free one, as in make dev PORT={port + 1}"
        ) from None


def serve(settings: config.Settings, home: Path, port: int) -> int:
    """Start the UI and wait until it ends."""
    with instance(settings):
        pass  # what died with the UI before is ended
    print(
        f"Dagster UI: http://127.0.0.1:{port}  (press Ctrl-C to stop; the history is kept in {home})",
        flush=True,
    )
    workspace = str(config.PROJECT_ROOT / "workspace.yaml")
    command = [str(Path(sys.executable).with_name("dg")), "dev", "-w", workspace, "--host", "127.0.0.1"]
    # From the data directory: .env was read already (or, for the demo, must not be), and dg would read it again.
    # Started in the background by a script, this process ignores Ctrl-C; its child must not.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with subprocess.Popen([*command, "--port", str(port)], cwd=settings.data_dir) as child:  # noqa: S603
        # Ctrl-C reaches the whole group; SIGTERM reaches this process only, so it is passed on.
        signal.signal(signal.SIGTERM, lambda *_: child.send_signal(signal.SIGINT))
        while True:
            try:
                return child.wait()
            except KeyboardInterrupt:
                continue
