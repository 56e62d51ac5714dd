"""Self-play preference optimisation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from dpo_lab.losses.base import LOSSES, Laws
from dpo_lab.losses.pairs import Pair, PairLoss


@LOSSES.register
@dataclass
class SPPOLoss(PairLoss):
    """(chosen - 1 / (2 beta))^2 + (rejected + 1 / (2 beta))^2, of the two log-ratios.

    Wu et al. 2024, arXiv:2405.00675, eq. 4.7, where eta is 1 / beta. Of pairs that are right with probability P the gradient
    is that of log-ratios regressed on (P - 1/2) / beta and its negative. The authors' runs have beta .001, targets of 500 nats.
    """

    name: str = "sppo"

    laws: ClassVar[Laws] = Laws(ratios_only=True, convex=True, swap_linear=True, rowwise=True, nonnegative=True)
    refuses: ClassVar[Mapping[str, str]] = {
        "divergence": "it looks at each reward by itself, where the divergence's normaliser does not cancel",
        "margin": "it has a target for each reward and compares no two of them",
    }

    def of_pair(self, pair: Pair) -> Float[Tensor, "*s"]:
        target = 1 / (2 * self.beta)
        return (pair.chosen.compared - target) ** 2 + (pair.rejected.compared + target) ** 2

    def remarks(self) -> list[str]:
        return []  # with any aggregate: its targets grow as beta falls
