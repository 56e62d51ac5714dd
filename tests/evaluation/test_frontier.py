"""The frontier of reward against KL: closed forms, and brute force over every distribution on few values."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dpo_lab.evaluation.frontier import FrontierPoint, IdealFrontier


def drawn(k: int, b: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(k, b, generator=torch.Generator().manual_seed(seed))


def of(rewards: torch.Tensor, num_points: int = 60) -> IdealFrontier:
    """Of k samples for each of b prompts."""
    return IdealFrontier(rewards.flatten(), torch.arange(rewards.shape[1]).repeat(rewards.shape[0]), num_points)


@pytest.mark.parametrize("sigma", [0.3, 2.0])
def test_gaussian_rewards_have_the_frontier_sigma_sqrt_2_kl(sigma: float) -> None:
    # 200,000 samples: the tail runs out past KL 2, and 2 % is the sampling error before it.
    means = 5 * drawn(1, 4000, seed=1)
    frontier = of(means + sigma * drawn(50, 4000))
    points = frontier.points
    assert points[0] == FrontierPoint(0.0, 0.0)
    assert points[-1].kl > 2
    before = [point for point in points[1:] if point.kl < 2]
    for point in before:
        assert point.reward == pytest.approx(sigma * math.sqrt(2 * point.kl), rel=0.02)
    for point in before[::4]:
        assert frontier.at(point.kl).reward == pytest.approx(point.reward)


@settings(max_examples=10)
@given(seed=st.integers(0, 20), k=st.integers(2, 6))
def test_more_kl_never_means_less_reward_and_the_curve_bends_down(seed: int, k: int) -> None:
    points = of(drawn(k, 200, seed).exp()).points
    for low, high in pairwise(points):
        assert high.kl > low.kl
        assert high.reward > low.reward
    slopes = [(b.reward - a.reward) / (b.kl - a.kl) for a, b in pairwise(points)]
    assert all(later <= earlier * (1 + 1e-9) for earlier, later in pairwise(slopes))


def test_the_frontier_is_the_tilted_distribution_by_brute_force() -> None:
    counts = {0.0: 600, 1.0: 200, 2.5: 120}
    num = sum(counts.values())
    mean = sum(value * count for value, count in counts.items()) / num
    centred = [(value - mean) * math.sqrt(num / (num - 1)) for value in counts]
    base = [count / num for count in counts.values()]
    points = of(torch.tensor([value for value, count in counts.items() for _ in range(count)])[:, None]).points
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
    frontier = of(values)
    for seed in range(200):
        noise = drawn(400, 1, seed + 1).flatten().double()
        shares = (centred * (seed % 10) / 5 + noise * (seed % 7) / 7).softmax(dim=0)
        kl = float((shares * (shares * 400).log()).sum())
        if kl <= frontier.points[-1].kl:
            assert float((shares * centred).sum()) <= frontier.at(kl).reward + 1e-6


def test_a_rare_and_very_low_reward_leaves_every_point_a_number() -> None:
    rewards = torch.zeros(20_000, 1)
    rewards[0] = -1.0  # 141 standard deviations down: its weight underflows
    assert all(math.isfinite(point.kl) and math.isfinite(point.reward) for point in of(rewards).points)


def test_equal_rewards_have_nothing_to_gain() -> None:
    frontier = of(torch.full((3, 50), 2.0))
    assert frontier.points == [FrontierPoint(0.0, 0.0)]
    assert frontier.at(3.0).reward == 0.0


def test_between_points_the_frontier_is_a_tilt_and_beyond_them_a_square_root() -> None:
    frontier = of(drawn(8, 200))
    low, end = frontier.points[-2:]
    for kl in (low.kl / 100, low.kl, (low.kl + end.kl) / 2):
        point = frontier.at(kl)
        assert point.kl == pytest.approx(kl)
        assert point.reward == pytest.approx(frontier.tilted(point.tilt).reward)
    assert low.tilt < frontier.at((low.kl + end.kl) / 2).tilt < end.tilt
    assert frontier.at(4 * end.kl).reward == pytest.approx(2 * end.reward)
    assert [frontier.at(kl).reward for kl in (0.0, -0.1)] == [0.0, 0.0]


def test_a_prompt_that_comes_twice_is_centred_on_all_its_samples() -> None:
    rewards = drawn(2, 6, seed=3)
    once, twice = of(rewards.reshape(4, 3)), IdealFrontier(rewards.flatten(), torch.arange(3).repeat(4))
    assert torch.equal(once.centred, twice.centred)
    assert not torch.allclose(of(rewards).centred, twice.centred)
