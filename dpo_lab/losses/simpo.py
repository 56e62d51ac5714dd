"""Simple preference optimisation."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from dpo_lab.losses.base import LOSSES, Laws
from dpo_lab.losses.pairs import PairLoss
from dpo_lab.records import Aggregate


@LOSSES.register
@dataclass
class SimPOLoss(PairLoss):
    """-log sigmoid(beta * gap - gamma), gap of mean log-probabilities. Meng et al. 2024, arXiv:2405.14734, eq. 6.

    gamma = beta * gamma_ratio, as in the authors' code, whose defaults these are; TRL's `simpo_gamma` is gamma itself. Where a
    label may be wrong, the other completion too would have to lead by gamma; the authors' label smoothing asks it for -gamma.
    """

    name: str = "simpo"
    beta: float = 2.0
    aggregate: Aggregate = Aggregate.mean
    gamma_ratio: float = 0.25
    """gamma / beta: how far the chosen log-probability has to lie above the rejected one, in nats (per token, for means)."""

    laws: ClassVar[Laws] = Laws(shift_invariant=True, monotone=True, convex=True, rowwise=True, nonnegative=True)
    needs_reference: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.gamma_ratio < math.inf:
            raise ValueError(f"loss.gamma_ratio must be >= 0 and finite, got {self.gamma_ratio}")

    def of_gap(self, gap: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
        return -F.logsigmoid(self.beta * (gap - self.gamma_ratio))
