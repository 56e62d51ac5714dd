"""Direct preference optimisation."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from dpo_lab.losses import LOSSES, Laws, PairLoss


@LOSSES.register
@dataclass
class DPOLoss(PairLoss):
    """-log sigmoid(beta * diff). Rafailov et al. 2023, arXiv:2305.18290, eq. 7.

    The standard choice. With `aggregate=mean` the length-normalised form of Lambert et al. 2024, arXiv:2411.15124, for which
    beta is 2-10.
    """

    name: str = "dpo"
    laws = Laws.of("shift_invariant ratios_only scaling monotone convex swap_linear rowwise nonnegative")

    def per_pair(self, diff: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
        return -F.logsigmoid(self.beta * diff)
