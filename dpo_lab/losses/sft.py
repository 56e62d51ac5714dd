"""Maximum likelihood of the chosen completion."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from dpo_lab.losses.base import LOSSES, Laws, PreferenceLoss
from dpo_lab.records import Aggregate, CandidateBatch, Logps

WHY = "it imitates the chosen completion and compares it with nothing"


@LOSSES.register
@dataclass
class SFTLoss(PreferenceLoss):
    """-log p(chosen), by default its mean per token: supervised fine-tuning. Its implicit reward is the log-probability itself.

    Of unpaired completions the undesirable ones count 0.
    """

    name: str = "sft"
    beta: float = 1.0
    aggregate: Aggregate = Aggregate.mean

    laws: ClassVar[Laws] = Laws(monotone=True, convex=True, swap_linear=True, rowwise=True, nonnegative=True)
    needs_reference: ClassVar[bool] = False
    reads_confidence: ClassVar[bool] = False
    min_candidates: ClassVar[int] = 1
    refuses: ClassVar[Mapping[str, str]] = {
        "beta": WHY,
        "label_smoothing": WHY,
        "weighting": WHY,
        "margin": WHY,
        "nll": "it is that term itself",
    }

    def values(self, logps: Logps, batch: CandidateBatch) -> Float[Tensor, " b"]:
        values = -self.compared(logps, batch)[0]
        if batch.num_candidates == 1 and batch.desirable is not None:
            return values * batch.desirable[0]
        return values
