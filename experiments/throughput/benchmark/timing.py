"""Seconds of steps that take turns, so that whatever else the machine does meets all of them alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from statistics import median

import torch

from experiments.throughput.benchmark.base import Step


@dataclass
class Timed:
    """What one contender's steps took, round by round."""

    seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)
    """Of all threads of the process."""

    @property
    def median(self) -> float:
        return median(self.seconds)

    def speedup_over(self, other: Timed) -> float:
        """How often this one is done in the time of the other: the median of the rounds' ratios."""
        return median(theirs / ours for ours, theirs in zip(self.seconds, other.seconds, strict=True))


def in_turns(steps: Mapping[str, Step], repeats: int, device: torch.device, before: Callable[[str], None]) -> dict[str, Timed]:
    """`repeats` rounds of every step, after one that does not count; each round begins with another one.

    `before` is called with a step's name ahead of it, and is not timed.
    """
    names = list(steps)
    found = {name: Timed() for name in names}
    for turn in range(repeats + 1):
        at = turn % len(names)
        for name in names[at:] + names[:at]:
            before(name)
            synchronise(device)
            began, cpu_began = time.perf_counter(), time.process_time()
            steps[name]()
            synchronise(device)
            if turn:
                found[name].seconds.append(time.perf_counter() - began)
                found[name].cpu_seconds.append(time.process_time() - cpu_began)
    return found


def synchronise(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
