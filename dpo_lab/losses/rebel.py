"""REBEL: the difference of implicit rewards regressed on the difference of given ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from dpo_lab.losses.base import LOSSES, Laws
from dpo_lab.losses.pairs import Pair, PairLoss

SAID_BY_SCORES = {
    "label_smoothing": "the scores say which completion is better, and by how much, whatever their order",
    "margin": "the scores already say how large the gap should be",
}
"""What a loss refuses that follows the scores, and why."""


@LOSSES.register
@dataclass
class REBELLoss(PairLoss):
    """(beta * gap - (score of chosen - score of rejected))^2. Gao et al. 2024, arXiv:2404.16767.

    The paper's eta is 1 / beta. The authors' code has (gap - eta * difference of scores)^2, which is this times eta^2; eta 1 in
    most of their runs.
    """

    name: str = "rebel"
    beta: float = 1.0

    laws: ClassVar[Laws] = Laws(
        shift_invariant=True, ratios_only=True, scaling=True, convex=True, rowwise=True, nonnegative=True
    )
    needs_scores: ClassVar[bool] = True
    reads_confidence: ClassVar[bool] = False
    refuses: ClassVar[Mapping[str, str]] = SAID_BY_SCORES

    def of_pair(self, pair: Pair) -> Float[Tensor, "*s"]:
        return (self.beta * pair.gap - score_gap(pair)) ** 2

    def value_at_reference(self, num_candidates: int = 2) -> float | None:
        return None  # it depends on the scores


def score_gap(pair: Pair) -> Float[Tensor, "*s"]:
    assert pair.chosen.score is not None, "the batch has no scores"
    assert pair.rejected.score is not None, "the batch has no scores"
    return (pair.chosen.score - pair.rejected.score).to(pair.gap.dtype)
