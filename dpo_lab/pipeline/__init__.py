"""The pipeline: what a run does, stage by stage, from settings to a report."""

from dpo_lab.pipeline.base import RUNNERS, RunnerSpec

__all__ = ["RUNNERS", "RunnerSpec"]
