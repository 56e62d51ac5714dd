"""What a log-ratio counts for when the policy is held to the reference by another divergence than the reverse KL."""

from __future__ import annotations

import math
from enum import Enum

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

LARGEST_EXPONENT = 20.0


class Divergence(Enum):
    """The link f'(policy / reference), up to constants that cancel between two completions of one prompt.

    f-DPO, Wang et al. 2023, arXiv:2309.16240: reverse_kl (plain DPO), forward_kl, js (Jensen-Shannon), alpha. chi_squared is
    chi^2 with KL (chi-PO, Huang et al. 2024, arXiv:2407.13399).
    """

    reverse_kl = "reverse_kl"
    forward_kl = "forward_kl"
    js = "js"
    alpha = "alpha"
    chi_squared = "chi_squared"


def link(ratios: Float[Tensor, "*s"], divergence: Divergence, alpha: float) -> Float[Tensor, "*s"]:
    """The log-ratio under `divergence`: 0 or a constant at 0, and rising."""
    if divergence is Divergence.forward_kl:
        return -expm1_then_straight(-ratios)
    if divergence is Divergence.js:
        return math.log(2) + F.logsigmoid(ratios)
    if divergence is Divergence.alpha:
        return -expm1_then_straight(-alpha * ratios) / alpha
    if divergence is Divergence.chi_squared:
        return 1 + expm1_then_straight(ratios) + ratios
    return ratios


def expm1_then_straight(x: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
    """e^x - 1 up to x = 20, then the tangent: finite at any log-ratio, and the gradient never vanishes as a clamp's would."""
    inside = x.clamp(max=LARGEST_EXPONENT)
    return torch.expm1(inside) + torch.exp(inside) * (x - inside)
