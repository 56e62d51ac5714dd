"""The linear schedule."""

from __future__ import annotations

from dataclasses import dataclass

from dpo_lab.training.schedules.base import SCHEDULES, DecayingSchedule


@SCHEDULES.register
@dataclass
class LinearSchedule(DecayingSchedule):
    """A straight line to `final` times the learning rate."""

    name: str = "linear"

    def decay(self, progress: float) -> float:
        return 1 - (1 - self.final) * min(max(progress, 0.0), 1.0)
