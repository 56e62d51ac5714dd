"""Contrastive preference optimisation."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from dpo_lab.losses import LOSSES, Laws, PairLoss


@LOSSES.register
@dataclass
class CPOLoss(PairLoss):
    """-log sigmoid(beta * diff) + nll, diff of log-probabilities. Xu et al. 2024, arXiv:2401.08417, eq. 3 and its NLL term.

    DPO against a uniform reference, held by the likelihood of the chosen completion. The NLL is each prompt's own mean per
    token, where the paper writes a sum; the authors' code and TRL average over all tokens of a micro-batch, where long
    completions weigh more and the value depends on how a step is cut.
    """

    name: str = "cpo"
    nll: float = 1.0
    laws = Laws.of("monotone convex rowwise nonnegative")
    needs_reference = False

    def per_pair(self, diff: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
        return -F.logsigmoid(self.beta * diff)
