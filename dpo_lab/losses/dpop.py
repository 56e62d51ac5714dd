"""DPO-Positive: the chosen completion must not become less likely than it was."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from dpo_lab.losses import LOSSES, Laws, Pair, PairLoss


@LOSSES.register
@dataclass
class DPOPLoss(PairLoss):
    """-log sigmoid(beta * (diff - penalty * max(0, -logratio of chosen))). Pal et al. 2024, arXiv:2402.13228.

    When DPO lowers the likelihood of chosen completions, as it does where the two of a pair are nearly the same text.
    """

    name: str = "dpop"
    penalty: float = 50.0
    """What a nat that the chosen completion lost counts against a nat of the difference; the paper's lambda."""

    laws = Laws.of("ratios_only scaling monotone convex rowwise nonnegative")
    ranges: ClassVar = {"penalty": "[0, inf)"}
    unsupported: ClassVar = {
        "divergence": "it looks at the chosen reward by itself, where the divergence's normaliser does not cancel"
    }

    def per_sides(self, pair: Pair) -> Float[Tensor, "*s"]:
        lost = torch.relu(-pair.chosen.logratio)
        return -F.logsigmoid(self.beta * (pair.diff - self.penalty * lost))
