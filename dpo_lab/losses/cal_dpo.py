"""Calibrated DPO: rewards that are right in size, not only in order."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from dpo_lab.losses.base import LOSSES, Laws
from dpo_lab.losses.pairs import Pair, PairLoss


@LOSSES.register
@dataclass
class CalDPOLoss(PairLoss):
    """-log sigmoid(gap) + calibration * [(chosen - 1 / (2 beta))^2 + (rejected + 1 / (2 beta))^2], of the two log-ratios.

    Xiao et al. 2024, arXiv:2412.14516. The sigmoid has no beta in the authors' code either; there the squares count half,
    which is calibration=.5. It calibrates the rewards, beta * log-ratio, to 1/2 and -1/2.
    """

    name: str = "cal_dpo"
    calibration: float = 1.0
    """What the squares count."""

    laws: ClassVar[Laws] = Laws(ratios_only=True, convex=True, swap_linear=True, rowwise=True, nonnegative=True)
    refuses: ClassVar[Mapping[str, str]] = {
        "divergence": "it looks at each reward by itself, where the divergence's normaliser does not cancel",
        "margin": "its target for each reward already says how far apart they belong",
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.calibration < math.inf:
            raise ValueError(f"loss.calibration must be >= 0 and finite, got {self.calibration}")

    def of_pair(self, pair: Pair) -> Float[Tensor, "*s"]:
        target = 1 / (2 * self.beta)
        squares = (pair.chosen.compared - target) ** 2 + (pair.rejected.compared + target) ** 2
        return -F.logsigmoid(pair.gap) + self.calibration * squares

    def remarks(self) -> list[str]:
        return []  # with any aggregate: its targets grow as beta falls
