"""Best-of-n: what loops choose, and its KL by exact enumeration of distributions whose rewards tie."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dpo_lab.evaluation.best_of_n import MAX_BIAS, _table, best_of_n, best_of_n_kl, kl_bound


def drawn(k: int, b: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(k, b, generator=torch.Generator().manual_seed(seed))


@given(seed=st.integers(0, 9), n=st.integers(1, 4), k=st.integers(4, 9), b=st.integers(1, 3))
def test_best_of_n_is_what_loops_choose(seed: int, n: int, k: int, b: int) -> None:
    proxy, gold = drawn(k, b, seed), drawn(k, b, seed + 100)
    best = []
    for prompt in range(b):
        for first in range(0, k - n + 1, n):
            best.append(max(range(first, first + n), key=lambda i, prompt=prompt: float(proxy[i, prompt])) * b + prompt)
    found = best_of_n(proxy, gold, n, torch.arange(b))
    chosen = gold.flatten()[best]
    assert found["n"] == n
    assert found["proxy"] == pytest.approx(float(proxy.flatten()[best].mean()), abs=1e-6)
    assert found["reward"] == pytest.approx(float(chosen.mean()), abs=1e-6)
    assert found["positive"] == pytest.approx(float((chosen > 0).float().mean()))


@pytest.mark.parametrize("n", [1, 2, 4, 8])
def test_the_kl_of_best_of_n_is_that_of_the_largest_of_n_uniform_numbers(n: int) -> None:
    # Density n u^(n-1): its KL from the uniform by the midpoint rule.
    u = [(i + 0.5) / 20_000 for i in range(20_000)]
    kl = sum(n * x ** (n - 1) * math.log(n * x ** (n - 1)) for x in u) / len(u)
    found = best_of_n(drawn(8, 2), drawn(8, 2), n, torch.arange(2))
    assert found["kl"] == pytest.approx(kl, abs=1e-4)
    assert found["kl_bound"] == pytest.approx(kl, abs=1e-4)


def enumerated(shares: list[float], n: int) -> float:
    """KL(best of n || reference), the reference choosing level i (the higher, the better) with probability shares[i]."""
    best = [0.0] * len(shares)
    for draws in itertools.product(range(len(shares)), repeat=n):
        best[max(draws)] += math.prod(shares[i] for i in draws)
    return sum(p * math.log(p / q) for p, q in zip(best, shares, strict=True) if p > 0)


LEVELS = [[0.5, 0.5], [0.9, 0.1], [0.1, 0.9], [0.2, 0.3, 0.5], [0.05] * 10 + [0.5], [1.0]]


@pytest.mark.parametrize("n", [2, 3, 4])
@pytest.mark.parametrize("shares", LEVELS, ids=str)
def test_where_scores_tie_the_kl_is_that_of_an_enumeration(shares: list[float], n: int) -> None:
    levels = torch.distributions.Categorical(torch.tensor(shares))
    torch.manual_seed(0)
    scores = levels.sample((8, 40_000)).float()
    estimates = best_of_n_kl(scores, n)
    assert estimates is not None
    noise = 4 * float(estimates.std()) / math.sqrt(40_000)
    assert float(estimates.mean()) == pytest.approx(enumerated(shares, n), abs=noise + 0.0015)  # the table's largest bias
    assert enumerated(shares, n) < kl_bound(n)


def test_an_estimate_has_an_error_and_a_bound_has_none() -> None:
    scores = (drawn(8, 300) > 0).float()
    estimated = best_of_n(scores, scores, 4, torch.arange(300))
    assert estimated["kl"] < 0.8 * estimated["kl_bound"]
    assert estimated["kl_se"] == pytest.approx(float(best_of_n_kl(scores, 4).std()) / math.sqrt(300))  # type: ignore[union-attr]
    too_few = best_of_n(scores[:2], scores[:2], 2, torch.arange(300))  # two samples cannot tell how wide a level is
    assert "kl_se" not in too_few
    assert too_few["kl"] == too_few["kl_bound"] == kl_bound(2)


@pytest.mark.parametrize(("n", "k"), [(2, 8), (4, 8), (8, 8), (2, 4), (4, 4), (16, 16), (32, 32)])
def test_usual_sizes_can_be_estimated(n: int, k: int) -> None:
    assert _table(n, k)[1] < MAX_BIAS


def test_a_best_of_n_has_errors_with_prompts_as_clusters() -> None:
    proxy, gold = drawn(8, 20, 1), drawn(8, 20, 2)
    once = best_of_n(proxy, gold, 2, torch.arange(20))
    twice = best_of_n(proxy.repeat(1, 2), gold.repeat(1, 2), 2, torch.arange(20).repeat(2))
    assert {"proxy_se", "reward_se", "positive_se"} <= once.keys()
    assert twice == pytest.approx(once)
