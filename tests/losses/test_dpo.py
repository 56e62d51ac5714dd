"""What is true of DPO's loss in particular, and of its form for labels that may be wrong."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dpo_lab.check.strategies import comparisons, complete, strengths
from dpo_lab.check.transforms import scaled, swapped
from dpo_lab.losses import PreferenceLoss
from dpo_lab.losses.dpo import DPOLoss
from dpo_lab.losses.ipo import IPOLoss
from dpo_lab.records import Aggregate, CandidateBatch, Logps

Drawn = tuple[Logps, CandidateBatch]
close: Callable[..., None] = torch.testing.assert_close
EXACT = {"rtol": 1e-9, "atol": 1e-9}  # float64, values up to some hundreds, a dozen operations


def gap_of(loss: PreferenceLoss, logps: Logps, batch: CandidateBatch) -> Tensor:
    """Log-ratio of the chosen completion less that of the rejected one, as the loss aggregates."""
    chosen, rejected = logps.logratios(loss.token_weights(logps, batch))
    return chosen - rejected


def value_and_gradient(loss: PreferenceLoss, logps: Logps, batch: CandidateBatch) -> tuple[Tensor, tuple[Tensor, ...]]:
    policy = logps.policy.detach().clone().requires_grad_()
    values = loss(dataclasses.replace(logps, policy=policy), batch)
    return values, torch.autograd.grad(values.sum(), policy)


@given(st.data())
def test_dpo_swap_costs_exactly_the_scaled_gap(data: st.DataObject) -> None:
    loss = data.draw(strengths(DPOLoss))
    logps, batch = data.draw(comparisons())
    if loss.aggregate is Aggregate.sampled:
        return  # the other order draws other tokens
    close(loss(logps, batch) - loss(*swapped(logps, batch)), -loss.beta * gap_of(loss, logps, batch), **EXACT)


@given(st.data())
def test_dpo_gradient_is_the_closed_form(data: st.DataObject) -> None:
    loss = data.draw(strengths(DPOLoss))
    logps, batch = data.draw(comparisons())
    _, (gradient,) = value_and_gradient(loss, logps, batch)
    per_sequence = -loss.beta * torch.sigmoid(-loss.beta * gap_of(loss, logps, batch))
    weights = loss.token_weights(logps, batch)
    counted = logps.mask if weights is None else weights
    for candidate, sign in ((0, 1), (1, -1)):
        expected = sign * per_sequence[:, None] * counted[candidate]
        real = logps.mask[candidate]
        close(gradient[candidate][real], expected[real], **EXACT)


@given(st.data(), st.sampled_from([1e-3, 0.1, 5.0, 50.0]))
def test_dpo_depends_on_beta_times_gap(data: st.DataObject, beta: float) -> None:
    logps, batch = data.draw(comparisons())
    close(DPOLoss(beta=beta)(logps, batch), DPOLoss(beta=1.0)(scaled(logps, beta), batch), **EXACT)


@given(comparisons())
def test_dpo_is_log_2_for_small_beta_and_the_hinge_of_the_gap_for_large(drawn: Drawn) -> None:
    logps, batch = drawn
    gap = gap_of(DPOLoss(), logps, batch)
    # log(1 + e^-x) - log 2 = -x/2 + O(x^2) and |x| <= 48e-9; above the hinge lies at most log(2) / beta.
    close(DPOLoss(beta=1e-9)(logps, batch), torch.full_like(gap, math.log(2)), rtol=0, atol=4e-8)
    close(DPOLoss(beta=1e6)(logps, batch) / 1e6, torch.relu(-gap), rtol=0, atol=1e-6)


@given(st.data())
def test_dpo_lies_within_log_2_above_its_hinge(data: st.DataObject) -> None:
    loss = data.draw(strengths(DPOLoss))
    logps, batch = data.draw(comparisons(lowest=-200.0))
    hinge = torch.relu(-loss.beta * gap_of(loss, logps, batch))
    values = loss(logps, batch)
    assert (values >= hinge - 1e-12).all()
    assert (values <= hinge + math.log(2) + 1e-12).all()


@pytest.mark.parametrize("noise", [0.05, 0.2, 0.45])
@pytest.mark.parametrize("source", ["label_smoothing", "confidence"])
def test_conservative_dpo_is_least_at_the_log_odds_with_the_entropy_as_value(noise: float, source: str) -> None:
    beta = 0.5
    best = math.log((1 - noise) / noise)
    entropy = -noise * math.log(noise) - (1 - noise) * math.log(1 - noise)
    x = best + torch.tensor([0.0, -1e-3, 1e-3, -3.0, 3.0], dtype=torch.float64)
    policy = torch.stack((x / beta, torch.zeros_like(x)))[:, :, None]
    mask = torch.ones(2, 5, 1, dtype=torch.bool)
    certain = torch.full((5,), 1.0 - noise if source == "confidence" else 1.0, dtype=torch.float64)
    loss = DPOLoss(beta=beta, label_smoothing=noise if source == "label_smoothing" else 0.0)
    logps, batch = complete(policy, torch.zeros_like(policy), mask, certain)
    values, (gradient,) = value_and_gradient(loss, logps, batch)
    assert values[0].item() == pytest.approx(entropy, rel=1e-12)
    assert (values[1:] > values[0]).all()
    assert gradient[:, 0].abs().max() < 1e-12


def test_confidence_belongs_to_its_own_pair() -> None:
    policy = torch.tensor([[2.0, 2.0, 2.0], [0.0, 0.0, 0.0]], dtype=torch.float64)[:, :, None]
    confidence = torch.tensor([1.0, 0.5, 0.0], dtype=torch.float64)
    logps, batch = complete(policy, torch.zeros_like(policy), torch.ones(2, 3, 1, dtype=torch.bool), confidence)
    right, wrong = math.log1p(math.exp(-2)), math.log1p(math.exp(2))
    expected = torch.tensor([right, (right + wrong) / 2, wrong], dtype=torch.float64)
    close(DPOLoss(beta=1.0)(logps, batch), expected, **EXACT)


@given(st.data(), st.integers(1, 5))
def test_dpo_of_means_is_dpo_of_sums_with_beta_over_the_length(data: st.DataObject, n: int) -> None:
    nats = st.lists(st.floats(-8, 0, width=32), min_size=4 * n, max_size=4 * n)
    policy, reference = (torch.tensor(data.draw(nats), dtype=torch.float64).reshape(2, 2, n) for _ in range(2))
    logps, batch = complete(policy, reference, torch.ones(2, 2, n, dtype=torch.bool))
    means, sums = DPOLoss(beta=0.7, aggregate=Aggregate.mean), DPOLoss(beta=0.7 / n)
    close(means(logps, batch), sums(logps, batch), **EXACT)


@pytest.mark.parametrize("beta", [0.1, 2.0])
def test_the_constants_at_the_reference_are_those_of_the_catalogue(beta: float) -> None:
    assert DPOLoss(beta=beta).value_at_reference() == pytest.approx(math.log(2), rel=1e-12)
    assert IPOLoss(beta=beta).value_at_reference() == pytest.approx(1 / (4 * beta**2), rel=1e-12)


@pytest.mark.parametrize(
    "field", [{"beta": 0.0}, {"beta": -1.0}, {"beta": float("nan")}, {"label_smoothing": 0.5}, {"label_smoothing": -0.1}]
)
def test_values_outside_their_range_are_refused_by_name(field: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=rf"loss\.{next(iter(field))} must be .*, got"):
        DPOLoss(**field)
