"""Reward-aware preference optimisation: the policy prefers a completion as firmly as the scores do."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from dpo_lab.losses import LOSSES, Laws, Pair, PairLoss
from dpo_lab.losses.rebel import LABELLED_BY_SCORES, score_difference


class Distance(Enum):
    """Of the policy's preference q from the scores' preference p: the authors' names.

    backward KL(p || q), forward KL(q || p) (many call these two the other way round), squared difference of the log-odds.
    """

    backward = "backward"
    forward = "forward"
    squared = "squared"


@LOSSES.register
@dataclass
class RewardKLLoss(PairLoss):
    """D(sigmoid(beta * diff), sigmoid(eta * (score of chosen - score of rejected))). NVIDIA 2024, arXiv:2406.11704 (RPO).

    With scores, when near ties should stay near ties. Least, 0, where beta * diff is eta times the difference of the scores: no
    reason to push a pair further apart than it is.
    """

    name: str = "reward_kl"
    eta: float = 1.0
    """Log-odds of the preference for one unit of score."""
    distance: Distance = Distance.backward
    """How the two preferences are compared: KL in either direction, or the squared difference of their log-odds."""

    laws = Laws.of("shift_invariant ratios_only scaling convex rowwise nonnegative")
    ranges: ClassVar = {"eta": "(0, inf)"}
    needs_scores = True
    reads_confidence = False
    unsupported: ClassVar = LABELLED_BY_SCORES

    def per_sides(self, pair: Pair) -> Float[Tensor, "*s"]:
        implicit, given = self.beta * pair.diff, self.eta * score_difference(pair)
        if self.distance is Distance.squared:
            return (implicit - given) ** 2
        if self.distance is Distance.forward:
            return kl_of_coins(implicit, given)
        return kl_of_coins(given, implicit)

    def formula_at_reference(self, num_candidates: int) -> float | None:
        return None  # it depends on the scores


def kl_of_coins(p: Float[Tensor, "*s"], q: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
    """KL divergence of a coin with log-odds p from one with log-odds q, in nats."""
    heads = torch.sigmoid(p) * (F.logsigmoid(p) - F.logsigmoid(q))
    tails = torch.sigmoid(-p) * (F.logsigmoid(-p) - F.logsigmoid(-q))
    return heads + tails
