"""What is true of single losses that look at the chosen or the rejected log-ratio by itself."""

from __future__ import annotations

import pytest
import torch
from losses.oracles.base import Completion, Prompt, tensors
from torch import Tensor

from dpo_lab.losses import Pair
from dpo_lab.losses.apo import APODownLoss, APOZeroLoss
from dpo_lab.losses.cal_dpo import CalDPOLoss
from dpo_lab.losses.dpo import DPOLoss
from dpo_lab.losses.dpop import DPOPLoss
from dpo_lab.losses.pairs import Side
from dpo_lab.losses.sppo import SPPOLoss

GAPS = torch.linspace(-12, 12, 97, dtype=torch.float64)
close = torch.testing.assert_close


def pair(chosen: Tensor, rejected: Tensor) -> Pair:
    """Pairs with these log-ratios."""
    return Pair(Side(chosen), Side(rejected), chosen - rejected)


def test_dpop_is_dpo_where_the_chosen_completion_has_not_lost() -> None:
    gained = GAPS.abs()
    sides = pair(gained, gained - GAPS)
    close(DPOPLoss().per_sides(sides), DPOLoss().per_sides(sides))
    close(DPOPLoss(penalty=0.0).per_sides(pair(GAPS, -GAPS)), DPOLoss().per_sides(pair(GAPS, -GAPS)))
    # Where it has lost t nats, each counts as so many nats of the gap.
    close(DPOPLoss(penalty=50.0).per_sides(pair(-gained, -gained - GAPS)), DPOLoss().per_pair(GAPS - 50 * gained))


@pytest.mark.parametrize("right", [0.0, 0.3, 0.5, 1.0])
def test_soft_labels_make_sppo_a_regression_on_the_win_rate(right: float) -> None:
    beta, target = 0.2, (right - 0.5) / 0.2
    ratios = [[1.5, -0.5], [target, -target], [-4.0, 3.0]]
    logps, batch = tensors([Prompt([Completion([w], [0.0]), Completion([lost], [0.0])], right) for w, lost in ratios])
    logps.policy.requires_grad_()
    (gradient,) = torch.autograd.grad(SPPOLoss(beta=beta)(logps, batch).sum(), logps.policy)
    expected = [[2 * (w - target) for w, _ in ratios], [2 * (lost + target) for _, lost in ratios]]
    close(gradient[:, :, 0], torch.tensor(expected, dtype=torch.float64))


def test_apo_zero_raises_the_chosen_and_apo_down_lowers_it() -> None:
    chosen, rejected = (torch.tensor([0.0, at], dtype=torch.float64, requires_grad=True) for at in (0.0, -8.0))
    zero = torch.autograd.grad(APOZeroLoss(beta=0.4).per_sides(pair(chosen, rejected)).sum(), (chosen, rejected))
    assert [of[0].item() for of in zero] == pytest.approx([-0.1, 0.1])  # beta / 4 each at the reference
    down = torch.autograd.grad(APODownLoss(beta=0.4).per_sides(pair(chosen, rejected)).sum(), (chosen, rejected))
    assert [of[0].item() for of in down] == pytest.approx([0.0, 0.1])  # both terms pull at the chosen one alike
    assert down[0][1] > 0  # once the pair is won: down
    assert down[1][1] > 0  # the rejected one always


def test_cal_dpo_is_dpo_without_beta_plus_sppo() -> None:
    sides = pair(GAPS, GAPS.flip(0) / 3)
    contrast, squares = DPOLoss(beta=1.0).per_sides(sides), SPPOLoss(beta=0.3).per_sides(sides)
    for calibration in (0.0, 0.5, 1.0):
        close(CalDPOLoss(beta=0.3, calibration=calibration).per_sides(sides), contrast + calibration * squares)
