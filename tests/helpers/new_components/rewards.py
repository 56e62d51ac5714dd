"""A reward in one file: `user_modules=[my_lab.rewards] reward=length reward.words=10`."""

from dataclasses import dataclass

import torch

from dpo_lab.preferences.rewards import REWARDS, RewardSpec


@REWARDS.register
@dataclass
class LengthReward(RewardSpec):
    """Minus the number of words that a text (prompt and completion) is too long or too short."""

    name: str = "length"
    words: int = 8

    def load(self, directory):
        return lambda texts: torch.tensor([-float(abs(len(text.split()) - self.words)) for text in texts])
