"""The constant schedule."""

from __future__ import annotations

from dataclasses import dataclass

from dpo_lab.training.schedules.base import SCHEDULES, ScheduleSpec


@SCHEDULES.register
@dataclass
class ConstantSchedule(ScheduleSpec):
    """No decay."""

    name: str = "constant"

    def decay(self, progress: float) -> float:
        return 1.0
