"""Robust DPO: unbiased under labels that are flipped at a known rate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from dpo_lab.losses.base import LOSSES, Laws
from dpo_lab.losses.pairs import PairLoss


@LOSSES.register
@dataclass
class RobustLoss(PairLoss):
    """[(1 - e) L(x) - e L(-x)] / (1 - 2e), with L(x) = -log sigmoid(x) and x = beta * gap.

    Chowdhury et al. 2024, arXiv:2403.00409 (rDPO). Its mean over labels of which a share e is flipped is DPO's over the right
    ones. Unbounded below: at large x it falls like -e x / (1 - 2e).
    """

    name: str = "robust"
    epsilon: float = 0.1
    """Share of labels that are wrong, in [0, .5); at 0 it is DPO."""

    laws: ClassVar[Laws] = Laws(
        shift_invariant=True, ratios_only=True, scaling=True, monotone=True, convex=True, swap_linear=True, rowwise=True
    )
    refuses: ClassVar[Mapping[str, str]] = {"label_smoothing": "loss.epsilon is its probability that a label is wrong"}

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.epsilon < 0.5:
            raise ValueError(f"loss.epsilon must be in [0, 0.5), got {self.epsilon}")

    def of_gap(self, gap: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
        x = self.beta * gap
        # The formula, by log sigmoid(-x) = log sigmoid(x) - x: no difference of two large numbers.
        return -F.logsigmoid(x) - self.epsilon / (1 - 2 * self.epsilon) * x
