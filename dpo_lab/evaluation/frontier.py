"""What reward is to be had at which distance from the reference, by samples of the reference alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

SMALLEST_EFFECTIVE_SAMPLE = 100
"""Samples that must carry a point of the ideal frontier: with fewer, its error is over a tenth of the spread of rewards."""


@dataclass
class FrontierPoint:
    """The mean reward of a policy at KL(policy || reference) nats."""

    kl: float
    reward: float


def ideal_frontier(rewards: Float[Tensor, "k b"], num_points: int = 60) -> list[FrontierPoint]:
    """Gain in mean reward over the reference of the best policy at each KL, for k reference samples of each of b prompts.

    The optimum of reward under a bound on KL is the reference tilted by exp(lambda * reward) (Rafailov et al. 2023, eq. 4).
    Its reward and its KL are averages over reference samples with self-normalised weights. The rewards are centred for each
    prompt and pooled: the assumption is that they are spread alike around each prompt's mean. (Each mean is over k samples
    only, so the spread is widened by sqrt(k / (k - 1)).) The curve ends where the weights rest on few samples.
    """
    k = rewards.shape[0]
    assert k > 1, "centring needs two samples of a prompt"
    centred = ((rewards - rewards.mean(dim=0)) * math.sqrt(k / (k - 1))).flatten().double()
    spread = float(centred.std())
    points = [FrontierPoint(0.0, 0.0)]
    if spread == 0:
        return points
    for tilt in torch.linspace(0, 6 / spread, num_points + 1)[1:].tolist():
        weights = (tilt * centred).softmax(dim=0)
        if 1 / float((weights**2).sum()) < SMALLEST_EFFECTIVE_SAMPLE:
            break
        kl = float(torch.xlogy(weights, weights * len(weights)).sum())
        points.append(FrontierPoint(kl, float((weights * centred).sum())))
    return points


def gain_at(frontier: Sequence[FrontierPoint], kl: float) -> float:
    """The frontier's gain at the given KL: between its points linearly, beyond its end as the square root of KL.

    The square root is the exact form for Gaussian rewards, sigma * sqrt(2 KL).
    """
    for low, high in pairwise(frontier):
        if low.kl <= kl <= high.kl:
            return low.reward + (kl - low.kl) / (high.kl - low.kl) * (high.reward - low.reward)
    end = frontier[-1]
    return end.reward * math.sqrt(max(kl, 0.0) / end.kl) if end.kl > 0 else 0.0


def best_of_n(proxy: Float[Tensor, "k b"], gold: Float[Tensor, "k b"], n: int) -> dict[str, float | int]:
    """Choosing by the proxy the best of n reference samples of each prompt, over every disjoint group of n.

    Its KL from the reference is log n - (n - 1) / n nats (Beirami et al. 2024, arXiv:2401.01879: an upper bound that is
    tight where ties are rare).
    """
    groups = proxy.shape[0] // n
    assert groups >= 1, (proxy.shape, n)
    chosen = proxy[: groups * n].unflatten(0, (groups, n)).argmax(dim=1, keepdim=True)
    best_proxy, best_gold = (t[: groups * n].unflatten(0, (groups, n)).gather(1, chosen) for t in (proxy, gold))
    return {
        "n": n,
        "kl": math.log(n) - (n - 1) / n,
        "proxy": float(best_proxy.mean()),
        "reward": float(best_gold.mean()),
        "positive": float((best_gold > 0).float().mean()),
    }
