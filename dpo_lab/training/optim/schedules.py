"""Learning-rate schedules: a factor on the optimiser's own learning rate."""

from __future__ import annotations

import math
from dataclasses import dataclass

from dpo_lab.registry import Registry


@dataclass
class ScheduleSpec:
    """A linear warm-up over the first `warmup` share of the run, then `decay`."""

    name: str
    warmup: float = 0.0
    """Share of the run, in [0, 1)."""

    def __post_init__(self) -> None:
        if not 0 <= self.warmup < 1:
            raise ValueError(f"schedule.warmup is a share of the run, in [0, 1), got {self.warmup}")

    def factor(self, step: int, num_steps: int) -> float:
        """For the step that is about to be taken, counted from 0."""
        warmup_steps = self.warmup * num_steps
        if step + 1 < warmup_steps:
            return (step + 1) / warmup_steps
        return self.decay((step - warmup_steps) / max(num_steps - warmup_steps, 1))

    def decay(self, progress: float) -> float:
        """The factor after the given share, in [0, 1), of what follows the warm-up."""
        raise NotImplementedError


SCHEDULES: Registry[ScheduleSpec] = Registry("schedule", "dpo_lab.training.optim")


@SCHEDULES.register
@dataclass
class ConstantSchedule(ScheduleSpec):
    """No decay."""

    name: str = "constant"

    def decay(self, progress: float) -> float:
        return 1.0


@SCHEDULES.register
@dataclass
class LinearSchedule(ScheduleSpec):
    """A straight line to `final` times the learning rate."""

    name: str = "linear"
    final: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_final(self.final)

    def decay(self, progress: float) -> float:
        return 1 - (1 - self.final) * min(max(progress, 0.0), 1.0)


@SCHEDULES.register
@dataclass
class CosineSchedule(ScheduleSpec):
    """Half a cosine down to `final` times the learning rate. Loshchilov and Hutter 2017, arXiv:1608.03983."""

    name: str = "cosine"
    final: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_final(self.final)

    def decay(self, progress: float) -> float:
        return self.final + (1 - self.final) * (1 + math.cos(math.pi * min(max(progress, 0.0), 1.0))) / 2


def _check_final(final: float) -> None:
    if not 0 <= final <= 1:
        raise ValueError(f"schedule.final is a share of the learning rate, in [0, 1], got {final}")
