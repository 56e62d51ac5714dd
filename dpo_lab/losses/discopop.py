"""DiscoPOP: a loss that a language model proposed."""

from __future__ import annotations

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
class DiscoPOPLoss(PairLoss):
    """(1 - m) (-log sigmoid(x)) + m e^(-x), with x = beta * gap and m = sigmoid(x / tau).

    Lu et al. 2024, arXiv:2406.08414, eq. 5. Logistic for lost pairs, exponential for won
    ones; neither convex nor monotone where m passes from one to the other.
    """

    name: str = "discopop"
    tau: float = 0.05
    """Width of the passage in rewards, in (0, 1]."""

    # At a margin of 0 the mixture's gate turns faster than its parts fall: there it pushes the margin down.
    laws: ClassVar[Laws] = Laws(
        shift_invariant=True, ratios_only=True, scaling=True, raises_margin=False, rowwise=True, nonnegative=True
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.tau <= 1:
            raise ValueError(
                f"loss.tau must be in (0, 1], got {self.tau}: above 1 the exponential outgrows its gate on lost pairs"
            )

    def of_gap(self, gap: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
        x = self.beta * gap
        logistic = torch.sigmoid(-x / self.tau) * -F.logsigmoid(x)
        # m e^-x in one exponential: its factors alone are 0 and inf at x = -100.
        return logistic + torch.exp(F.logsigmoid(x / self.tau) - x)
