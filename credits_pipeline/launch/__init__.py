"""How our Dagster is run: its instance and history, a job from a shell, the UI."""

from credits_pipeline.launch.instance import HistoryLocked, in_sentences, open_instance, tag_with_process
from credits_pipeline.launch.runs import console, run_job
from credits_pipeline.launch.ui import user_interface

__all__ = ["HistoryLocked", "console", "in_sentences", "open_instance", "run_job", "tag_with_process", "user_interface"]
