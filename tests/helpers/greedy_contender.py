"""A contender whose memory is known, registered where the benchmark's own processes find it."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from experiments.throughput.benchmark import CONTENDERS, Contender, Setting, Step

MEGABYTES = 64


@CONTENDERS.register
@dataclass
class Greedy(Contender):
    """Holds two tensors at once and keeps neither."""

    name: str = "greedy"

    def prepare(self, setting: Setting) -> Step:
        def step() -> None:
            half = MEGABYTES * 1_000_000 // 8 if len(setting.batch) > 2 else 1
            _ = torch.ones(half), torch.ones(half)

        return step
