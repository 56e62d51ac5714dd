"""Anchored preference optimisation: where the likelihoods go, and not only how far apart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from dpo_lab.losses.base import LOSSES, Laws
from dpo_lab.losses.pairs import Pair, PairLoss

WHY = "it looks at a reward by itself, where the divergence's normaliser does not cancel"


@LOSSES.register
@dataclass
class APOZeroLoss(PairLoss):
    """1 - sigmoid(chosen) + sigmoid(rejected), of the two rewards. D'Oosterlinck et al. 2024, arXiv:2408.06266, eq. 7.

    Chosen up, rejected down: for chosen completions that are better than the policy's own. The 1 makes it nonnegative.
    """

    name: str = "apo_zero"

    laws: ClassVar[Laws] = Laws(ratios_only=True, scaling=True, monotone=True, rowwise=True, nonnegative=True)
    refuses: ClassVar[Mapping[str, str]] = {"divergence": WHY, "margin": "it compares no two rewards"}

    def of_pair(self, pair: Pair) -> Float[Tensor, "*s"]:
        return torch.sigmoid(-self.beta * pair.chosen.compared) + torch.sigmoid(self.beta * pair.rejected.compared)


@LOSSES.register
@dataclass
class APODownLoss(PairLoss):
    """sigmoid(chosen reward) + 1 - sigmoid(beta * gap). D'Oosterlinck et al. 2024, arXiv:2408.06266, eq. 8.

    Chosen down, rejected further down: for chosen completions that are worse than the policy's own. The 1 makes it nonnegative.
    """

    name: str = "apo_down"

    laws: ClassVar[Laws] = Laws(ratios_only=True, scaling=True, rowwise=True, nonnegative=True)
    refuses: ClassVar[Mapping[str, str]] = {"divergence": WHY}

    def of_pair(self, pair: Pair) -> Float[Tensor, "*s"]:
        return torch.sigmoid(self.beta * pair.chosen.compared) + torch.sigmoid(-self.beta * pair.gap)
