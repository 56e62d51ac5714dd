"""Losses of several candidates of a prompt at once: plackett_luce, nca, lipo_lambda."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
import torch
from einops import rearrange
from hypothesis import given
from hypothesis import strategies as st
from losses.oracles.base import sigmoid, softplus

from dpo_lab.check.strategies import complete
from dpo_lab.losses import PreferenceLoss
from dpo_lab.losses.dpo import DPOLoss
from dpo_lab.losses.lipo_lambda import LiPOLambdaLoss
from dpo_lab.losses.nca import NCALoss
from dpo_lab.losses.plackett_luce import PlackettLuceLoss
from dpo_lab.records import CandidateBatch, Logps

numbers = st.floats(-20, 20, width=32)
lists = st.lists(numbers, min_size=2, max_size=4)


def ranked(ratios: list[float], scores: list[float] | None = None) -> tuple[Logps, CandidateBatch]:
    """One prompt, by its candidates' log-ratios, best first; one token each."""
    policy = rearrange(torch.tensor(ratios, dtype=torch.float64), "k -> k 1 1")
    logps, batch = complete(policy, torch.zeros_like(policy), torch.ones_like(policy, dtype=torch.bool))
    found = None if scores is None else rearrange(torch.tensor(scores, dtype=torch.float64), "k -> k 1")
    return logps, replace(batch, scores=found)


def gradient(loss: PreferenceLoss, logps: Logps, batch: CandidateBatch) -> list[float]:
    policy = logps.policy.clone().requires_grad_()
    (found,) = torch.autograd.grad(loss(replace(logps, policy=policy), batch).sum(), policy)
    return found.flatten().tolist()


# plackett_luce


@given(numbers, numbers)
def test_plackett_luce_of_two_is_dpo(chosen: float, rejected: float) -> None:
    one, other, step = PlackettLuceLoss(), DPOLoss(), ranked([chosen, rejected])
    assert one(*step).item() == pytest.approx(other(*step).item(), rel=1e-12)
    assert gradient(one, *step) == pytest.approx(gradient(other, *step), rel=1e-9)


@given(lists)
def test_the_probabilities_of_all_orders_add_up_to_1(ratios: list[float]) -> None:
    loss = PlackettLuceLoss(beta=0.3)
    total = sum(math.exp(-loss(*ranked(list(order))).item()) for order in itertools.permutations(ratios))
    assert total == pytest.approx(1, rel=1e-12)


def test_plackett_luce_of_three_by_hand() -> None:
    # odds 4 : 2 : 1, so 4/7 that the first is first, then 2/3 that the second is
    loss = PlackettLuceLoss(beta=1.0)
    assert loss(*ranked([math.log(4), math.log(2), 0.0])).item() == pytest.approx(-math.log(8 / 21), rel=1e-12)


@pytest.mark.parametrize("k", [2, 3, 4, 6])
def test_at_the_reference_every_order_is_as_likely(k: int) -> None:
    loss = PlackettLuceLoss()
    assert loss(*ranked([0.0] * k)).item() == pytest.approx(math.log(math.factorial(k)), rel=1e-12)
    assert loss.value_at_reference(k) == pytest.approx(math.log(math.factorial(k)), rel=1e-12)


def test_rewards_of_thousands_keep_their_differences_in_float32() -> None:
    policy = torch.tensor([-50000.0, -50000.5, -50001.0])
    mask = torch.ones(3, 1, 1, dtype=torch.bool)
    logps, batch = complete(rearrange(policy, "k -> k 1 1"), torch.zeros(3, 1, 1), mask, torch.ones(1))
    expected = math.log(1 + math.exp(-0.5) + math.exp(-1)) + math.log(1 + math.exp(-0.5))
    assert PlackettLuceLoss(beta=1.0)(logps, batch).item() == pytest.approx(expected, rel=1e-6)


# nca


@given(lists)
def test_a_one_hot_target_is_the_best_of_a_list(ratios: list[float]) -> None:
    expected = softplus(-ratios[0] / 10) + sum(softplus(r / 10) for r in ratios) / len(ratios)
    assert NCALoss()(*ranked(ratios)).item() == pytest.approx(expected, rel=1e-12)


@given(st.lists(st.tuples(numbers, numbers), min_size=2, max_size=4))
def test_with_utilities_the_targets_are_their_softmax(found: list[tuple[float, float]]) -> None:
    logps, batch = ranked([ratio for ratio, _ in found])
    batch.utilities = rearrange(torch.tensor([utility for _, utility in found], dtype=torch.float64), "k -> k 1")
    total = sum(math.exp(utility) for _, utility in found)
    expected = sum(math.exp(u) / total * softplus(-r / 10) + softplus(r / 10) / len(found) for r, u in found)
    assert NCALoss()(logps, batch).item() == pytest.approx(expected, rel=1e-9)


@given(numbers, numbers, numbers)
def test_utilities_of_two_are_the_confidence_they_stand_for(chosen: float, rejected: float, gap: float) -> None:
    logps, batch = ranked([chosen, rejected])
    by_utility = replace(batch, utilities=torch.tensor([[gap], [0.0]], dtype=torch.float64))
    by_confidence = replace(batch, confidence=torch.tensor([sigmoid(gap)], dtype=torch.float64))
    assert NCALoss()(logps, by_utility).item() == pytest.approx(NCALoss()(logps, by_confidence).item(), rel=1e-9)


def test_nca_is_least_where_the_chosen_is_likelier_than_under_the_reference() -> None:
    """Its minimum is at odds of w K: log 2 of two, and as low as possible for the rejected one. dpo has none."""
    slopes = gradient(NCALoss(beta=1.0), *ranked([math.log(2), -700.0]))
    assert slopes == pytest.approx([0, 0], abs=1e-12)


# lipo_lambda


@given(numbers, numbers, st.sampled_from([0.0, 0.2]))
def test_lipo_of_two_is_a_multiple_of_dpo(chosen: float, rejected: float, smoothing: float) -> None:
    weight = 1 / math.log(2) - 1 / math.log(3)
    one, other = LiPOLambdaLoss(label_smoothing=smoothing), DPOLoss(label_smoothing=smoothing)
    for scores in (None, [3.0, 1.0]):
        step = ranked([chosen, rejected], scores)
        assert one(*step).item() == pytest.approx(weight * other(*step).item(), rel=1e-9)
        assert gradient(one, *step) == pytest.approx([weight * slope for slope in gradient(other, *step)], rel=1e-9)


def test_lipo_of_three_by_hand() -> None:
    # scores 5, 3, 1 are psi 1, 1/2, 0 and gains 1, .414, 0; the policy ranks them 2, 1, 3; rewards .1, .2, -.3
    loss, step = LiPOLambdaLoss(), ranked([1.0, 2.0, -3.0], [5.0, 3.0, 1.0])
    first, second, third = 1 / math.log(3), 1 / math.log(2), 1 / math.log(4)
    root = math.sqrt(2)
    expected = (
        (2 - root) * (second - first) * softplus(0.1)
        + 1 * (first - third) * softplus(-0.4)
        + (root - 1) * (second - third) * softplus(-0.5)
    )
    assert loss(*step).item() == pytest.approx(expected, rel=1e-12)
    # Without scores the steps are as even as these ones.
    assert loss(*ranked([1.0, 2.0, -3.0])).item() == pytest.approx(expected, rel=1e-12)


@given(st.lists(numbers, min_size=3, max_size=4, unique=True), st.floats(0.5, 4), st.floats(-3, 3))
def test_only_the_relative_size_of_scores_counts(ratios: list[float], scale: float, shift: float) -> None:
    scores = [float(2 ** (len(ratios) - place)) for place in range(len(ratios))]
    moved = [scale * score + shift for score in scores]
    loss = LiPOLambdaLoss()
    assert loss(*ranked(ratios, moved)).item() == pytest.approx(loss(*ranked(ratios, scores)).item(), rel=1e-9)


def test_candidates_of_equal_scores_are_not_compared() -> None:
    loss = LiPOLambdaLoss()
    assert loss(*ranked([1.0, -1.0], [2.0, 2.0])).item() == 0
    assert gradient(loss, *ranked([1.0, -1.0], [2.0, 2.0])) == [0, 0]
    assert gradient(loss, *ranked([1.0, 0.5, -1.0], [2.0, 2.0, 0.0]))[2] > 0


def test_the_weights_of_lipo_get_no_gradient() -> None:
    loss, step = LiPOLambdaLoss(beta=1.0), ranked([1.0, 2.0, -3.0])
    weights = loss.lambdas(*step)
    assert not loss.lambdas(replace(step[0], policy=step[0].policy.clone().requires_grad_()), step[1]).requires_grad
    gaps = [1.0 - 2.0, 1.0 + 3.0, 2.0 + 3.0]
    slopes = [weight * sigmoid(-gap) for weight, gap in zip(weights.flatten().tolist(), gaps, strict=True)]
    assert gradient(loss, *step)[0] == pytest.approx(-slopes[0] - slopes[1])
    assert loss.extra_metrics(*step)["lambdas"].item() == pytest.approx(weights.mean().item())


@pytest.mark.parametrize("loss", [PlackettLuceLoss(beta=100.0), NCALoss(beta=100.0), LiPOLambdaLoss(beta=100.0)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@given(data=st.data())
def test_extremes_of_lists_stay_finite(loss: PreferenceLoss, dtype: torch.dtype, data: st.DataObject) -> None:
    extreme = st.sampled_from([0.0, -1e-4, -30.0, -6e4])
    policy, reference = (torch.tensor([data.draw(extreme) for _ in range(4)], dtype=dtype).reshape(4, 1, 1) for _ in range(2))
    logps, batch = complete(policy, reference, torch.ones(4, 1, 1, dtype=torch.bool), torch.ones(1))
    values = loss(logps, batch)
    assert values.dtype == torch.float32
    assert values.isfinite().all()
    assert all(math.isfinite(slope) for slope in gradient(loss, logps, batch))
