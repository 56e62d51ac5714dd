"""Learning-rate schedules, one file each."""

from dpo_lab.training.schedules.base import SCHEDULES, ScheduleSpec

__all__ = ["SCHEDULES", "ScheduleSpec"]
