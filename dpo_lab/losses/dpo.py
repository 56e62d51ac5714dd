"""Direct preference optimisation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from dpo_lab.losses.base import LOSSES, Laws
from dpo_lab.losses.pairs import PairLoss


@LOSSES.register
@dataclass
class DPOLoss(PairLoss):
    """-log sigmoid(beta * gap). Rafailov et al. 2023, arXiv:2305.18290, eq. 7.

    With `aggregate=mean` the length-normalised form of Lambert et al. 2024, arXiv:2411.15124.
    """

    name: str = "dpo"

    laws: ClassVar[Laws] = Laws(
        shift_invariant=True,
        ratios_only=True,
        scaling=True,
        monotone=True,
        convex=True,
        swap_linear=True,
        rowwise=True,
        nonnegative=True,
    )

    def of_gap(self, gap: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
        return -F.logsigmoid(self.beta * gap)
