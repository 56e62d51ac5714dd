"""Self-play preference optimisation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from dpo_lab.losses import LOSSES, Laws, Pair, PairLoss


@LOSSES.register
@dataclass
class SPPOLoss(PairLoss):
    """(chosen - 1 / (2 beta))^2 + (rejected + 1 / (2 beta))^2, of both log-ratios. Wu et al. 2024, arXiv:2405.00675, eq. 4.7.

    Regresses each log-ratio on its win rate; made for rounds of completions that the policy sampled. eta is 1 / beta there. Of
    pairs that are right with probability P the gradient is that of log-ratios regressed on (P - 1/2) / beta and its negative.
    The authors' runs have beta .001, targets of 500 nats.
    """

    name: str = "sppo"
    laws = Laws.of("ratios_only convex swap_linear rowwise nonnegative")
    beta_scales = False  # with any aggregate: its targets grow as beta falls
    unsupported: ClassVar = {
        "divergence": "it looks at each reward by itself, where the divergence's normaliser does not cancel",
        "margin": "it has a target for each reward and compares no two of them",
    }

    def per_sides(self, pair: Pair) -> Float[Tensor, "*s"]:
        target = 1 / (2 * self.beta)
        return (pair.chosen.logratio - target) ** 2 + (pair.rejected.logratio + target) ** 2
