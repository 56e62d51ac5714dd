"""A reference that is moved towards the policy from time to time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from dpo_lab.training.references.base import REFERENCES, LiveReference, never_moves


@REFERENCES.register
@dataclass
class SyncedReference(LiveReference):
    """Every `sync_every` steps, reference <- mixup * policy + (1 - mixup) * reference.

    Gorbatovski et al. 2024 (TR-DPO), arXiv:2404.09656: mixup 1 is the hard update, less the soft one. For long runs, where a
    fixed reference holds too tightly.
    """

    name: str = "synced"
    sync_every: int = 512
    """Steps from one update to the next."""
    mixup: float = 0.6
    """Share of the policy in an update; 1 replaces the reference."""

    moves: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.sync_every < 1:
            raise ValueError(f"reference.sync_every must be at least 1 step, got {self.sync_every}")
        if not 0 < self.mixup <= 1:
            raise ValueError(f"reference.mixup must be in (0, 1], got {self.mixup}")

    def follow(self, model: nn.Module, policy: nn.Module, step: int, memory: dict[str, Tensor]) -> None:
        if step % self.sync_every == 0:
            for weight, current in zip(model.parameters(), policy.parameters(), strict=True):
                if weight is not current:  # what lies under an adapter is the same in both
                    weight.mul_(1 - self.mixup).add_(current, alpha=self.mixup)

    def warnings(self, num_steps: int) -> list[str]:
        return never_moves("sync_every", self.sync_every, num_steps)
