"""Odds ratio preference optimisation."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from dpo_lab.losses import LOSSES, Laws, PairLoss
from dpo_lab.records import Aggregate

CLOSEST_TO_CERTAIN = -(2.0**-24)
"""Log-probability of the last float32 below 1: what rounds to certainty has the odds of this, not infinite ones."""


@LOSSES.register
@dataclass
class ORPOLoss(PairLoss):
    """nll - beta * log sigmoid(log odds(chosen) - log odds(rejected)). Hong et al. 2024, arXiv:2403.07691, eqs. 6 and 7.

    One stage from a base model: imitation and a mild preference together. odds(p) = p / (1 - p), p = exp(mean log-probability
    per token). beta is the paper's lambda, under the name it has in TRL: what the odds ratio weighs beside the NLL. It does not
    sharpen the sigmoid. The rewards are the log odds times beta. The NLL is the completion's; TRL's takes in the prompt's
    tokens too, and averages over all tokens of a micro-batch.
    """

    name: str = "orpo"
    aggregate: Aggregate = Aggregate.mean
    nll: float = 1.0
    laws = Laws.of("monotone rowwise nonnegative")
    needs_reference = False
    beta_scales = False  # beta is no sharpness here, so it does not scale with the aggregate
    unsupported: ClassVar = {"aggregate": "its odds are those of the mean probability per token"}

    def per_candidate(self, logratios: Float[Tensor, "k b"]) -> Float[Tensor, "k b"]:
        return logratios - log1mexp(logratios)

    def per_pair(self, diff: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
        return -self.beta * F.logsigmoid(diff)


def log1mexp(x: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
    """log(1 - e^x) for x <= 0, to full precision; above -2^-24 its value there. Maechler 2012."""
    x = x.clamp(max=CLOSEST_TO_CERTAIN)
    near = x > -math.log(2)
    # Each branch sees only what it can take: the gradient of the one not chosen would be 0 * inf.
    of_near = torch.log(-torch.expm1(torch.where(near, x, -1.0)))
    of_far = torch.log1p(-torch.exp(torch.where(near, -1.0, x)))
    return torch.where(near, of_near, of_far)
