"""Times of steps that take turns, so that other load on the machine affects all of them alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from statistics import median

import torch

from experiments.throughput.benchmark.base import Step


@dataclass
class Timed:
    """Times of one contender's steps, round by round."""

    seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)
    """Of all threads of the process."""

    @property
    def median(self) -> float:
        return median(self.seconds)

    def speedup_over(self, other: Timed) -> float:
        """How many times as fast as the other: the median of the rounds' ratios."""
        return median(others / own for own, others in zip(self.seconds, other.seconds, strict=True))


def in_turns(steps: Mapping[str, Step], repeats: int, device: torch.device, before: Callable[[str], None]) -> dict[str, Timed]:
    """`repeats` rounds of every step, after one to warm up; each round begins with another step.

    `before` is called with a step's name ahead of the step, and is not timed.
    """
    names = list(steps)
    timed = {name: Timed() for name in names}
    for turn in range(repeats + 1):
        at = turn % len(names)
        for name in names[at:] + names[:at]:
            before(name)
            synchronise(device)
            began, cpu_began = time.perf_counter(), time.process_time()
            steps[name]()
            synchronise(device)
            if turn:
                timed[name].seconds.append(time.perf_counter() - began)
                timed[name].cpu_seconds.append(time.process_time() - cpu_began)
    return timed


def synchronise(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
