"""How training ended."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Status(Enum):
    """How training ended."""

    done = "done"
    diverged = "diverged"
    preempted = "preempted"


@dataclass
class Outcome:
    """How training ended, after how many steps, and why if not at its limit."""

    status: Status
    steps: int
    reason: str = ""
    by_the_clock: bool = False
    """Another machine would have come further, or not so far."""
