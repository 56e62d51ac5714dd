"""Maximum likelihood of the chosen completion."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from dpo_lab.losses.base import LOSSES, Laws, PreferenceLoss
from dpo_lab.records import Aggregate, CandidateBatch, Logps


@LOSSES.register
@dataclass
class SFTLoss(PreferenceLoss):
    """-log p(chosen): supervised fine-tuning. Its implicit reward is the log-probability itself."""

    name: str = "sft"
    aggregate: Aggregate = Aggregate.mean

    laws: ClassVar[Laws] = Laws(monotone=True, convex=True)
    needs_reference: ClassVar[bool] = False

    def __call__(self, logps: Logps, batch: CandidateBatch) -> Float[Tensor, " b"]:
        return -logps.policy_logps(self.aggregate)[0]

    def rewards(self, logps: Logps) -> Float[Tensor, "k b"]:
        return logps.policy_logps(self.aggregate)
