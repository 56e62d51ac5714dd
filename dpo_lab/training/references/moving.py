"""References that follow the policy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from dpo_lab.training.references.base import REFERENCES, LiveReference


@REFERENCES.register
@dataclass
class SyncedReference(LiveReference):
    """Every `sync_every` steps, reference <- mixup * policy + (1 - mixup) * reference.

    Gorbatovski et al. 2024 (TR-DPO), arXiv:2404.09656: mixup 1 is the hard update, less the soft one.
    """

    name: str = "synced"
    sync_every: int = 512
    mixup: float = 0.6

    moves: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.sync_every < 1:
            raise ValueError(f"reference.sync_every must be at least 1 step, got {self.sync_every}")
        if not 0 < self.mixup <= 1:
            raise ValueError(f"reference.mixup must be in (0, 1], got {self.mixup}")

    def follow(self, model: nn.Module, policy: nn.Module, step: int, memory: dict[str, Tensor]) -> None:
        if step % self.sync_every == 0:
            for ours, theirs in zip(model.parameters(), policy.parameters(), strict=True):
                if ours is not theirs:  # what lies under an adapter is the same in both
                    ours.mul_(1 - self.mixup).add_(theirs, alpha=self.mixup)

    def remarks(self, num_steps: int) -> list[str]:
        return _never_moves("sync_every", self.sync_every, num_steps)


@REFERENCES.register
@dataclass
class EMAReference(LiveReference):
    """A bias-corrected exponential moving average of the policy: EMA_t + a_t * (policy_t - policy_0).

    Block and Zhang 2025 (BEMA), arXiv:2508.00180: EMA_t = (1 - b_t) EMA_{t-1} + b_t policy_t with
    b_t = (lag + t)^-ema_power and a_t = (lag + t)^-bias_power; `correct_bias=false` leaves the second term out.
    """

    name: str = "ema"
    update_every: int = 400
    """Steps from one update to the next; t counts steps all the same."""
    lag: float = 10.0
    ema_power: float = 0.5
    bias_power: float = 0.2
    correct_bias: bool = True

    moves: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.update_every < 1:
            raise ValueError(f"reference.update_every must be at least 1 step, got {self.update_every}")
        for name in ("ema_power", "bias_power", "lag"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"reference.{name} must be >= 0, got {getattr(self, name)}")

    def follow(self, model: nn.Module, policy: nn.Module, step: int, memory: dict[str, Tensor]) -> None:
        theirs = dict(policy.named_parameters())
        ours = {name: weight for name, weight in model.named_parameters() if weight is not theirs[name]}
        if not memory:  # the reference has not moved yet: it is where the policy began
            for name, weight in ours.items():
                memory[f"start.{name}"] = weight.detach().clone()
                memory[f"average.{name}"] = weight.detach().clone()
        if step % self.update_every:
            return
        share, correction = (self.lag + step) ** -self.ema_power, (self.lag + step) ** -self.bias_power
        for name, weight in ours.items():
            average = memory[f"average.{name}"].lerp_(theirs[name].to(weight.dtype), share)
            weight.copy_(average)
            if self.correct_bias:
                weight.add_(theirs[name] - memory[f"start.{name}"], alpha=correction)

    def remarks(self, num_steps: int) -> list[str]:
        return _never_moves("update_every", self.update_every, num_steps)


def _never_moves(field: str, every: int, num_steps: int) -> list[str]:
    if every <= num_steps:
        return []
    return [f"reference.{field}={every} exceeds the {num_steps} steps of the run: the reference never moves"]
