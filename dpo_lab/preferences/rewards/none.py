"""No reward."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from dpo_lab.preferences.rewards.base import REWARDS, RewardSpec, Scorer


@REWARDS.register
@dataclass
class NoReward(RewardSpec):
    """No reward, for pairs that people labelled: evaluations report KL, entropy and lengths only."""

    name: str = "none"

    has_scores: ClassVar[bool] = False

    def load(self, directory: Path) -> Scorer | None:
        return None
