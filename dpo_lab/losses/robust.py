"""Robust DPO: unbiased under labels that are flipped at a known rate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from dpo_lab.losses import LOSSES, Laws, PairLoss


@LOSSES.register
@dataclass
class RobustLoss(PairLoss):
    """[(1 - e) L(x) - e L(-x)] / (1 - 2e), L(x) = -log sigmoid(x), x = beta * diff. Chowdhury et al. 2024, arXiv:2403.00409.

    Called rDPO. For labels of which a known share e is flipped: its mean over these is DPO's over the right ones. Unbounded
    below (at large x it falls like -e x / (1 - 2e)): watch the margins.
    """

    name: str = "robust"
    epsilon: float = 0.1
    """Share of labels that are wrong, in [0, .5); at 0 it is DPO."""

    laws = Laws.of("shift_invariant ratios_only scaling monotone convex swap_linear rowwise")
    ranges: ClassVar = {"epsilon": "[0, 0.5)"}
    unsupported: ClassVar = {"label_smoothing": "loss.epsilon is its probability that a label is wrong"}

    def per_pair(self, diff: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
        x = self.beta * diff
        # The formula, by log sigmoid(-x) = log sigmoid(x) - x: no difference of two large numbers.
        return -F.logsigmoid(x) - self.epsilon / (1 - 2 * self.epsilon) * x
