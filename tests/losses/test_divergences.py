"""What a log-ratio counts for under each divergence."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from dpo_lab.losses.divergences import LARGEST_EXPONENT, Divergence, link

RATIOS = torch.linspace(-9, 9, 73, dtype=torch.float64)
FAR = torch.tensor([-6e4, -1e3, -21.0, -20.0, -19.0, -1.0, 0.0, 1.0, 19.0, 20.0, 21.0, 1e3, 6e4])
ALPHA = 0.3
close = torch.testing.assert_close
each = pytest.mark.parametrize("divergence", Divergence)

GENERATORS: dict[Divergence, Callable[[Tensor], Tensor]] = {
    Divergence.reverse_kl: lambda u: u * u.log(),
    Divergence.forward_kl: lambda u: -u.log(),
    Divergence.js: lambda u: u * u.log() - (1 + u) * ((1 + u) / 2).log(),
    Divergence.alpha: lambda u: (u ** (1 - ALPHA) - (1 - ALPHA) * u - ALPHA) / (ALPHA * (ALPHA - 1)),
    Divergence.chi_squared: lambda u: (u - 1) ** 2 / 2 + u * u.log(),
}
"""f of D_f(policy || reference) = E_reference f(policy / reference)."""


def slope(ratios: Tensor, divergence: Divergence, alpha: float = ALPHA) -> Tensor:
    ratios = ratios.clone().requires_grad_()
    (found,) = torch.autograd.grad(link(ratios, divergence, alpha).sum(), ratios)
    return found


@each
def test_the_link_is_the_derivative_of_the_divergences_generator(divergence: Divergence) -> None:
    u = RATIOS.exp().requires_grad_()
    (derivative,) = torch.autograd.grad(GENERATORS[divergence](u).sum(), u)
    difference = link(RATIOS, divergence, ALPHA) - derivative
    close(difference, difference[0].expand_as(difference), rtol=0, atol=1e-9)  # a constant, which cancels between two texts


def test_the_links_are_the_formulas_of_the_papers() -> None:
    # TRL's too, whose coefficient of the alpha divergence is 1 - alpha.
    one = 1 - ALPHA
    formulas: dict[Divergence, Callable[[float], float]] = {
        Divergence.reverse_kl: lambda rho: rho,
        Divergence.forward_kl: lambda rho: 1 - 1 / math.exp(rho),
        Divergence.js: lambda rho: math.log(2 * math.exp(rho) / (1 + math.exp(rho))),
        Divergence.alpha: lambda rho: (math.exp(rho) ** (one - 1) - 1) / (one - 1),
        Divergence.chi_squared: lambda rho: math.exp(rho) + rho,
    }
    for divergence, formula in formulas.items():
        expected = torch.tensor([formula(rho) for rho in RATIOS.tolist()], dtype=torch.float64)
        close(link(RATIOS, divergence, ALPHA), expected, rtol=1e-12, atol=1e-12)


def test_alpha_goes_from_the_reverse_to_the_forward_divergence() -> None:
    close(link(RATIOS, Divergence.alpha, 1.0), link(RATIOS, Divergence.forward_kl, ALPHA))
    for alpha in (1e-2, 1e-4, 1e-6):
        # (1 - e^(-alpha rho)) / alpha = rho - alpha rho^2 / 2 + ...; the difference of two numbers near 1 costs 1e-16 / alpha.
        bound = alpha * RATIOS**2 / 2 * (1 + alpha * 9) + 1e-9
        assert ((link(RATIOS, Divergence.alpha, alpha) - RATIOS).abs() <= bound).all()


@each
def test_the_link_is_a_known_constant_at_the_reference(divergence: Divergence) -> None:
    at_0 = link(torch.zeros(1), divergence, ALPHA).item()
    assert at_0 == pytest.approx(float(divergence is Divergence.chi_squared), abs=1e-7)
    # One nat near the reference counts as with the reverse KL; half of that in js, twice in chi^2 beside KL.
    expected = {Divergence.js: 0.5, Divergence.chi_squared: 2.0}.get(divergence, 1.0)
    assert slope(torch.zeros(1), divergence).item() == pytest.approx(expected)


@each
@pytest.mark.parametrize("alpha", [1e-3, 0.5, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_link_rises_and_stays_finite_to_the_ends(divergence: Divergence, alpha: float, dtype: torch.dtype) -> None:
    everywhere = torch.linspace(-6e4, 6e4, 10_001, dtype=dtype)
    for ratios in (FAR.to(dtype), everywhere):
        values, slopes = link(ratios, divergence, alpha), slope(ratios, divergence, alpha)
        assert values.isfinite().all()
        assert (values.diff() >= 0).all()
        assert slopes.isfinite().all()
        assert (slopes >= 0).all()
        assert values.dtype == dtype


@pytest.mark.parametrize(
    ("divergence", "sign", "alpha"),
    [(Divergence.forward_kl, -1, 0.5), (Divergence.alpha, -1, 0.25), (Divergence.chi_squared, 1, 0.5)],
)
def test_the_exponential_goes_over_into_its_tangent_without_a_jump(divergence: Divergence, sign: int, alpha: float) -> None:
    join = sign * LARGEST_EXPONENT / (alpha if divergence is Divergence.alpha else 1)
    near = join + torch.tensor([-1e-6, 0.0, 1e-6], dtype=torch.float64)
    values, slopes = link(near, divergence, alpha), slope(near, divergence, alpha)
    # Twice differentiable on one side and straight on the other: over 1e-6 the slope changes by its millionth at most.
    close(slopes, slopes[1].expand_as(slopes), rtol=2e-6, atol=0)
    close(values[2] - values[1], values[1] - values[0], rtol=1e-4, atol=0)
    far = join + sign * torch.tensor([1.0, 100.0], dtype=torch.float64)
    close(slope(far, divergence, alpha), slopes[1].expand_as(far))  # it never vanishes, as a clamp's would
