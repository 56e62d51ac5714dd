"""A reference that is a moving average of the policy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from dpo_lab.training.references.base import REFERENCES, LiveReference, never_moves


@REFERENCES.register
@dataclass
class EMAReference(LiveReference):
    """A bias-corrected exponential moving average of the policy: EMA_t + a_t * (policy_t - policy_0).

    Block and Zhang 2025 (BEMA), arXiv:2508.00180: EMA_t = (1 - b_t) EMA_{t-1} + b_t policy_t with
    b_t = (lag + t)^-ema_power and a_t = (lag + t)^-bias_power; `correct_bias=false` leaves the second term out. It follows
    smoothly from the first step.
    """

    name: str = "ema"
    update_every: int = 400
    """Steps from one update to the next; t counts steps all the same."""
    lag: float = 10.0
    """Steps by which both powers start late; at least 0."""
    ema_power: float = 0.5
    """How fast the average forgets: its share of the policy is (lag + t)^-ema_power."""
    bias_power: float = 0.2
    """How fast the correction fades: it counts (lag + t)^-bias_power."""
    correct_bias: bool = True
    """Add the correction; false: the plain average."""

    moves: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.update_every < 1:
            raise ValueError(f"reference.update_every must be at least 1 step, got {self.update_every}")
        for name in ("ema_power", "bias_power", "lag"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"reference.{name} must be >= 0, got {getattr(self, name)}")

    def follow(self, model: nn.Module, policy: nn.Module, step: int, memory: dict[str, Tensor]) -> None:
        current = dict(policy.named_parameters())
        moved = {name: weight for name, weight in model.named_parameters() if weight is not current[name]}
        if not memory:  # the reference has not moved yet: it is where the policy began
            for name, weight in moved.items():
                memory[f"start.{name}"] = weight.detach().clone()
                memory[f"average.{name}"] = weight.detach().clone()
        if step % self.update_every:
            return
        share, correction = (self.lag + step) ** -self.ema_power, (self.lag + step) ** -self.bias_power
        for name, weight in moved.items():
            average = memory[f"average.{name}"].lerp_(current[name].to(weight.dtype), share)
            weight.copy_(average)
            if self.correct_bias:
                weight.add_(current[name] - memory[f"start.{name}"], alpha=correction)

    def warnings(self, num_steps: int) -> list[str]:
        return never_moves("update_every", self.update_every, num_steps)
