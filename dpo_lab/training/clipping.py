"""Gradient clipping."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

Norms = dict[str, Tensor]
"""The norm of each parameter's gradient before clipping, by the parameter's name."""


def clip(policy: nn.Module, limit: float | None) -> tuple[Float[Tensor, ""], Norms]:
    """Clip the gradient to a norm of `limit`; the norm before that, of the whole and of each parameter.

    `nn.utils.clip_grad_norm_` computes the norms of the parameters too, but throws them away: they tell which one is nan.
    """
    gradients = {name: parameter.grad for name, parameter in policy.named_parameters() if parameter.grad is not None}
    norms = torch._foreach_norm(list(gradients.values()), 2.0)
    total = torch.linalg.vector_norm(torch.stack(list(norms)))
    nn.utils.clip_grads_with_norm_(policy.parameters(), math.inf if limit is None else limit, total)
    return total, dict(zip(gradients, norms, strict=True))
