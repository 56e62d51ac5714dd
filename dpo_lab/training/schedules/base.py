"""What a learning-rate schedule is: a warm-up, then a decay."""

from __future__ import annotations

from dataclasses import dataclass

from dpo_lab.registry import Registry


@dataclass
class ScheduleSpec:
    """A factor on the optimiser's learning rate: a linear warm-up over the first `warmup` share of the run, then `decay`."""

    name: str
    warmup: float = 0.0
    """Share of the run, in [0, 1)."""

    def __post_init__(self) -> None:
        if not 0 <= self.warmup < 1:
            raise ValueError(f"schedule.warmup is a share of the run, in [0, 1), got {self.warmup}")

    def factor(self, step: int, num_steps: int) -> float:
        """The factor for a step, counted from 0."""
        warmup_steps = self.warmup * num_steps
        if step + 1 < warmup_steps:
            return (step + 1) / warmup_steps
        return self.decay((step - warmup_steps) / max(num_steps - warmup_steps, 1))

    def decay(self, progress: float) -> float:
        """The factor after the given share, in [0, 1), of what follows the warm-up."""
        raise NotImplementedError


SCHEDULES: Registry[ScheduleSpec] = Registry("schedule", "dpo_lab.training.schedules")


@dataclass
class DecayingSchedule(ScheduleSpec):
    """A schedule that falls from 1 to `final`."""

    final: float = 0.0
    """Share of the learning rate, in [0, 1]."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.final <= 1:
            raise ValueError(f"schedule.final is a share of the learning rate, in [0, 1], got {self.final}")
