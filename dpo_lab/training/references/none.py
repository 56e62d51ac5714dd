"""No reference."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from dpo_lab.records import CandidateBatch
from dpo_lab.scoring.logps import Scoring
from dpo_lab.training.references.base import REFERENCES, ReferenceSpec


@REFERENCES.register
@dataclass
class NoReference(ReferenceSpec):
    """No reference: for losses that need none."""

    name: str = "none"

    has_logps: ClassVar[bool] = False
    runs_model: ClassVar[bool] = False

    def score(self, model: nn.Module, batch: CandidateBatch, scoring: Scoring | None = None) -> Float[Tensor, "k b m"] | None:
        return None
