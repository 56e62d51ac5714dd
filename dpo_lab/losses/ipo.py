"""Identity preference optimisation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from dpo_lab.losses.base import LOSSES, Laws
from dpo_lab.losses.pairs import PairLoss
from dpo_lab.records import Aggregate


@LOSSES.register
@dataclass
class IPOLoss(PairLoss):
    """(gap - 1 / (2 beta))^2. Azar et al. 2023, arXiv:2310.12036, eq. 17.

    Log-ratios are means per token by default, as the authors have confirmed their experiments to be.
    """

    name: str = "ipo"
    aggregate: Aggregate = Aggregate.mean

    laws: ClassVar[Laws] = Laws(
        shift_invariant=True, ratios_only=True, convex=True, swap_linear=True, rowwise=True, nonnegative=True
    )

    def of_gap(self, gap: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
        return (gap - 1 / (2 * self.beta)) ** 2

    def remarks(self) -> list[str]:
        return []  # its target 1 / (2 beta) is meant for means
