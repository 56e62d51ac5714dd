"""What is particular to the losses of the policy's own log-probabilities, and to alpha-DPO."""

from __future__ import annotations

import math
from dataclasses import replace
from decimal import Decimal, localcontext
from typing import Any

import pytest
import torch
from carried import Carried
from hypothesis import given
from hypothesis import strategies as st
from losses.oracles.base import Completion, Prompt, tensors
from strategies import numbers_of
from torch import Tensor

from dpo_lab.check.strategies import comparisons
from dpo_lab.losses import LOSSES, PreferenceLoss
from dpo_lab.losses.alpha_dpo import AlphaDPOLoss
from dpo_lab.losses.alphapo import AlphaPOLoss
from dpo_lab.losses.cpo import CPOLoss
from dpo_lab.losses.dpo import DPOLoss
from dpo_lab.losses.margins import Margin
from dpo_lab.losses.orpo import ORPOLoss, log1mexp
from dpo_lab.losses.simper import SimPERLoss
from dpo_lab.losses.simpo import SimPOLoss
from dpo_lab.losses.slic import SLiCLoss
from dpo_lab.records import Aggregate, CandidateBatch, Logps

Drawn = tuple[Logps, CandidateBatch]
EXACT = {"rtol": 1e-12, "atol": 1e-12}  # float64, a dozen operations on numbers up to some tens


def value_and_gradient(loss: PreferenceLoss, logps: Logps, batch: CandidateBatch) -> tuple[Tensor, Tensor]:
    policy = logps.policy.detach().clone().requires_grad_()
    values = loss(replace(logps, policy=policy), batch)
    (gradient,) = torch.autograd.grad(values.sum(), policy)
    return values.detach(), gradient


def same(one: PreferenceLoss, other: PreferenceLoss, drawn: Drawn, **tolerance: float) -> None:
    for found, expected in zip(value_and_gradient(one, *drawn), value_and_gradient(other, *drawn), strict=True):
        torch.testing.assert_close(found, expected, **EXACT | tolerance)


def without_reference(drawn: Drawn) -> Drawn:
    """Against a reference that gives everything the log-probability 0."""
    logps, batch = drawn
    return replace(logps, reference=torch.zeros_like(logps.policy)), batch


def of_sums(chosen: float, rejected: float, dtype: torch.dtype = torch.float32) -> Drawn:
    """One pair of completions of one token."""
    logps, batch = tensors([Prompt([Completion([chosen], [-1.0]), Completion([rejected], [-1.0])])])
    assert logps.reference is not None
    return replace(logps, policy=logps.policy.to(dtype), reference=logps.reference.to(dtype)), batch


# SimPO, CPO


@given(comparisons(uncertain=True), st.sampled_from([0.5, 2.0]))
def test_simpo_without_gamma_is_dpo_of_means_against_nothing(drawn: Drawn, beta: float) -> None:
    plain = DPOLoss(beta=beta, aggregate=Aggregate.mean)
    same(SimPOLoss(beta=beta, gamma_ratio=0.0), plain, without_reference(drawn))


@given(comparisons())
def test_simpos_gamma_is_a_margin_of_gamma_ratio_times_beta(drawn: Drawn) -> None:
    same(SimPOLoss(beta=2.0, gamma_ratio=0.3), SimPOLoss(beta=2.0, gamma_ratio=0.0, margin=Margin(constant=0.6)), drawn)


def test_where_simpos_label_may_be_wrong_the_other_completion_has_to_lead_by_gamma() -> None:
    drawn = of_sums(-1.0, -2.0, torch.float64)
    x, gamma = 2.0, 0.5
    expected = 0.75 * math.log1p(math.exp(-(x - gamma))) + 0.25 * math.log1p(math.exp(-(-x - gamma)))
    assert SimPOLoss(label_smoothing=0.25)(*drawn).item() == pytest.approx(expected, rel=1e-12)


@given(comparisons(uncertain=True), st.sampled_from([0.0, 1.0, 2.5]))
def test_cpo_is_dpo_against_nothing_and_imitation(drawn: Drawn, nll: float) -> None:
    same(CPOLoss(nll=nll), DPOLoss(nll=nll), without_reference(drawn))


# ORPO

CLOSE_AND_FAR = [-1e-7, -1e-6, -1e-3, -0.1, -0.6931, -0.6932, -1.0, -3.0, -16.0, -40.0]


@pytest.mark.parametrize("x", CLOSE_AND_FAR)
@pytest.mark.parametrize(("dtype", "rel"), [(torch.float64, 1e-15), (torch.float32, 3e-7)])
def test_log1mexp_and_its_gradient_have_all_digits(x: float, dtype: torch.dtype, rel: float) -> None:
    at = torch.tensor(x, dtype=dtype, requires_grad=True)
    found = log1mexp(at)
    (slope,) = torch.autograd.grad(found, at)
    with localcontext() as context:
        context.prec = 60
        certain = Decimal(at.item()).exp()  # what float32 makes of x
        value, derivative = (1 - certain).ln(), -certain / (1 - certain)
    assert found.item() == pytest.approx(float(value), rel=rel)
    assert slope.item() == pytest.approx(float(derivative), rel=rel)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("x", [0.0, -1e-30, -6e4])
def test_log1mexp_is_finite_where_a_probability_rounds_to_one_or_none(x: float, dtype: torch.dtype) -> None:
    at = torch.tensor(x, dtype=dtype, requires_grad=True)
    found = log1mexp(at)
    (slope,) = torch.autograd.grad(found, at)
    assert found.item() == (0 if x < -1 else pytest.approx(-24 * math.log(2), rel=1e-6))
    assert slope.item() == 0


@given(comparisons())
def test_orpo_weighs_the_odds_ratio_by_beta(drawn: Drawn) -> None:
    ratio = ORPOLoss(beta=1.0, nll=0.0)(*drawn)
    imitation = -(drawn[0].policy[0] / drawn[0].lengths[0][:, None]).sum(dim=1)
    torch.testing.assert_close(ORPOLoss(beta=0.25, nll=2.0)(*drawn), 0.25 * ratio + 2 * imitation, **EXACT)


def test_orpos_rewards_are_log_odds_times_beta() -> None:
    chosen, rejected = ORPOLoss(beta=0.5).rewards(*of_sums(math.log(0.8), math.log(0.1), torch.float64))
    assert chosen.item() == pytest.approx(0.5 * math.log(4), rel=1e-12)
    assert rejected.item() == pytest.approx(-0.5 * math.log(9), rel=1e-12)


# AlphaPO, SimPER, SLiC


@given(comparisons(uncertain=True))
def test_alphapo_becomes_simpo_as_alpha_vanishes(drawn: Drawn) -> None:
    plain = SimPOLoss(beta=2.5, gamma_ratio=0.1)
    for alpha in (0.0, 1e-13, -1e-300):
        same(AlphaPOLoss(alpha=alpha), plain, drawn)
    for alpha in (1e-6, -1e-6):  # reward off by alpha * logp^2 / 2 <= 3.2e-5 at 8 nats, and beta is 2.5
        same(AlphaPOLoss(alpha=alpha), plain, drawn, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("alpha", [0.25, 1.0, -1.0, 10.0])
@pytest.mark.parametrize("pair", [(-6e4, 0.0), (0.0, -6e4), (-6e4, -6e4), (-6e4, -5e4)])
def test_alphapo_is_finite_at_any_likelihood(alpha: float, pair: tuple[float, float]) -> None:
    loss, drawn = AlphaPOLoss(alpha=alpha, beta=100.0), of_sums(*pair)
    assert all(found.isfinite().all() for found in (*value_and_gradient(loss, *drawn), loss.rewards(*drawn)))


def test_alphapos_reward_goes_on_along_its_tangent() -> None:
    loss = AlphaPOLoss(alpha=0.25, beta=1.0)
    before, at, after, far = (loss.rewards(*of_sums(x, x, torch.float64))[0].item() for x in (-79.0, -80.0, -81.0, -90.0))
    slope = math.exp(20)  # of (1 - e^(-alpha x)) / alpha at x = -80
    assert before == pytest.approx((1 - math.exp(0.25 * 79)) / 0.25, rel=1e-12)
    assert at == pytest.approx((1 - slope) / 0.25, rel=1e-12)
    assert after - at == pytest.approx(-slope, rel=1e-9)
    assert far - at == pytest.approx(-10 * slope, rel=1e-9)


@given(comparisons())
def test_simper_lies_between_minus_one_and_one_and_forgets_the_hopeless(drawn: Drawn) -> None:
    assert (SimPERLoss()(*drawn).abs() < 1).all()
    _, gradient = value_and_gradient(SimPERLoss(), *of_sums(-1.0, -6e4))
    assert gradient[1].item() == 0
    assert gradient[0].item() == pytest.approx(-math.exp(-1), rel=1e-6)


@pytest.mark.parametrize(("rejected", "slope"), [(-2.9, 1.0), (-3.1, 0.0), (-6e4, 0.0)])
def test_slic_leaves_pairs_beyond_its_margin_alone(rejected: float, slope: float) -> None:
    values, gradient = value_and_gradient(SLiCLoss(delta=2.0, nll=0.0), *of_sums(-1.0, rejected, torch.float64))
    assert values.item() == pytest.approx(max(0.0, 3.0 + rejected), abs=1e-12)
    assert gradient.flatten().tolist() == [-slope, slope]


# alpha-DPO: log-probabilities (chosen, rejected) under policy and reference, of completions of one token. The gaps of the
# log-ratios are 1, -1 and -3: mean -1, sample deviation 2.

PAIRS = [((-1.0, -3.0), (-1.5, -2.5)), ((-2.0, -2.5), (-2.0, -3.5)), ((-4.0, -1.0), (-3.0, -3.0))]


def step(scale: float = 1.0) -> Drawn:
    prompts = [
        Prompt([Completion([scale * policy], [scale * reference]) for policy, reference in zip(*pair, strict=True)])
        for pair in PAIRS
    ]
    return tensors(prompts)


def test_alpha_dpo_standardises_by_the_steps_mean_and_sample_deviation() -> None:
    loss = Carried(AlphaDPOLoss(beta=2.0, gamma_ratio=0.5, alpha=0.3))
    loss.observe(*step())
    assert numbers_of(loss.state) == pytest.approx({"steps": 1.0, "mean": -1.0, "deviation": 2.0})
    targets = [0.5 + 0.3 * z for z in (1.0, 0.0, -1.0)]
    expected = [math.log1p(math.exp(-2 * (gap - target))) for gap, target in zip((2.0, 0.5, -3.0), targets, strict=True)]
    assert loss(*step()).tolist() == pytest.approx(expected, rel=1e-12)
    metrics = loss.extra_metrics(*step())
    assert metrics["target"].item() == pytest.approx(2 * 0.5, rel=1e-12)
    assert metrics["gap_mean"].item() == pytest.approx(-1.0)
    assert metrics["gap_deviation"].item() == pytest.approx(2.0)


def test_alpha_dpos_averages_forget_and_are_exact_from_the_start() -> None:
    loss = Carried(AlphaDPOLoss(decay=0.9))
    scales = [1.0, 2.0, 0.5, 3.0]
    for scale in scales:
        loss.observe(*step(scale))
    weights = [0.9 ** (len(scales) - 1 - i) for i in range(len(scales))]
    average = sum(w * s for w, s in zip(weights, scales, strict=True)) / sum(weights)
    assert numbers_of(loss.state) == pytest.approx({"steps": 4.0, "mean": -average, "deviation": 2 * average}, rel=1e-12)


@given(comparisons(uncertain=True))
def test_alpha_dpo_with_alpha_0_or_before_any_step_is_simpo(drawn: Drawn) -> None:
    plain, flat, new = SimPOLoss(beta=2.5, gamma_ratio=0.6), Carried(AlphaDPOLoss(alpha=0.0)), Carried(AlphaDPOLoss())
    flat.observe(*drawn)
    same(flat, plain, drawn)
    same(new, plain, drawn)


@given(comparisons())
def test_alpha_dpo_starts_as_simpo_where_the_policy_is_the_reference(drawn: Drawn) -> None:
    logps, batch = drawn
    start = replace(logps, policy=logps.reference)
    loss = Carried(AlphaDPOLoss())
    loss.observe(start, batch)
    same(loss, SimPOLoss(beta=2.5, gamma_ratio=0.6), (start, batch))


def test_no_gradient_goes_through_alpha_dpos_target() -> None:
    loss = Carried(AlphaDPOLoss(beta=2.0, gamma_ratio=0.5, alpha=0.3))
    loss.observe(*step())
    _, gradient = value_and_gradient(loss, *step())
    arguments = [2 * (gap - target) for gap, target in zip((2.0, 0.5, -3.0), (0.8, 0.5, 0.2), strict=True)]
    expected = [-2 / (1 + math.exp(x)) for x in arguments]
    assert gradient[0].flatten().tolist() == pytest.approx(expected, rel=1e-12)
    assert gradient[1].flatten().tolist() == pytest.approx([-g for g in expected], rel=1e-12)


def test_alpha_dpos_rewards_are_simpos() -> None:
    loss = Carried(AlphaDPOLoss(beta=2.0, alpha=0.3))
    loss.observe(*step())
    assert loss.rewards(*step()).tolist() == [[2 * policy[side] for policy, _ in PAIRS] for side in (0, 1)]


def test_one_pair_has_no_deviation() -> None:
    loss, drawn = Carried(AlphaDPOLoss()), of_sums(-1.0, -3.0)
    loss.observe(*drawn)
    assert loss.state["deviation"] == 0
    assert loss(*drawn).isfinite().all()


# What is refused

REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("simpo", {"gamma_ratio": -0.1}, "loss.gamma_ratio must be >= 0 and finite, got -0.1"),
    ("simpo", {"gamma_ratio": math.inf}, "loss.gamma_ratio must be >= 0 and finite, got inf"),
    ("alphapo", {"alpha": 11.0}, r"loss.alpha must be in \[-10, 10\], got 11"),
    ("alphapo", {"alpha": math.nan}, r"loss.alpha must be in \[-10, 10\], got nan"),
    ("alphapo", {"aggregate": Aggregate.sum}, "loss.aggregate cannot be used with loss=alphapo: .* mean probability per token"),
    ("orpo", {"aggregate": Aggregate.sum}, "loss.aggregate cannot be used with loss=orpo: its odds are those of the mean"),
    ("simper", {"aggregate": Aggregate.sum}, "loss.aggregate cannot be used with loss=simper: a perplexity is"),
    ("simper", {"beta": 2.0}, "loss.beta cannot be used with loss=simper: it has no hyperparameter"),
    ("simper", {"label_smoothing": 0.1}, "loss.label_smoothing cannot be used with loss=simper: it is linear"),
    ("simper", {"margin": Margin(constant=1.0)}, "loss.margin cannot be used with loss=simper: it is linear"),
    ("slic", {"beta": 0.1}, "loss.beta cannot be used with loss=slic: its only scale is delta"),
    ("slic", {"delta": 0.0}, "loss.delta must be > 0 and finite, got 0"),
    ("alpha_dpo", {"alpha": -0.1}, "loss.alpha must be >= 0 and finite, got -0.1"),
    ("alpha_dpo", {"decay": 1.0}, r"loss.decay must be in \[0, 1\), got 1"),
]


@pytest.mark.parametrize(("name", "settings", "message"), REFUSED)
def test_settings_that_make_no_sense_are_refused_with_the_reason(name: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LOSSES[name](**settings)
