"""Listwise preference optimisation with lambda weights."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import reduce, repeat
from jaxtyping import Float
from torch import Tensor

from dpo_lab.losses import LOSSES, Laws, Pair, PairLoss
from dpo_lab.losses.base import NO_STATE, State
from dpo_lab.records import CandidateBatch, Logps, pairs_of


@LOSSES.register
@dataclass
class LiPOLambdaLoss(PairLoss):
    """sum over pairs of |G_i - G_j| |1 / D_i - 1 / D_j| * -log sigmoid(beta * diff). Liu et al. 2024, arXiv:2402.01878.

    For several candidates with scores, where the top of the list matters most: a pair counts what swapping the two would cost
    in discounted cumulative gain. Gains G = 2^psi - 1, psi the scores scaled to [0, 1] within the prompt, or without scores
    even steps from 1 for the first candidate to 0 for the last; so pairs of equal scores count nothing. Discounts D =
    log(1 + rank), the rank by the policy's current rewards (ties in the order given), a constant for the gradient. The order
    given says which of a pair is better, as for all losses, and scores only by how much. Of two candidates it is dpo times
    1 / log 2 - 1 / log 3 = .5325.
    """

    name: str = "lipo_lambda"
    laws = Laws.of("shift_invariant ratios_only scaling monotone swap_linear rowwise nonnegative")
    listwise = True

    def per_pair(self, diff: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
        return -F.logsigmoid(self.beta * diff)

    def pair_losses(self, pair: Pair, logps: Logps, batch: CandidateBatch) -> Float[Tensor, "q b"]:
        return self.lambdas(logps, batch) * super().pair_losses(pair, logps, batch)

    def over_pairs(self, losses: Float[Tensor, "q b"], pair: Pair, batch: CandidateBatch) -> Float[Tensor, " b"]:
        return reduce(losses, "q b -> b", "sum")

    def lambdas(self, logps: Logps, batch: CandidateBatch) -> Float[Tensor, "q b"]:
        """What each pair counts."""
        rewards = self.logratios(logps, batch).detach()
        first, second = pairs_of(batch.num_candidates, rewards.device)
        ranks = rewards.argsort(dim=0, descending=True, stable=True).argsort(dim=0) + 1
        discounts, gains = 1 / torch.log1p(ranks.to(rewards.dtype)), torch.exp2(psi_of(batch).to(rewards.dtype))
        return (gains[first] - gains[second]).abs() * (discounts[first] - discounts[second]).abs()

    def formula_at_reference(self, num_candidates: int) -> float | None:
        """Of two candidates; of more it depends on their scores."""
        return (1 / math.log(2) - 1 / math.log(3)) * math.log(2) if num_candidates == 2 else None

    def extra_metrics(self, logps: Logps, batch: CandidateBatch, state: State = NO_STATE) -> dict[str, Float[Tensor, ""]]:
        return super().extra_metrics(logps, batch) | {"lambdas": self.lambdas(logps, batch).mean()}


def psi_of(batch: CandidateBatch) -> Float[Tensor, "k b"]:
    """How good each candidate is, from 0 for the worst of its prompt to 1 for the best."""
    if batch.scores is None:
        places = torch.linspace(1, 0, batch.num_candidates, device=batch.confidence.device)
        return repeat(places, "k -> k b", b=len(batch))
    lowest, highest = batch.scores.amin(dim=0), batch.scores.amax(dim=0)
    return (batch.scores - lowest) / (highest - lowest).clamp(min=torch.finfo(batch.scores.dtype).tiny)
