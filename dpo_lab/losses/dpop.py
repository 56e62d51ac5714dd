"""DPO-Positive: the chosen completion must not become less likely than it was."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from dpo_lab.losses.base import LOSSES, Laws
from dpo_lab.losses.pairs import Pair, PairLoss


@LOSSES.register
@dataclass
class DPOPLoss(PairLoss):
    """-log sigmoid(beta * (gap - penalty * max(0, -logratio of chosen))). Pal et al. 2024, arXiv:2402.13228."""

    name: str = "dpop"
    penalty: float = 50.0
    """What a nat that the chosen completion lost counts against a nat of the gap; the paper's lambda."""

    laws: ClassVar[Laws] = Laws(ratios_only=True, scaling=True, monotone=True, convex=True, rowwise=True, nonnegative=True)
    refuses: ClassVar[Mapping[str, str]] = {
        "divergence": "it looks at the chosen reward by itself, where the divergence's normaliser does not cancel"
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.penalty < math.inf:
            raise ValueError(f"loss.penalty must be >= 0 and finite, got {self.penalty}")

    def of_pair(self, pair: Pair) -> Float[Tensor, "*s"]:
        lost = torch.relu(-pair.chosen.compared)
        return -F.logsigmoid(self.beta * (pair.gap - self.penalty * lost))
