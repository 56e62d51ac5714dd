"""The ideal frontier: the best reward reachable at each KL from the reference, estimated from reference samples alone."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

MIN_EFFECTIVE_SAMPLE = 200
"""Smallest effective sample size of a point of the frontier.

With 100 the frontier's last points were .6 % too low in simulations, and 95 % intervals of shares there held 89 to 91 %.
"""


@dataclass
class FrontierPoint:
    """The best policy at a KL(policy || reference) of `kl` nats: its gain in mean reward over the reference, and its tilt."""

    kl: float
    reward: float
    tilt: float = 0.0


@dataclass
class IdealFrontier:
    """Gain in mean reward over the reference of the best policy at each KL, estimated from reference samples of many prompts.

    The optimum of reward under a bound on KL is the reference tilted by exp(tilt * reward) (Rafailov et al. 2023, eq. 4).
    Its reward and its KL are averages over reference samples with self-normalised weights. The rewards are centred for each
    prompt and pooled: the assumption is that they are spread alike around each prompt's mean. Where prompts differ in their
    spread, the pooled frontier is too high, as if a policy could move between prompts. (Each mean is over the m samples of
    its prompt only, so the spread is widened by sqrt(m / (m - 1)).)
    """

    rewards: Float[Tensor, " n"]
    prompts: Int[Tensor, " n"]
    """Number of each sample's prompt; every prompt has at least two samples."""
    num_points: int = 60

    @cached_property
    def centred(self) -> Float[Tensor, " n"]:
        _, place, counts = self.prompts.unique(return_inverse=True, return_counts=True)
        assert int(counts.min()) > 1, "centring needs two samples of a prompt"
        sums = torch.zeros(len(counts), dtype=torch.float64).index_add_(0, place, self.rewards.double())
        return (self.rewards.double() - (sums / counts)[place]) * (counts / (counts - 1)).double().sqrt()[place]

    @cached_property
    def points(self) -> list[FrontierPoint]:
        """From the reference on, up to where the weights rest on few samples."""
        points = [FrontierPoint(0.0, 0.0)]
        spread = float(self.centred.std())
        if spread == 0:
            return points
        for tilt in torch.linspace(0, 6 / spread, self.num_points + 1)[1:].tolist():
            weights = self.weights(tilt)
            if 1 / float((weights**2).sum()) < MIN_EFFECTIVE_SAMPLE:
                break
            points.append(self._point(tilt, weights))
        return points

    def weights(self, tilt: float) -> Float[Tensor, " n"]:
        return (tilt * self.centred).softmax(dim=0)

    def tilted(self, tilt: float) -> FrontierPoint:
        return self._point(tilt, self.weights(tilt))

    def _point(self, tilt: float, weights: Float[Tensor, " n"]) -> FrontierPoint:
        kl = float(torch.xlogy(weights, weights * len(weights)).sum())
        return FrontierPoint(kl, float((weights * self.centred).sum()), tilt)

    def without_each(self, tilt: float) -> Float[Tensor, " g"]:
        """By how much log E[exp(tilt * reward)] falls when one prompt is left out, for each of g prompts in turn."""
        names, place, counts = self.prompts.unique(return_inverse=True, return_counts=True)
        weight = torch.zeros(len(names), dtype=torch.float64).index_add_(0, place, self.weights(tilt))
        return torch.log1p(-counts / len(place)) - torch.log1p(-weight)

    def at(self, kl: float) -> FrontierPoint:
        """The frontier at the given KL; beyond its last point, that point's gain grown as the square root of KL.

        The square root is the exact form for Gaussian rewards, sigma * sqrt(2 KL). The tilt is then that of the last point.
        """
        end = self.points[-1]
        if kl <= 0 or end.kl <= 0:
            return FrontierPoint(kl, 0.0)
        if kl > end.kl:
            return FrontierPoint(kl, end.reward * math.sqrt(kl / end.kl), end.tilt)
        low, high = 0.0, end.tilt
        for _ in range(40):  # KL grows with the tilt
            middle = (low + high) / 2
            low, high = (low, middle) if self.tilted(middle).kl > kl else (middle, high)
        return self.tilted(high)
