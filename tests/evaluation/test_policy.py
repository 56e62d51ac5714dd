"""Judging a policy: KL of whole completions, wins, diversity."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dpo_lab.evaluation.policy import EvaluationSettings, distinct_2, sample_metrics, sequence_kl, win_rate
from dpo_lab.records import CandidateBatch, Logps


def test_sequence_kl_over_samples_in_proportion_is_the_exact_kl() -> None:
    # Completions of one or two tokens: the first ends it with 1/2, else a second token follows.
    policy = {(0,): [1 / 2], (1, 0): [1 / 2, 1 / 4], (1, 1): [1 / 2, 3 / 4]}
    reference = {(0,): [1 / 5], (1, 0): [4 / 5, 1 / 3], (1, 1): [4 / 5, 2 / 3]}
    exact = sum(math.prod(p) * math.log(math.prod(p) / math.prod(reference[c])) for c, p in policy.items())
    rows = [completion for completion, p in policy.items() for _ in range(round(8 * math.prod(p)))]
    assert len(rows) == 8

    def tensor(table: dict[Any, list[float]]) -> torch.Tensor:
        values = [[*map(math.log, table[row]), *[0.0] * (2 - len(row))] for row in rows]
        return torch.tensor([values], dtype=torch.float64)

    mask = torch.tensor([[[True, len(row) > 1] for row in rows]])
    kl, error = sequence_kl(Logps(tensor(policy), tensor(reference), mask))
    assert kl == pytest.approx(exact, rel=1e-12)
    ratios = [math.log(math.prod(policy[row]) / math.prod(reference[row])) for row in rows]
    variance = sum((ratio - exact) ** 2 for ratio in ratios) / 7
    assert error == pytest.approx(math.sqrt(variance / 8), rel=1e-12)


def test_the_standard_error_is_the_spread_of_repeated_estimates() -> None:
    draw = torch.Generator().manual_seed(0)
    ratios = torch.randn(500, 1, 64, 1, generator=draw)
    found = [sequence_kl(Logps(row, torch.zeros_like(row), torch.ones_like(row, dtype=torch.bool))) for row in ratios]
    spread = float(torch.tensor([kl for kl, _ in found]).std())
    assert sum(error for _, error in found) / 500 == pytest.approx(spread, rel=0.12)  # 1 / sqrt(1000) is .03; four of them


@given(rewards=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=8))
def test_a_tie_is_half_a_win(rewards: list[tuple[int, int]]) -> None:
    one, other = (torch.tensor(column, dtype=torch.float32) for column in zip(*rewards, strict=True))
    points = [1.0 if a > b else 0.5 if a == b else 0.0 for a, b in rewards]
    assert win_rate(one, other) == pytest.approx(sum(points) / len(points))
    assert win_rate(one, other) + win_rate(other, one) == pytest.approx(1.0)
    assert win_rate(one, one) == 0.5


@given(rows=st.lists(st.lists(st.integers(0, 2), max_size=5), max_size=4))
def test_distinct_2_is_the_share_of_different_neighbours(rows: list[list[int]]) -> None:
    pairs = [(row[i], row[i + 1]) for row in rows for i in range(len(row) - 1)]
    assert distinct_2(rows) == pytest.approx(len(set(pairs)) / len(pairs) if pairs else 0.0)


def test_sample_metrics_are_those_of_the_real_tokens() -> None:
    mask = torch.tensor([[[True, True, False], [True, False, False]]])
    policy, reference = (
        torch.tensor([[[-1.0, -2.0, 0.0], [-3.0, 0.0, 0.0]]]),
        torch.tensor([[[-1.5, -2.0, 0.0], [-2.0, 0.0, 0.0]]]),
    )
    samples = CandidateBatch(
        prompt=torch.zeros(2, 1, dtype=torch.long),
        prompt_mask=torch.ones(2, 1, dtype=torch.bool),
        completions=torch.tensor([[[4, 5, 9], [4, 9, 9]]]),
        mask=mask,
        ids=torch.arange(2),
        confidence=torch.ones(2),
        scores=torch.tensor([[1.0, 2.0]]),
    )
    found = sample_metrics(samples, Logps(policy, reference, mask), torch.tensor([1.0, -1.0]), torch.tensor([0.0, -1.0]))
    expected = {
        "kl": (0.5 - 1.0) / 2,
        "kl_se": 0.75,
        "reward/policy": 0.0,
        "reward/reference": -0.5,
        "proxy/policy": 1.5,
        "positive/policy": 0.5,
        "positive/reference": 0.0,
        "win_rate": 0.75,
        "entropy": 2.0,
        "distinct_2": 1.0,
        "length/policy": 1.5,
    }
    assert found == pytest.approx(expected)
    samples.scores = None
    without = sample_metrics(samples, Logps(policy, reference, mask), None, None)
    assert without == pytest.approx(
        {name: expected[name] for name in ("kl", "kl_se", "entropy", "distinct_2", "length/policy")}
    )


WRONG: list[dict[str, Any]] = [{"num_prompts": 1}, {"num_prompts_during": 0}, {"best_of": [4, 1]}, {"best_of": []}]


@pytest.mark.parametrize("settings", WRONG, ids=str)
def test_a_wrong_setting_is_refused_by_its_name(settings: dict[str, Any]) -> None:
    # An empty best_of leaves no reference samples to draw: max() of nothing, far from the setting.
    with pytest.raises(ValueError, match=rf"evaluation\.{next(iter(settings))} must"):
        EvaluationSettings(**settings)


def test_sizes_of_best_of_n_come_in_order() -> None:
    assert EvaluationSettings().sizes == [2, 4, 8]
    assert all(EvaluationSettings(best_of=list(order)).sizes == [2, 3, 16] for order in itertools.permutations([16, 2, 3]))
