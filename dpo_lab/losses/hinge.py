"""The hinge loss of the reward margin."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from dpo_lab.losses.base import LOSSES, Laws
from dpo_lab.losses.pairs import PairLoss


@LOSSES.register
@dataclass
class HingeLoss(PairLoss):
    """max(0, 1 - beta * gap). SLiC's loss on log-ratios as in RSO, Liu et al. 2023, arXiv:2309.06657.

    Pairs won by a reward margin of 1 count no more.
    """

    name: str = "hinge"

    laws: ClassVar[Laws] = Laws(
        shift_invariant=True,
        ratios_only=True,
        scaling=True,
        monotone=True,
        convex=True,
        rowwise=True,
        nonnegative=True,
    )

    def of_gap(self, gap: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
        return torch.relu(1 - self.beta * gap)
