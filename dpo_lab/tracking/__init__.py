"""What a run leaves behind: its directory, TensorBoard's view of it, and the lines on the console."""

from dpo_lab.tracking.console import Console
from dpo_lab.tracking.reading import read_metrics, read_run, read_summary
from dpo_lab.tracking.run_directory import RunDirectory, RunStatus

__all__ = ["Console", "RunDirectory", "RunStatus", "read_metrics", "read_run", "read_summary"]
