"""Simple preference optimisation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from dpo_lab.losses import LOSSES, Laws, PairLoss
from dpo_lab.records import Aggregate


@LOSSES.register
@dataclass
class SimPOLoss(PairLoss):
    """-log sigmoid(beta * diff - gamma), diff of mean log-probabilities. Meng et al. 2024, arXiv:2405.14734, eq. 6.

    Sensitive to beta (2-10) and gamma_ratio; keep the learning rate low. gamma = beta * gamma_ratio, as in the authors' code,
    whose defaults these are; TRL's `simpo_gamma` is gamma itself. Where a label may be wrong, the other completion too would
    have to lead by gamma; the authors' label smoothing asks it for -gamma.
    """

    name: str = "simpo"
    beta: float = 2.0
    aggregate: Aggregate = Aggregate.mean
    gamma_ratio: float = 0.25
    """gamma / beta: how far the chosen log-probability has to lie above the rejected one, in nats (per token, for means)."""

    laws = Laws.of("shift_invariant monotone convex rowwise nonnegative")
    ranges: ClassVar = {"gamma_ratio": "[0, inf)"}
    needs_reference = False

    def per_pair(self, diff: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
        return -F.logsigmoid(self.beta * (diff - self.gamma_ratio))
