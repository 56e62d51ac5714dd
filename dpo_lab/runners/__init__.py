"""What a run does."""

from dpo_lab.runners import benchmark, evaluate, export, inspect, preference, sample, store
from dpo_lab.runners.base import RUNNERS, RunnerSpec

__all__ = ["RUNNERS", "RunnerSpec", "benchmark", "evaluate", "export", "inspect", "preference", "sample", "store"]
