"""How the differences of the steps so far are spread: exponential averages of each step's mean and deviation, as a state."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from dpo_lab.losses.base import State

NO_DEVIATION = 1e-6
"""Nats. Differences that differ by less differ by rounding, as while the policy is still the reference."""


def no_averages() -> State:
    """The state before the first step."""
    return {"steps": 0.0, "mean": 0.0, "deviation": 0.0}


def averaged(state: State, diffs: Float[Tensor, "q b"], decay: float) -> State:
    """The state with one more step; the averages are corrected for their start. The deviation is the sample's."""
    diffs = diffs.detach().double()
    of_step = {"mean": diffs.mean(), "deviation": diffs.std(correction=min(1, diffs.numel() - 1))}
    steps = state["steps"] + 1
    newest = (1 - decay) / (1 - decay**steps)
    return {"steps": steps, **{name: state[name] + newest * (value - state[name]) for name, value in of_step.items()}}


def per_deviation(amount: float, state: State) -> float | Tensor:
    """An amount for each standard deviation of the differences, in nats; 0 while they do not differ."""
    deviation = state["deviation"]
    if isinstance(deviation, Tensor):
        return torch.where(deviation > NO_DEVIATION, amount / deviation, 0.0)
    return amount / deviation if deviation > NO_DEVIATION else 0.0
