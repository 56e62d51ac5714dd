"""Best-of-n: the reward of choosing the best of n reference samples, and its KL from the reference."""

from __future__ import annotations

import math
from functools import cache

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dpo_lab.evaluation.errors import mean_error, with_errors

MAX_BIAS = 0.01
"""Largest bias of a KL estimate in nats, in the worst case; with too few samples for that, the bound is given instead."""
MAX_SAMPLES = 32
"""Samples of a prompt that a KL estimate uses: its table grows with their square."""


def best_of_n(
    proxy: Float[Tensor, "k b"], gold: Float[Tensor, "k b"], n: int, clusters: Int[Tensor, " b"]
) -> dict[str, float | int]:
    """Mean rewards of the best of n reference samples by the proxy, over every disjoint group of n samples of each prompt.

    `kl_bound` is log n - (n - 1) / n nats, an upper bound on the KL from the reference, and exact where scores never tie
    (Beirami et al. 2024, arXiv:2401.01879). `kl` is an estimate that counts ties, with its standard error; where a prompt has
    too few samples for one, it is the bound, without an error.
    """
    groups = proxy.shape[0] // n
    assert groups >= 1, (proxy.shape, n)
    chosen = proxy[: groups * n].unflatten(0, (groups, n)).argmax(dim=1, keepdim=True)
    best_proxy, best_gold = (t[: groups * n].unflatten(0, (groups, n)).gather(1, chosen)[:, 0] for t in (proxy, gold))
    estimates = best_of_n_kl(proxy, n)
    rewards = {"proxy": best_proxy, "reward": best_gold, "positive": (best_gold > 0).float()}
    means = {"kl": kl_bound(n) if estimates is None else min(kl_bound(n), float(estimates.mean()))}
    means |= {name: float(values.mean()) for name, values in rewards.items()}
    errors = {name: mean_error(values, clusters) for name, values in rewards.items()}
    errors["kl"] = None if estimates is None else mean_error(estimates, clusters)
    return {"n": n, "kl_bound": kl_bound(n), **with_errors(means, errors)}


def kl_bound(n: int) -> float:
    return math.log(n) - (n - 1) / n


def best_of_n_kl(scores: Float[Tensor, "k b"], n: int) -> Float[Tensor, " b"] | None:
    """An estimate of KL(best of n || reference) in nats for each prompt, from k of its samples; None where k is too few.

    The reference's samples with one score make a level; among equals chance decides, so that best-of-n has the reference's
    own distribution within a level and the KL is one between levels. With a share a of the samples below the level and b up
    to it, a level takes `tie_deficit(a, b)` from the bound. For each prompt and level this counts samples below and within,
    and adds up what `_table` has for these counts: in the mean all deficits to within MAX_BIAS, for any distribution.
    """
    scores = scores[:MAX_SAMPLES]
    k = scores.shape[0]
    if n > k:
        return None
    table, bias = _table(n, k)
    if bias > MAX_BIAS:
        return None
    below = (scores[None] < scores[:, None]).sum(dim=1)
    within = (scores[None] == scores[:, None]).sum(dim=1)
    # Each level is met once for each of its samples.
    return kl_bound(n) - (table[below, within] / within).sum(dim=0)


def tie_deficit(a: Float[Tensor, " s"], b: Float[Tensor, " s"], n: int) -> Float[Tensor, " s"]:
    """P(the best is within the level) * KL(its rank there || uniform), where a share a lies below and b - a within, a < b.

    Ranks of continuous scores have the density n u^(n - 1) and the KL of the bound; a level forgets the order within itself.
    """

    def integral(u: Tensor) -> Tensor:  # of n u^(n - 1) log(n u^(n - 1))
        return u**n * math.log(n) + (n - 1) * (torch.xlogy(u**n, u) - u**n / n)

    chance = b**n - a**n
    return integral(b) - integral(a) + torch.xlogy(chance, (b - a) / chance)


@cache
def _table(n: int, k: int) -> tuple[Float[Tensor, "_ _"], float]:
    """[samples below, samples within] of k: what they say of the deficit; and the largest error of its mean, over all levels.

    The mean of a table over samples is a polynomial of degree k in (a, b). This one is the least-squares fit to the deficit
    per unit of b - a (which sum to 1 over the levels), a little damped. One sample alone says nothing: without ties the KL is
    the bound.
    """
    grid = torch.linspace(0, 1, 41, dtype=torch.float64)
    a, b = torch.meshgrid(grid, grid, indexing="ij")
    a, b = a[b > a], b[b > a]
    cells = [(below, within) for within in range(2, k + 1) for below in range(k - within + 1)]
    chances = []  # of so many samples below and within, per unit of b - a
    for below, within in cells:
        ways = math.comb(k, within) * math.comb(k - within, below)
        chances.append(ways * a**below * (b - a) ** (within - 1) * (1 - b) ** (k - within - below))
    design, target = torch.stack(chances, dim=1), tie_deficit(a, b, n) / (b - a)
    damping = 0.01 * torch.eye(len(cells), dtype=torch.float64)
    solved = torch.linalg.lstsq(torch.cat((design, damping)), torch.cat((target, torch.zeros(len(cells)))).double()[:, None])
    table = torch.zeros(k + 1, k + 1, dtype=torch.float64)
    for (below, within), value in zip(cells, solved.solution[:, 0].tolist(), strict=True):
        table[below, within] = round(value, 6)  # the solver's last bits change from call to call
    return table, float((design @ solved.solution[:, 0] - target).abs().max())
