"""Optimisers and learning-rate schedules."""

from dpo_lab.training.optim.optimizers import OPTIMIZERS, OptimizerSpec
from dpo_lab.training.optim.schedules import SCHEDULES, ScheduleSpec

__all__ = ["OPTIMIZERS", "SCHEDULES", "OptimizerSpec", "ScheduleSpec"]
