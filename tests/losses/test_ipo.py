"""What is true of IPO's loss in particular."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dpo_lab.check.strategies import comparisons, strengths
from dpo_lab.check.transforms import swapped
from dpo_lab.losses.ipo import IPOLoss
from dpo_lab.records import Aggregate

close: Callable[..., None] = torch.testing.assert_close
EXACT = {"rtol": 1e-9, "atol": 1e-9}  # float64, values up to some hundreds, a dozen operations


@given(st.data())
def test_ipo_swap_costs_twice_the_gap_over_beta(data: st.DataObject) -> None:
    loss = data.draw(strengths(IPOLoss))
    logps, batch = data.draw(comparisons())
    if loss.aggregate is Aggregate.sampled:
        return  # the other order draws other tokens
    chosen, rejected = logps.logratios(loss.token_weights(logps, batch))
    close(loss(logps, batch) - loss(*swapped(logps, batch)), -2 * (chosen - rejected) / loss.beta, **EXACT)


@pytest.mark.parametrize("beta", [0.05, 0.1, 2.0])
def test_ipo_is_a_parabola_of_curvature_2_that_is_0_at_its_target(beta: float) -> None:
    target = 1 / (2 * beta)
    gap = target + torch.tensor([0.0, 0.5, -0.5, 7.0], dtype=torch.float64)
    gap.requires_grad_()
    values = IPOLoss(beta=beta).per_pair(gap)
    close(values, torch.tensor([0.0, 0.25, 0.25, 49.0], dtype=torch.float64), **EXACT)
    (slope,) = torch.autograd.grad(values.sum(), gap, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.sum(), gap)
    assert slope[0].abs() < 1e-12
    close(curvature, torch.full_like(curvature, 2.0), **EXACT)
