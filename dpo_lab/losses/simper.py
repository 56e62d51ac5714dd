"""Preference by inverse perplexity."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from dpo_lab.losses.base import LOSSES, Laws
from dpo_lab.losses.pairs import PairLoss
from dpo_lab.records import Aggregate, CandidateBatch, Logps


@LOSSES.register
@dataclass
class SimPERLoss(PairLoss):
    """exp(mean logp of rejected) - exp(mean logp of chosen). Xiao et al. 2025, arXiv:2502.00883.

    The reward is the inverse perplexity. The loss is linear in it and has no hyperparameter.
    """

    name: str = "simper"
    beta: float = 1.0
    aggregate: Aggregate = Aggregate.mean

    laws: ClassVar[Laws] = Laws(monotone=True, swap_linear=True, rowwise=True)
    needs_reference: ClassVar[bool] = False
    refuses: ClassVar[Mapping[str, str]] = {
        "beta": "it has no hyperparameter",
        "aggregate": "a perplexity is that of the mean per token",
        "label_smoothing": "it is linear, so smoothing would only scale it",
        "margin": "it is linear, so a margin would only add a constant",
    }

    def of_gap(self, gap: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
        return -gap

    def compared(self, logps: Logps, batch: CandidateBatch) -> Float[Tensor, "k b"]:
        """Inverse perplexities."""
        return torch.exp(super().compared(logps, batch))
