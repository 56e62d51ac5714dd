"""Anchored preference optimisation: where the likelihoods go, and not only how far apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from dpo_lab.losses import LOSSES, Laws, Pair, PairLoss

ONE_REWARD = "it looks at a reward by itself, where the divergence's normaliser does not cancel"


@LOSSES.register
@dataclass
class APOZeroLoss(PairLoss):
    """1 - sigmoid(chosen) + sigmoid(rejected), of the two rewards. D'Oosterlinck et al. 2024, arXiv:2408.06266, eq. 7.

    Raises the chosen completions and lowers the rejected: for chosen ones that are better than what the policy writes. The 1
    makes it nonnegative.
    """

    name: str = "apo_zero"
    laws = Laws.of("ratios_only scaling monotone rowwise nonnegative")
    unsupported: ClassVar = {"divergence": ONE_REWARD, "margin": "it compares no two rewards"}

    def per_sides(self, pair: Pair) -> Float[Tensor, "*s"]:
        return torch.sigmoid(-self.beta * pair.chosen.logratio) + torch.sigmoid(self.beta * pair.rejected.logratio)


@LOSSES.register
@dataclass
class APODownLoss(PairLoss):
    """sigmoid(chosen reward) + 1 - sigmoid(beta * diff). D'Oosterlinck et al. 2024, arXiv:2408.06266, eq. 8.

    Lowers both, the rejected further: for chosen completions that are worse than what the policy writes. The 1 makes it
    nonnegative.
    """

    name: str = "apo_down"
    laws = Laws.of("ratios_only scaling rowwise nonnegative")
    unsupported: ClassVar = {"divergence": ONE_REWARD}

    def per_sides(self, pair: Pair) -> Float[Tensor, "*s"]:
        return torch.sigmoid(self.beta * pair.chosen.logratio) + torch.sigmoid(-self.beta * pair.diff)
