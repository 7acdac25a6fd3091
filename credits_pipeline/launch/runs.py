"""Run a job from a shell, in this process, and say in a sentence each what failed."""

import logging
import re
import sys
from collections.abc import Mapping

import dagster as dg
from dagster_shared.error import SerializableErrorInfo

from credits_pipeline.text import one_line, plain


def run_job(instance: dg.DagsterInstance, job: dg.JobDefinition, tags: Mapping[str, str] | None = None) -> bool:
    """Run a job to its end; say on stderr, in a sentence each, what failed. True when all went well."""
    result = job.execute_in_process(
        instance=instance,
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
    # Our own errors are sentences; of others the type is part of what they say.
    return re.sub(r"^credits_pipeline\.[\w.]+: ", "", error.message.strip()) if error else str(event.message)


def was_interrupted(event: dg.DagsterEvent) -> bool:
    error = root_error(event)
    return error is not None and error.cls_name == "DagsterExecutionInterruptedError"


def root_error(event: dg.DagsterEvent) -> SerializableErrorInfo | None:
    """What the step's own code raised, out of Dagster's wrapping; not what caused that, which says what, not why."""
    error = event.step_failure_data.error
    while error and error.cause and (error.cls_name or "").startswith("Dagster"):
        error = error.cause
    return error


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
