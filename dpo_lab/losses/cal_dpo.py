"""Calibrated DPO: rewards that are right in size, not only in order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from dpo_lab.losses import LOSSES, Laws, Pair, PairLoss


@LOSSES.register
@dataclass
class CalDPOLoss(PairLoss):
    """-log sigmoid(diff) + calibration * [(chosen - 1 / (2 beta))^2 + (rejected + 1 / (2 beta))^2], of the two log-ratios.
    Xiao et al. 2024, arXiv:2412.14516.

    When the size of the implicit rewards matters, not only their order: it calibrates beta * log-ratio to 1/2 and -1/2. The
    sigmoid has no beta in the authors' code either; there the squares count half, which is calibration=.5.
    """

    name: str = "cal_dpo"
    calibration: float = 1.0
    """Weight of the squares."""

    laws = Laws.of("ratios_only convex swap_linear rowwise nonnegative")
    ranges: ClassVar = {"calibration": "[0, inf)"}
    beta_scales = False  # with any aggregate: its targets grow as beta falls
    unsupported: ClassVar = {
        "divergence": "it looks at each reward by itself, where the divergence's normaliser does not cancel",
        "margin": "its target for each reward already says how far apart they belong",
    }

    def per_sides(self, pair: Pair) -> Float[Tensor, "*s"]:
        target = 1 / (2 * self.beta)
        squares = (pair.chosen.logratio - target) ** 2 + (pair.rejected.logratio + target) ** 2
        return -F.logsigmoid(pair.diff) + self.calibration * squares
