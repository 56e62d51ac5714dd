"""What a run leaves behind: its directory, the TensorBoard view of it, lines on the console, a picture.

`draw_run` lives in `dpo_lab.compare.figures.run`, so that a run that draws nothing does not import matplotlib.
"""

from dpo_lab.tracking.console import Console
from dpo_lab.tracking.run_directory import RunDirectory, Status, read_metrics, read_run, read_summary

__all__ = ["Console", "RunDirectory", "Status", "read_metrics", "read_run", "read_summary"]
