"""DiscoPOP: a loss that a language model proposed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from dpo_lab.losses import LOSSES, Laws, PairLoss


@LOSSES.register
@dataclass
class DiscoPOPLoss(PairLoss):
    """(1 - m) (-log sigmoid(x)) + m e^(-x), x = beta * diff, m = sigmoid(x / tau). Lu et al. 2024, arXiv:2406.08414, eq. 5.

    Found by search: logistic for lost pairs, exponential for won ones; neither convex nor monotone where m passes from one to
    the other.
    """

    name: str = "discopop"
    tau: float = 0.05
    """Width of the passage in rewards, in (0, 1]."""

    # At a margin of 0 the mixture's gate turns faster than its parts fall: there it pushes the margin down.
    laws = Laws.of("shift_invariant ratios_only scaling rowwise nonnegative", raises_margin=False)
    ranges: ClassVar = {"tau": "(0, 1]: above 1 the exponential outgrows its gate on lost pairs"}

    def per_pair(self, diff: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
        x = self.beta * diff
        logistic = torch.sigmoid(-x / self.tau) * -F.logsigmoid(x)
        # m e^-x in one exponential: its factors alone are 0 and inf at x = -100.
        return logistic + torch.exp(F.logsigmoid(x / self.tau) - x)
