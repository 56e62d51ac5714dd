"""The cosine schedule."""

from __future__ import annotations

import math
from dataclasses import dataclass

from dpo_lab.training.schedules.base import SCHEDULES, DecayingSchedule


@SCHEDULES.register
@dataclass
class CosineSchedule(DecayingSchedule):
    """Half a cosine down to `final` times the learning rate. Loshchilov and Hutter 2017, arXiv:1608.03983."""

    name: str = "cosine"

    def decay(self, progress: float) -> float:
        return self.final + (1 - self.final) * (1 + math.cos(math.pi * min(max(progress, 0.0), 1.0))) / 2
