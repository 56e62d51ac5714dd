"""A lexicon: the reward is a sum of values of words, and so is known exactly."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from dpo_lab.preferences.rewards.base import REWARDS, RewardSpec, Scorer


@REWARDS.register
@dataclass
class LexiconReward(RewardSpec):
    """The sum of the values of a text's words (split at spaces); words without a value count nothing."""

    name: str = "lexicon"
    values: dict[str, float] = field(default_factory=dict)
    """What each word counts: {good: 1, bad: -1}."""

    def __post_init__(self) -> None:
        if not any(self.values.values()):
            raise ValueError("reward.values must give some word a value, for example reward.values='{good: 1, bad: -1}'")
        if not all(map(math.isfinite, self.values.values())):
            raise ValueError(f"reward.values must be finite, got {str(self.values)[:100]}")

    def load(self, directory: Path) -> Scorer:
        def scorer(texts: Sequence[str]) -> Float[Tensor, " n"]:
            return torch.tensor(
                [sum(self.values.get(word, 0.0) for word in text.split()) for text in texts], dtype=torch.float32
            )

        return scorer
