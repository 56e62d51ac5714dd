"""The Plackett-Luce model of a ranking."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from dpo_lab.losses import LOSSES, Laws, PreferenceLoss
from dpo_lab.losses.base import State
from dpo_lab.records import CandidateBatch, Logps


@LOSSES.register
@dataclass
class PlackettLuceLoss(PreferenceLoss):
    """-sum_j [r_j - logsumexp_{i >= j} r_i], r the rewards beta * log-ratio of a prompt's candidates, best first.
    Rafailov et al. 2023, arXiv:2305.18290, appendix A.3.

    -log of the probability of their order, which is taken as certain. Of two candidates it is dpo.
    """

    name: str = "plackett_luce"
    laws = Laws.of("shift_invariant ratios_only scaling monotone convex swap_linear rowwise nonnegative")
    listwise = True
    reads_confidence = False
    unsupported: ClassVar = {
        "label_smoothing": "a wrong label of a pair says nothing on which other order of the list is right",
        "weighting": "wpo weighs pairs, and a ranking is one term",
        "margin": "a margin lies between two completions, and a ranking is one term",
    }

    def values(self, logps: Logps, batch: CandidateBatch, state: State) -> Float[Tensor, " b"]:
        rewards = self.rewards(logps, batch)
        # Each reward is subtracted before the logsumexp: after it, rewards of some thousands would cancel in float32.
        places = [torch.logsumexp(rewards[j:] - rewards[j], dim=0) for j in range(len(rewards) - 1)]
        return torch.stack(places).sum(dim=0)

    def formula_at_reference(self, num_candidates: int) -> float:
        return math.lgamma(num_candidates + 1)
