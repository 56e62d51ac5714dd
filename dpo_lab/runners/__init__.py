"""What a run does."""

from dpo_lab.runners import evaluate, preference, sample
from dpo_lab.runners.base import RUNNERS, RunnerSpec

__all__ = ["RUNNERS", "RunnerSpec", "evaluate", "preference", "sample"]
