"""No reward."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dpo_lab.preferences.rewards.base import REWARDS, RewardSpec, Scorer


@REWARDS.register
@dataclass
class NoReward(RewardSpec):
    """For pairs that people labelled: nothing scores samples, so evaluations report KL, entropy and lengths only."""

    name: str = "none"

    def load(self, directory: Path) -> Scorer | None:
        return None
