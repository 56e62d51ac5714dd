"""How a training ended."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Status(Enum):
    """How a training ended: at one of its limits, by a guard, or by a signal."""

    done = "done"
    diverged = "diverged"
    preempted = "preempted"


@dataclass
class TrainResult:
    """How a training ended, after how many steps, and why if that was before its last step."""

    status: Status
    steps: int
    reason: str = ""
    by_the_clock: bool = False
    """trainer.max_minutes ended it: on another machine it would have taken more or fewer steps."""
