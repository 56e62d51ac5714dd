"""Standard errors with prompts as clusters: identities, and the spread of repeated estimates of a known truth."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dpo_lab.evaluation.errors import deviations, mean_error, prompt_clusters, standard_error, with_errors
from dpo_lab.records import CandidateBatch

VALUES = st.lists(st.floats(-3, 3, width=32), min_size=2, max_size=8)


def batch(prompts: list[list[int]], left: bool) -> CandidateBatch:
    width = max(map(len, prompts)) + 1
    rows = [[0] * (width - len(p)) + p if left else p + [0] * (width - len(p)) for p in prompts]
    real = [[i >= width - len(p) if left else i < len(p) for i in range(width)] for p in prompts]
    b = len(prompts)
    return CandidateBatch(
        prompt=torch.tensor(rows),
        prompt_mask=torch.tensor(real),
        completions=torch.zeros(1, b, 1, dtype=torch.long),
        mask=torch.ones(1, b, 1, dtype=torch.bool),
        ids=torch.arange(b),
        confidence=torch.ones(b),
    )


@given(values=VALUES)
def test_of_single_values_it_is_the_textbook_one(values: list[float]) -> None:
    found = mean_error(torch.tensor(values), torch.arange(len(values)))
    assert found == pytest.approx(float(torch.tensor(values).double().std()) / math.sqrt(len(values)), abs=1e-12)


@given(values=VALUES, copies=st.integers(1, 4))
def test_copies_of_every_item_of_a_prompt_tell_nothing(values: list[float], copies: int) -> None:
    clusters = torch.arange(len(values))
    repeated = mean_error(torch.tensor(values).repeat(copies), clusters.repeat(copies))
    assert repeated == pytest.approx(mean_error(torch.tensor(values), clusters), abs=1e-9)


@given(values=VALUES, k=st.integers(2, 4))
def test_several_values_of_a_prompt_are_one_value_their_mean(values: list[float], k: int) -> None:
    wide = torch.stack([torch.tensor(values).double() * (i + 1) for i in range(k)])
    clusters = torch.arange(len(values))
    assert mean_error(wide, clusters) == pytest.approx(mean_error(wide.mean(dim=0), clusters), abs=1e-12)


def test_one_prompt_has_no_error_and_no_name() -> None:
    assert mean_error(torch.tensor([1.0, 2.0]), torch.zeros(2, dtype=torch.long)) is None
    assert with_errors({"kl": 1.0, "loss": 2.0}, {"kl": None, "loss": 0.5}) == {"kl": 1.0, "loss": 2.0, "loss_se": 0.5}


def test_rows_with_equal_prompt_tokens_are_one_cluster_whatever_the_padding() -> None:
    found = prompt_clusters(batch([[5], [5, 6], [5]], left=True), batch([[5, 6], [7], [5]], left=False))
    assert [clusters.tolist() for clusters in found] == [[0, 1, 0], [1, 2, 0]]


def test_clustered_errors_are_the_spread_of_repeated_estimates() -> None:
    # 40 prompts with 1 to 6 items that share most of their value: the error that takes all for independent is half of it.
    draw = torch.Generator().manual_seed(0)
    clusters = torch.repeat_interleave(torch.arange(40), torch.arange(40) % 6 + 1)
    means, errors, alone = [], [], []
    for _ in range(600):
        values = torch.randn(40, generator=draw)[clusters] + 0.5 * torch.randn(len(clusters), generator=draw)
        means.append(float(values.mean()))
        errors.append(mean_error(values, clusters) or math.nan)
        alone.append(mean_error(values, torch.arange(len(clusters))) or math.nan)
    spread = float(torch.tensor(means).std())
    mean_square = math.sqrt(sum(error**2 for error in errors) / len(errors))
    assert mean_square == pytest.approx(spread, rel=0.1)  # 3 % is the error of a spread of 600; unequal clusters cost 3 more
    assert sum(alone) / len(alone) < 0.65 * spread
    covered = sum(abs(mean) < 1.96 * error for mean, error in zip(means, errors, strict=True)) / len(means)
    assert 0.92 <= covered <= 0.98


def test_the_error_of_a_ratio_is_the_spread_of_repeated_ratios() -> None:
    # Nats a token, where long completions have fewer: the numerator depends on the denominator.
    draw = torch.Generator().manual_seed(1)
    ratios, errors = [], []
    for _ in range(500):
        tokens = torch.randint(1, 9, (200,), generator=draw)
        nats = 2 - 0.1 * tokens + torch.randn(200, generator=draw)
        ratios.append(deviations(nats, tokens)[0])
        errors.append(mean_error(nats, torch.arange(200), tokens) or math.nan)
    assert sum(errors) / 500 == pytest.approx(float(torch.tensor(ratios).std()), rel=0.1)  # 3 % is the error of a spread
    truth = sum(n * (2 - 0.1 * n) for n in range(1, 9)) / 36
    covered = sum(abs(ratio - truth) < 1.96 * error for ratio, error in zip(ratios, errors, strict=True)) / 500
    assert 0.92 <= covered <= 0.98


def test_what_cancels_within_a_prompt_leaves_no_error() -> None:
    assert standard_error(torch.tensor([1.0, -1.0, 2.0, -2.0]), torch.tensor([0, 0, 1, 1])) == 0.0
