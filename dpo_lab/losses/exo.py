"""Efficient exact optimisation, for pairs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from dpo_lab.losses import LOSSES, Laws, PairLoss


@LOSSES.register
@dataclass
class EXOLoss(PairLoss):
    """q log(q / (1 - e)) + (1 - q) log((1 - q) / e), q = sigmoid(beta * diff). Ji et al. 2024, arXiv:2402.00856, eq. 16.

    DPO's mode-seeking counterpart: the reverse KL divergence to a label that is right with probability 1 - e, where DPO has the
    forward one. Least, 0, where beta * diff is the log-odds of the label; fits the likeliest completions first.
    """

    name: str = "exo"
    epsilon: float = 1e-3
    """Probability that a label is wrong, in (0, .5)."""

    laws = Laws.of("shift_invariant ratios_only scaling rowwise nonnegative")
    ranges: ClassVar = {"epsilon": "(0, 0.5): at 0 the divergence from the label is infinite"}
    unsupported: ClassVar = {"label_smoothing": "loss.epsilon is its probability that a label is wrong"}

    def per_pair(self, diff: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
        x = self.beta * diff
        won = torch.sigmoid(x) * (F.logsigmoid(x) - math.log1p(-self.epsilon))
        lost = torch.sigmoid(-x) * (F.logsigmoid(-x) - math.log(self.epsilon))
        return won + lost
