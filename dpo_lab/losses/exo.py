"""Efficient exact optimisation, for pairs."""

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
from dpo_lab.losses.pairs import PairLoss


@LOSSES.register
@dataclass
class EXOLoss(PairLoss):
    """q log(q / (1 - e)) + (1 - q) log((1 - q) / e), with q = sigmoid(beta * gap). Ji et al. 2024, arXiv:2402.00856, eq. 16.

    The reverse KL divergence to a label that is right with probability 1 - e, where DPO has the forward one. Least, 0, where
    beta * gap is the log-odds of the label.
    """

    name: str = "exo"
    epsilon: float = 1e-3
    """Probability that a label is wrong, in (0, .5)."""

    laws: ClassVar[Laws] = Laws(shift_invariant=True, ratios_only=True, scaling=True, rowwise=True, nonnegative=True)
    refuses: ClassVar[Mapping[str, str]] = {"label_smoothing": "loss.epsilon is its probability that a label is wrong"}

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.epsilon < 0.5:
            why = ": the divergence from a label that is certain is infinite" if self.epsilon == 0 else ""
            raise ValueError(f"loss.epsilon must be in (0, 0.5), got {self.epsilon}{why}")

    def of_gap(self, gap: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
        x = self.beta * gap
        won = torch.sigmoid(x) * (F.logsigmoid(x) - math.log1p(-self.epsilon))
        lost = torch.sigmoid(-x) * (F.logsigmoid(-x) - math.log(self.epsilon))
        return won + lost
