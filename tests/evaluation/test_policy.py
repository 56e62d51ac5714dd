"""Judging a policy: KL of whole completions, win_rates, diversity."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dpo_lab.evaluation.policy import NUM_BIGRAMS, EvaluationSettings, distinct_2, sample_metrics, sequence_kl, win_rates
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
    kl, error = sequence_kl(Logps(tensor(policy), tensor(reference), mask), torch.arange(len(rows)))
    assert kl == pytest.approx(exact, rel=1e-12)
    ratios = [math.log(math.prod(policy[row]) / math.prod(reference[row])) for row in rows]
    variance = sum((ratio - exact) ** 2 for ratio in ratios) / 7
    assert error == pytest.approx(math.sqrt(variance / 8), rel=1e-12)


def test_the_standard_error_is_the_spread_of_repeated_estimates() -> None:
    draw = torch.Generator().manual_seed(0)
    ratios = torch.randn(500, 1, 64, 1, generator=draw)
    mask = torch.ones(1, 64, 1, dtype=torch.bool)
    found = [sequence_kl(Logps(row, torch.zeros_like(row), mask), torch.arange(64)) for row in ratios]
    spread = float(torch.tensor([kl for kl, _ in found]).std())
    assert sum(error or math.nan for _, error in found) / 500 == pytest.approx(
        spread, rel=0.12
    )  # 1 / sqrt(1000) is .03; four of them


@given(rewards=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=8))
def test_a_tie_is_half_a_win(rewards: list[tuple[int, int]]) -> None:
    one, other = (torch.tensor(column, dtype=torch.float32) for column in zip(*rewards, strict=True))
    points = [1.0 if a > b else 0.5 if a == b else 0.0 for a, b in rewards]
    assert win_rates(one, other[None]).tolist() == points
    assert (win_rates(one, other[None]) + win_rates(other, one[None])).tolist() == [1.0] * len(points)
    assert win_rates(one, torch.stack((other, one, one))).tolist() == pytest.approx([(point + 1) / 3 for point in points])


def test_distinct_2_of_so_many_pairs_is_the_share_of_different_ones() -> None:
    row = [*range(400), *range(601)]  # 399 pairs come twice; 399 -> 0 and 201 others once
    pairs = list(itertools.pairwise(row))
    assert len(pairs) == NUM_BIGRAMS
    assert distinct_2([row]) == pytest.approx(len(set(pairs)) / NUM_BIGRAMS)
    assert distinct_2([row[:-1]]) is None


@pytest.mark.parametrize("num_rows", [200, 800, 3200])
def test_distinct_2_does_not_depend_on_the_number_of_samples(num_rows: int) -> None:
    # 30 words as frequent as 1 / rank: over all pairs the share would fall from .3 to .06.
    draw = torch.Generator().manual_seed(0)
    frequencies = 1 / torch.arange(1, 31).double()
    rows = torch.multinomial(frequencies.expand(num_rows, 30), 9, replacement=True, generator=draw).tolist()
    share = frequencies / frequencies.sum()
    expected = float((1 - (1 - share[:, None] * share) ** NUM_BIGRAMS).sum()) / NUM_BIGRAMS
    assert distinct_2(rows) == pytest.approx(expected, rel=0.04)  # pairs of one row share words; 200 rows leave 3 %


def test_sample_metrics_are_those_of_the_real_tokens() -> None:
    mask = torch.tensor([[[True, True, False], [True, False, False]]])
    policy, reference = (
        torch.tensor([[[-1.0, -2.0, 0.0], [-3.0, 0.0, 0.0]]]),
        torch.tensor([[[-1.5, -2.0, 0.0], [-2.0, 0.0, 0.0]]]),
    )
    samples = CandidateBatch(
        prompt=torch.tensor([[0], [1]]),  # two prompts, not one that comes twice
        prompt_mask=torch.ones(2, 1, dtype=torch.bool),
        completions=torch.tensor([[[4, 5, 9], [4, 9, 9]]]),
        mask=mask,
        ids=torch.arange(2),
        confidence=torch.ones(2),
        scores=torch.tensor([[1.0, 2.0]]),
    )
    theirs = torch.tensor([[0.0, -1.0], [2.0, 3.0]])  # two samples of the reference for each prompt
    logps = Logps(policy, reference, mask)
    found = sample_metrics(samples, logps, torch.tensor([1.0, -1.0]), theirs, theirs + 1)
    expected = {
        "kl": (0.5 - 1.0) / 2,
        "kl_se": 0.75,
        "reward/policy": 0.0,
        "reward/policy_se": 1.0,
        "reward/reference": 1.0,  # the mean of 0, -1, 2, 3: all samples, not the first of each prompt
        "reward/reference_se": 0.0,
        "proxy/policy": 1.5,
        "proxy/policy_se": 0.5,
        "proxy/reference": 2.0,
        "proxy/reference_se": 0.0,
        "positive/policy": 0.5,
        "positive/policy_se": 0.5,
        "positive/reference": 0.5,
        "positive/reference_se": 0.0,
        "win_rate": (0.5 + 0.25) / 2,
        "win_rate_se": 0.125,
        "entropy": 2.0,
        "entropy_se": math.sqrt(2 * 2 * (1 / 3) ** 2),  # residuals of -3 + 2 * 2 and 3 - 2 nats over 3 tokens
        "length/policy": 1.5,
        "length/policy_se": 0.5,
    }
    assert found == pytest.approx(expected)
    samples.scores = None
    without = sample_metrics(samples, logps, None, None, None)
    rewards = ("reward", "proxy", "positive", "win_rate")
    assert without == pytest.approx({name: value for name, value in expected.items() if not name.startswith(rewards)})
    samples.prompt[1] = 0
    one_prompt = sample_metrics(samples, logps, None, None, None)
    assert one_prompt == pytest.approx({name: value for name, value in without.items() if not name.endswith("_se")})


WRONG: list[dict[str, Any]] = [{"num_prompts": 1}, {"num_prompts_during": 0}, {"best_of": [4, 1]}, {"best_of": []}]


@pytest.mark.parametrize("settings", WRONG, ids=str)
def test_a_wrong_setting_is_refused_by_its_name(settings: dict[str, Any]) -> None:
    # An empty best_of leaves no reference samples to draw: max() of nothing, far from the setting.
    with pytest.raises(ValueError, match=rf"evaluation\.{next(iter(settings))} must"):
        EvaluationSettings(**settings)


def test_sizes_of_best_of_n_come_in_order() -> None:
    assert EvaluationSettings().sizes == [2, 4, 8]
    assert all(EvaluationSettings(best_of=list(order)).sizes == [2, 3, 16] for order in itertools.permutations([16, 2, 3]))
