"""A loss in one file: `user_modules=[my_lab.losses] loss=squared_hinge loss.target=2`."""

from dataclasses import dataclass

import torch

from dpo_lab.losses import LOSSES, Laws, PairLoss


@LOSSES.register
@dataclass
class SquaredHingeLoss(PairLoss):
    """relu(target - beta * diff)^2, diff the log-ratio of the chosen minus that of the rejected completion."""

    name: str = "squared_hinge"
    target: float = 1.0
    """Reward margin at which a pair is won."""
    laws = Laws.of("shift_invariant ratios_only scaling monotone convex rowwise nonnegative")

    def per_pair(self, diff):
        return torch.relu(self.target - self.beta * diff) ** 2
