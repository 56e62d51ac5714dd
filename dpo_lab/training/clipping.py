"""The norm of a gradient, and its limit."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

Norms = dict[str, Tensor]
"""Of each parameter's part of the gradient, by the parameter's name, as it was before anything was cut."""


def clip(policy: nn.Module, limit: float | None) -> tuple[Float[Tensor, ""], Norms]:
    """The gradient's norm, which is then cut to `limit` at most, and the norms of its parts.

    `nn.utils.clip_grad_norm_` computes the parts too, and throws them away: they tell which one is no number.
    """
    gradients = {name: parameter.grad for name, parameter in policy.named_parameters() if parameter.grad is not None}
    norms = torch._foreach_norm(list(gradients.values()), 2.0)
    total = torch.linalg.vector_norm(torch.stack(list(norms)))
    nn.utils.clip_grads_with_norm_(policy.parameters(), math.inf if limit is None else limit, total)
    return total, dict(zip(gradients, norms, strict=True))
