"""The hinge loss of the reward margin."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from dpo_lab.losses import LOSSES, Laws, PairLoss


@LOSSES.register
@dataclass
class HingeLoss(PairLoss):
    """max(0, 1 - beta * diff). SLiC's loss on log-ratios as in RSO, Liu et al. 2023, arXiv:2309.06657.

    Stops pushing a pair once it is won by a reward margin of 1.
    """

    name: str = "hinge"
    laws = Laws.of("shift_invariant ratios_only scaling monotone convex rowwise nonnegative")

    def per_pair(self, diff: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
        return torch.relu(1 - self.beta * diff)
