"""Preference by inverse perplexity."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from dpo_lab.losses import LOSSES, Laws, PairLoss
from dpo_lab.records import Aggregate


@LOSSES.register
@dataclass
class SimPERLoss(PairLoss):
    """exp(mean logp of rejected) - exp(mean logp of chosen). Xiao et al. 2025, arXiv:2502.00883.

    Nothing to tune but the learning rate. The reward is the inverse perplexity, and the loss is linear in it.
    """

    name: str = "simper"
    beta: float = 1.0
    aggregate: Aggregate = Aggregate.mean
    laws = Laws.of("monotone swap_linear rowwise")
    needs_reference = False
    unsupported: ClassVar = {
        "beta": "it has no hyperparameter",
        "aggregate": "a perplexity is that of the mean per token",
        "label_smoothing": "it is linear, so smoothing would only scale it",
        "margin": "it is linear, so a margin would only add a constant",
    }

    def per_candidate(self, logratios: Float[Tensor, "k b"]) -> Float[Tensor, "k b"]:
        return torch.exp(logratios)

    def per_pair(self, diff: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
        return -diff
