"""The frontier of reward against KL: closed forms, and brute force over every distribution on few values."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dpo_lab.evaluation.frontier import FrontierPoint, best_of_n, gain_at, ideal_frontier


def drawn(k: int, b: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(k, b, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("sigma", [0.3, 2.0])
def test_gaussian_rewards_have_the_frontier_sigma_sqrt_2_kl(sigma: float) -> None:
    # 200,000 samples: the tail runs out past KL 2, and 2 % is the sampling error before it.
    means = 5 * drawn(1, 4000, seed=1)
    points = ideal_frontier(means + sigma * drawn(50, 4000))
    assert points[0] == FrontierPoint(0.0, 0.0)
    assert points[-1].kl > 2
    for point in points[1:]:
        if point.kl < 2:
            assert point.reward == pytest.approx(sigma * math.sqrt(2 * point.kl), rel=0.02)
            assert gain_at(points, point.kl) == pytest.approx(point.reward)


@settings(max_examples=10)
@given(seed=st.integers(0, 20), k=st.integers(2, 6))
def test_more_kl_never_means_less_reward_and_the_curve_bends_down(seed: int, k: int) -> None:
    points = ideal_frontier(drawn(k, 200, seed).exp())
    for low, high in pairwise(points):
        assert high.kl > low.kl
        assert high.reward > low.reward
    slopes = [(b.reward - a.reward) / (b.kl - a.kl) for a, b in pairwise(points)]
    assert all(later <= earlier * (1 + 1e-9) for earlier, later in pairwise(slopes))


def test_the_frontier_is_the_tilted_distribution_by_brute_force() -> None:
    counts = {0.0: 300, 1.0: 100, 2.5: 60}
    num = sum(counts.values())
    mean = sum(value * count for value, count in counts.items()) / num
    centred = [(value - mean) * math.sqrt(num / (num - 1)) for value in counts]
    base = [count / num for count in counts.values()]
    points = ideal_frontier(torch.tensor([value for value, count in counts.items() for _ in range(count)])[:, None])
    assert len(points) > 10
    for point in points[1:]:
        low, high = 0.0, 100.0
        for _ in range(80):  # the tilt whose KL it is
            tilt = (low + high) / 2
            weights = [share * math.exp(tilt * (value - max(centred))) for share, value in zip(base, centred, strict=True)]
            shares = [weight / sum(weights) for weight in weights]
            kl = sum(p * math.log(p / q) for p, q in zip(shares, base, strict=True) if p > 0)
            low, high = (tilt, high) if kl < point.kl else (low, tilt)
        assert point.reward == pytest.approx(sum(s * v for s, v in zip(shares, centred, strict=True)), rel=1e-5)


def test_no_distribution_over_the_samples_lies_above_the_frontier() -> None:
    values = drawn(400, 1)
    centred = ((values - values.mean()) * math.sqrt(400 / 399)).flatten().double()
    points = ideal_frontier(values, num_points=600)
    for seed in range(200):
        noise = drawn(400, 1, seed + 1).flatten().double()
        shares = (centred * (seed % 10) / 5 + noise * (seed % 7) / 7).softmax(dim=0)
        kl = float((shares * (shares * 400).log()).sum())
        if kl <= points[-1].kl:
            # The frontier is cut into straight lines below the true curve: 600 of them leave under .001.
            assert float((shares * centred).sum()) <= gain_at(points, kl) + 1e-3


def test_a_rare_and_very_low_reward_leaves_every_point_a_number() -> None:
    rewards = torch.zeros(20_000, 1)
    rewards[0] = -1.0  # 141 standard deviations down: its weight underflows
    assert all(math.isfinite(point.kl) and math.isfinite(point.reward) for point in ideal_frontier(rewards))


def test_equal_rewards_have_nothing_to_gain() -> None:
    points = ideal_frontier(torch.full((3, 50), 2.0))
    assert points == [FrontierPoint(0.0, 0.0)]
    assert gain_at(points, 3.0) == 0.0


def test_between_points_the_gain_is_linear_and_beyond_them_a_square_root() -> None:
    points = [FrontierPoint(0.0, 0.0), FrontierPoint(1.0, 2.0), FrontierPoint(4.0, 4.0)]
    assert [gain_at(points, kl) for kl in (0.0, 0.5, 1.0, 2.5, 4.0, 16.0)] == [0.0, 1.0, 2.0, 3.0, 4.0, 8.0]
    assert gain_at(points, -0.1) == 0.0


@given(seed=st.integers(0, 9), n=st.integers(1, 4), k=st.integers(4, 9), b=st.integers(1, 3))
def test_best_of_n_is_what_loops_choose(seed: int, n: int, k: int, b: int) -> None:
    proxy, gold = drawn(k, b, seed), drawn(k, b, seed + 100)
    best = []
    for prompt in range(b):
        for first in range(0, k - n + 1, n):
            best.append(max(range(first, first + n), key=lambda i, prompt=prompt: float(proxy[i, prompt])) * b + prompt)
    found = best_of_n(proxy, gold, n)
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
    assert best_of_n(drawn(8, 2), drawn(8, 2), n)["kl"] == pytest.approx(kl, abs=1e-4)
