"""Maximum likelihood of the chosen completion."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from dpo_lab.losses import LOSSES, Laws, PreferenceLoss
from dpo_lab.losses.base import State
from dpo_lab.records import Aggregate, CandidateBatch, Logps

IMITATES = "it imitates the chosen completion and compares it with nothing"


@LOSSES.register
@dataclass
class SFTLoss(PreferenceLoss):
    """-log p(chosen), by default its mean per token: supervised fine-tuning, the baseline.

    Its implicit reward is the log-probability itself. Of unpaired completions the undesirable ones count 0.
    """

    name: str = "sft"
    beta: float = 1.0
    aggregate: Aggregate = Aggregate.mean
    laws = Laws.of("monotone convex swap_linear rowwise nonnegative")
    needs_reference = False
    reads_confidence = False
    min_candidates = 1
    unsupported: ClassVar = dict.fromkeys(("beta", "label_smoothing", "weighting", "margin"), IMITATES) | {
        "nll": "it is that term itself"
    }

    def values(self, logps: Logps, batch: CandidateBatch, state: State) -> Float[Tensor, " b"]:
        values = -self.logratios(logps, batch)[0]
        if batch.num_candidates == 1 and batch.desirable is not None:
            return values * batch.desirable[0]
        return values
