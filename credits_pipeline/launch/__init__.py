"""How our Dagster is run: its instance and history, a job from a shell, the UI."""

from credits_pipeline.launch.instance import (
    INSTANCE_SETTINGS,
    JOBS,
    PROCESS_TAG,
    dagster_home,
    end_dead_runs,
    is_ours,
    open_instance,
    tag_with_process,
)
from credits_pipeline.launch.runs import console, reason, run_job
from credits_pipeline.launch.storage_errors import HistoryLocked, in_sentences
from credits_pipeline.launch.ui import user_interface

__all__ = [
    "INSTANCE_SETTINGS",
    "JOBS",
    "PROCESS_TAG",
    "HistoryLocked",
    "console",
    "dagster_home",
    "end_dead_runs",
    "in_sentences",
    "is_ours",
    "open_instance",
    "reason",
    "run_job",
    "tag_with_process",
    "user_interface",
]
