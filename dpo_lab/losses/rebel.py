"""REBEL: the difference of implicit rewards regressed on the difference of given ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from dpo_lab.losses import LOSSES, Laws, Pair, PairLoss

LABELLED_BY_SCORES = {
    "label_smoothing": "the scores say which completion is better, and by how much, whatever their order",
    "margin": "the scores already say how large the difference should be",
}
"""Options that a loss of scores does not take, and why."""


@LOSSES.register
@dataclass
class REBELLoss(PairLoss):
    """(beta * diff - (score of chosen - score of rejected))^2. Gao et al. 2024, arXiv:2404.16767.

    With scores that mean something in size. The paper's eta is 1 / beta. The authors' code has (diff - eta * difference of
    scores)^2, which is this times eta^2; eta 1 in most of their runs.
    """

    name: str = "rebel"
    beta: float = 1.0
    laws = Laws.of("shift_invariant ratios_only scaling convex rowwise nonnegative")
    needs_scores = True
    reads_confidence = False
    unsupported: ClassVar = LABELLED_BY_SCORES

    def per_sides(self, pair: Pair) -> Float[Tensor, "*s"]:
        return (self.beta * pair.diff - score_difference(pair)) ** 2

    def formula_at_reference(self, num_candidates: int) -> float | None:
        return None  # it depends on the scores


def score_difference(pair: Pair) -> Float[Tensor, "*s"]:
    assert pair.chosen.score is not None, "the batch has no scores"
    assert pair.rejected.score is not None, "the batch has no scores"
    return (pair.chosen.score - pair.rejected.score).to(pair.diff.dtype)
