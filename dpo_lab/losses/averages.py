"""How the gaps of the steps so far are spread: exponential averages of each step's mean and deviation, as a loss's state."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from dpo_lab.losses.base import State

NO_DEVIATION = 1e-6
"""Nats. Gaps that differ by less differ by rounding, as while the policy is still the reference."""


def check_decay(decay: float) -> None:
    if not 0 <= decay < 1:
        raise ValueError(f"loss.decay must be in [0, 1), got {decay}")


def no_gaps() -> State:
    """The state before the first step."""
    return {"steps": 0.0, "mean": 0.0, "deviation": 0.0}


def with_gaps(state: Mapping[str, float | Tensor], gaps: Float[Tensor, "q b"], decay: float) -> State:
    """The state with one more step's gaps; the averages are corrected for their start. The deviation is the sample's."""
    gaps = gaps.detach().double()
    found = {"mean": gaps.mean(), "deviation": gaps.std(correction=min(1, gaps.numel() - 1))}
    steps = state["steps"] + 1
    newest = (1 - decay) / (1 - decay**steps)
    return {"steps": steps, **{name: state[name] + newest * (value - state[name]) for name, value in found.items()}}


def per_deviation(amount: float, state: Mapping[str, float | Tensor]) -> float | Tensor:
    """An amount for each standard deviation of the gaps, in nats; 0 while they do not differ."""
    deviation = state["deviation"]
    if isinstance(deviation, Tensor):
        return torch.where(deviation > NO_DEVIATION, amount / deviation, 0.0)
    return amount / deviation if deviation > NO_DEVIATION else 0.0
