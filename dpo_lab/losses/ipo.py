"""Identity preference optimisation."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from dpo_lab.losses import LOSSES, Laws, PairLoss
from dpo_lab.records import Aggregate


@LOSSES.register
@dataclass
class IPOLoss(PairLoss):
    """(diff - 1 / (2 beta))^2. Azar et al. 2023, arXiv:2310.12036, eq. 17.

    Bounded: does not run away on pairs that are always won. Log-ratios are means per token by default, as the authors have
    confirmed their experiments to be.
    """

    name: str = "ipo"
    aggregate: Aggregate = Aggregate.mean
    laws = Laws.of("shift_invariant ratios_only convex swap_linear rowwise nonnegative")
    beta_scales = False  # its target 1 / (2 beta) is meant for means

    def per_pair(self, diff: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
        return (diff - 1 / (2 * self.beta)) ** 2
