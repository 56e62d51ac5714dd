"""What is true of single losses of pairs, beyond their equations and the laws of all."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from losses.oracles.base import Completion, Prompt, tensors
from torch import Tensor

from dpo_lab.losses import LOSSES, Pair, PairLoss
from dpo_lab.losses.discopop import DiscoPOPLoss
from dpo_lab.losses.divergences import Divergence
from dpo_lab.losses.dpo import DPOLoss
from dpo_lab.losses.exo import EXOLoss
from dpo_lab.losses.hinge import HingeLoss
from dpo_lab.losses.margins import Margin
from dpo_lab.losses.pairs import Side
from dpo_lab.losses.rebel import REBELLoss
from dpo_lab.losses.reward_kl import Distance, RewardKLLoss
from dpo_lab.losses.robust import RobustLoss
from dpo_lab.losses.tdpo import TDPO1Loss, TDPO2Loss
from dpo_lab.records import Aggregate

GAPS = torch.linspace(-12, 12, 97, dtype=torch.float64)
close = torch.testing.assert_close


def pair(chosen: Tensor, rejected: Tensor, **of_both: tuple[Tensor, Tensor]) -> Pair:
    """Pairs with these log-ratios, and (chosen, rejected) scores or divergences."""
    sides = [Side(ratio, **{name: two[i] for name, two in of_both.items()}) for i, ratio in enumerate((chosen, rejected))]
    return Pair(*sides, diff=chosen - rejected)


def value_and_slope(loss: PairLoss, gaps: Tensor) -> tuple[Tensor, Tensor]:
    gaps = gaps.clone().requires_grad_()
    values = loss.per_pair(gaps)
    (slope,) = torch.autograd.grad(values.sum(), gaps)
    return values.detach(), slope


@pytest.mark.parametrize("beta", [0.1, 2.0])
def test_the_constants_at_the_reference_are_those_of_the_catalogue(beta: float) -> None:
    squares = 2 * (0.5 / beta) ** 2  # sppo: 50 at beta .1
    constants = {"robust": math.log(2), "hinge": 1, "sppo": squares, "apo_zero": 1, "apo_down": 1, "dpop": math.log(2)}
    constants |= {"tdpo1": math.log(2), "tdpo2": math.log(2), "cal_dpo": math.log(2) + squares}
    constants |= {"exo": -math.log(2) - math.log(0.999 * 0.001) / 2, "discopop": (math.log(2) + 1) / 2}
    for name, constant in constants.items():
        assert LOSSES[name](beta=beta).value_at_reference() == pytest.approx(constant, rel=1e-12), name
    assert constants["exo"] == pytest.approx(2.7612, abs=5e-5)
    assert constants["discopop"] == pytest.approx(0.8466, abs=5e-5)
    for name in ("rebel", "reward_kl"):
        assert LOSSES[name](beta=beta).value_at_reference() is None


@pytest.mark.parametrize("epsilon", [0.0, 0.1, 0.45])
def test_the_expectation_of_robust_over_flipped_labels_is_dpo(epsilon: float) -> None:
    robust, dpo = RobustLoss(beta=0.7, epsilon=epsilon), DPOLoss(beta=0.7)
    close((1 - epsilon) * robust.per_pair(GAPS) + epsilon * robust.per_pair(-GAPS), dpo.per_pair(GAPS))
    if epsilon == 0:
        close(robust.per_pair(GAPS), dpo.per_pair(GAPS))


def test_robust_falls_without_bound() -> None:
    values, slope = value_and_slope(RobustLoss(beta=1.0, epsilon=0.2), torch.tensor([1e3, 1e6], dtype=torch.float64))
    close(values, torch.tensor([-1e3 / 3, -1e6 / 3], dtype=torch.float64))
    close(slope, torch.full_like(slope, -1 / 3))


def test_hinge_is_0_exactly_where_a_pair_is_won_by_1() -> None:
    loss = HingeLoss(beta=0.5)
    values, swapped = loss.per_pair(GAPS), loss.per_pair(-GAPS)
    assert torch.equal(values == 0, 0.5 * GAPS >= 1)
    assert (values + swapped >= 2 - 1e-12).all()
    close((values + swapped)[GAPS.abs() <= 2], torch.full_like(GAPS[GAPS.abs() <= 2], 2.0))


@pytest.mark.parametrize("epsilon", [1e-3, 0.2])
def test_exo_and_conservative_dpo_are_the_two_directions_of_one_divergence(epsilon: float) -> None:
    exo, dpo, best = EXOLoss(beta=1.0, epsilon=epsilon), DPOLoss(beta=1.0), math.log((1 - epsilon) / epsilon)
    entropy = -epsilon * math.log(epsilon) - (1 - epsilon) * math.log1p(-epsilon)
    other = (1 - epsilon) * dpo.per_pair(GAPS) + epsilon * dpo.per_pair(-GAPS) - entropy
    jeffreys = (torch.sigmoid(GAPS) - (1 - epsilon)) * (GAPS - best)
    close(exo.per_pair(GAPS) + other, jeffreys)
    values, slope = value_and_slope(exo, torch.tensor([best, -1e4, 1e4], dtype=torch.float64))
    close(values, torch.tensor([0.0, -math.log(epsilon), -math.log1p(-epsilon)], dtype=torch.float64))
    close(slope, torch.zeros_like(slope))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("tau", [0.05, 0.5, 1.0])
def test_discopop_is_its_limits_far_from_0(tau: float, dtype: torch.dtype) -> None:
    x = torch.tensor([-1e7, -1e4, -100.0, 80.0, 1e4, 1e7], dtype=dtype)
    values, slope = value_and_slope(DiscoPOPLoss(beta=1.0, tau=tau), x)
    # Lost: the logistic's -x, and at tau 1 the exponential's m e^-x = sigmoid(-x) = 1 beside it. Won: e^-x.
    beside = [float(tau == 1)] * 3
    logistic_is_gated = math.exp(-80) * (1 + math.exp(-80 / tau))
    close(values, torch.tensor([1e7 + beside[0], 1e4 + beside[1], 100 + beside[2], logistic_is_gated, 0, 0], dtype=dtype))
    close(slope, torch.tensor([-1, -1, -1, -math.exp(-80), 0, 0], dtype=dtype))


def test_discopop_rises_at_0() -> None:
    for tau in (0.05, 0.2):
        _, slope = value_and_slope(DiscoPOPLoss(beta=1.0, tau=tau), torch.zeros(1, dtype=torch.float64))
        # Half the slopes of both branches, and the gate's slope times their difference.
        assert slope.item() == pytest.approx(-0.75 + (1 - math.log(2)) / (4 * tau), rel=1e-12)


def test_tdpo_without_divergence_is_dpo() -> None:
    nothing, sides = torch.zeros_like(GAPS), (GAPS, -GAPS / 2)
    for loss in (TDPO1Loss(beta=0.3), TDPO2Loss(beta=0.3, alpha=2.0)):
        close(loss.per_sides(pair(*sides, kl=(nothing, nothing))), DPOLoss(beta=0.3).per_sides(pair(*sides)))
    some = pair(*sides, kl=(GAPS**2, GAPS.abs()))
    close(TDPO2Loss(beta=0.3, alpha=0.0).per_sides(some), DPOLoss(beta=0.3).per_sides(some))
    close(TDPO2Loss(beta=0.3, alpha=1.0).per_sides(some), TDPO1Loss(beta=0.3).per_sides(some))
    with pytest.raises(AssertionError, match="without the KL"):
        TDPO1Loss().per_sides(pair(*sides))


def test_only_tdpo1_sends_a_gradient_through_the_chosen_divergence() -> None:
    chosen, rejected = (torch.full((1,), at, dtype=torch.float64, requires_grad=True) for at in (0.5, 2.0))
    zero = torch.zeros(1, dtype=torch.float64)
    sides = pair(zero, zero, kl=(chosen, rejected))
    by_chosen, by_rejected = torch.autograd.grad(TDPO1Loss(beta=2.0).per_sides(sides), (chosen, rejected))
    assert by_rejected.item() == -by_chosen.item() == pytest.approx(2 / (1 + math.exp(-3)))  # 2 sigmoid(2 * 1.5)
    only = torch.autograd.grad(TDPO2Loss(beta=2.0, alpha=0.5).per_sides(sides), (chosen, rejected), allow_unused=True)
    assert only[0] is None
    assert only[1].item() == pytest.approx(1 / (1 + math.exp(-1.5)))  # 2 * .5 sigmoid(2 * .5 * 1.5)


@pytest.mark.parametrize("loss", [TDPO1Loss(beta=0.3), TDPO2Loss(beta=0.3, alpha=0.7)], ids=lambda loss: loss.name)
def test_the_logged_margin_of_tdpo_is_that_of_its_sigmoid(loss: PairLoss) -> None:
    logps, batch = tensors([Prompt([Completion([-1.0], [-3.0], kl=[0.5]), Completion([-1.0], [-0.5], kl=[2.0])])])
    chosen, rejected = loss.rewards(logps, batch)
    close(loss(logps, batch), -torch.nn.functional.logsigmoid(chosen - rejected))


@pytest.mark.parametrize("loss", [REBELLoss(beta=0.5), *(RewardKLLoss(beta=0.5, distance=d) for d in Distance)])
def test_losses_of_scores_are_least_and_0_where_the_margin_is_that_of_the_scores(loss: Any) -> None:
    scores, eta = (torch.full_like(GAPS, 1.25), torch.full_like(GAPS, -0.25)), getattr(loss, "eta", 1.0)
    gaps = GAPS.clone().requires_grad_()
    sides = pair(gaps, torch.zeros_like(gaps), score=scores)
    values = loss.per_sides(sides)
    (slope,) = torch.autograd.grad(values.sum(), gaps)
    short = eta * 1.5 - 0.5 * GAPS
    assert short.eq(0).sum() == 1
    close(values[short == 0], torch.zeros(1, dtype=torch.float64))
    assert (slope * short <= 1e-16).all()
    assert torch.equal(slope.abs() < 1e-12, short == 0)
    close(loss.per_sides(sides.swapped()), values)  # which of the two is called chosen says nothing


@pytest.mark.parametrize("margin", [0.3, 2.0])
def test_reward_kl_is_exo_and_conservative_dpo_with_labels_from_the_scores(margin: float) -> None:
    scores, wrong = (torch.full_like(GAPS, margin), torch.zeros_like(GAPS)), 1 / (1 + math.exp(2 * margin))
    sides, dpo = pair(GAPS, torch.zeros_like(GAPS), score=scores), DPOLoss(beta=0.5)
    losses = {distance: RewardKLLoss(beta=0.5, eta=2.0, distance=distance) for distance in Distance}
    close(losses[Distance.forward].per_sides(sides), EXOLoss(beta=0.5, epsilon=wrong).per_pair(GAPS))
    entropy = -wrong * math.log(wrong) - (1 - wrong) * math.log1p(-wrong)
    close(losses[Distance.backward].per_sides(sides), (1 - wrong) * dpo.per_pair(GAPS) + wrong * dpo.per_pair(-GAPS) - entropy)
    # REBEL as its authors' code has it, (gap - eta * scores)^2, with eta = 1 / beta.
    close(REBELLoss(beta=0.25).per_sides(sides) * 16, (GAPS - 4 * margin) ** 2)
    close(RewardKLLoss(beta=0.5, eta=1.0, distance=Distance.squared).per_sides(sides), REBELLoss(beta=0.5).per_sides(sides))


def test_losses_of_scores_refuse_data_without() -> None:
    _, batch = tensors([Prompt([Completion([-1.0], [-3.0]), Completion([-1.0], [-0.5])])])
    batch.scores = None
    for name in ("rebel", "reward_kl"):
        with pytest.raises(ValueError, match="needs the candidates' scores"):
            LOSSES[name]().check(batch)


OUT_OF_RANGE = [("robust", "epsilon", 0.5), ("robust", "epsilon", -0.1), ("exo", "epsilon", 0.5), ("discopop", "tau", 0.0)]
OUT_OF_RANGE += [("discopop", "tau", 1.5), ("dpop", "penalty", -1.0), ("cal_dpo", "calibration", math.inf)]
OUT_OF_RANGE += [("tdpo2", "alpha", -0.5), ("reward_kl", "eta", 0.0), ("reward_kl", "eta", math.nan)]


@pytest.mark.parametrize(("name", "field", "value"), OUT_OF_RANGE)
def test_values_outside_their_range_are_refused_by_name(name: str, field: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"loss\.{field} must be .*, got"):
        LOSSES[name](**{field: value})


def test_exo_says_why_a_label_cannot_be_certain() -> None:
    with pytest.raises(ValueError, match=r"must be in \(0, 0.5\), got 0.0: .*infinite"):
        EXOLoss(epsilon=0.0)


REFUSED = [
    ({"divergence": Divergence.js}, "dpop sppo apo_zero apo_down cal_dpo tdpo1 tdpo2"),
    ({"margin": Margin(0.5)}, "sppo apo_zero cal_dpo rebel reward_kl"),
    ({"label_smoothing": 0.1}, "robust exo rebel reward_kl"),
    ({"aggregate": Aggregate.mean}, "tdpo1 tdpo2"),
]


@pytest.mark.parametrize(("name", "option"), [(name, option) for option, names in REFUSED for name in names.split()])
def test_options_that_make_no_sense_are_refused_with_a_reason(name: str, option: dict[str, Any]) -> None:
    (field,) = option
    with pytest.raises(ValueError, match=rf"loss\.{field} cannot be used with loss={name}: \S+ \S+ \S+"):
        LOSSES[name](**option)
