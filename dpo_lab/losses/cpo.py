"""Contrastive preference optimisation."""

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
class CPOLoss(PairLoss):
    """-log sigmoid(beta * gap) + nll, gap of log-probabilities. Xu et al. 2024, arXiv:2401.08417, eq. 3 and its NLL term.

    The NLL is each prompt's own mean per token, where the paper writes a sum; the authors' code and TRL average over all tokens
    of a micro-batch, where long completions weigh more and the value depends on how a step is cut.
    """

    name: str = "cpo"
    nll: float = 1.0

    laws: ClassVar[Laws] = Laws(monotone=True, convex=True, rowwise=True, nonnegative=True)
    needs_reference: ClassVar[bool] = False

    def of_gap(self, gap: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
        return -F.logsigmoid(self.beta * gap)
