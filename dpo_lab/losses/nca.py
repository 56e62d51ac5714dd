"""Noise-contrastive alignment."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from einops import reduce
from jaxtyping import Float
from torch import Tensor

from dpo_lab.losses import LOSSES, Laws, PreferenceLoss
from dpo_lab.losses.base import State
from dpo_lab.records import CandidateBatch, Logps


@LOSSES.register
@dataclass
class NCALoss(PreferenceLoss):
    """-sum_i [w_i log sigmoid(beta * log-ratio_i) + 1/K log sigmoid(-beta * log-ratio_i)] over the K candidates of a prompt.
    Chen et al. 2024, arXiv:2402.05369.

    Where dpo lowers the chosen completions' likelihood; reads how good each of several candidates is. w is the softmax of the
    utilities where the data has some, (confidence, 1 - confidence) of two candidates, else 1 for the best and 0 for the others.
    Checked against the authors' code, whose rewards over temperature are `utilities` here.
    """

    name: str = "nca"
    laws = Laws.of("ratios_only scaling convex rowwise nonnegative")
    listwise = True
    unsupported: ClassVar = {
        "divergence": "it scores each completion by itself, and the normaliser of other divergences only cancels between two",
        "label_smoothing": "its targets are soft already where the data is: give that confidences or utilities",
        "weighting": "wpo weighs pairs, and it scores each completion by itself",
        "margin": "a margin lies between two completions, and it scores each by itself",
    }

    def values(self, logps: Logps, batch: CandidateBatch, state: State) -> Float[Tensor, " b"]:
        rewards = self.rewards(logps, batch)
        targets = self.targets(batch).to(rewards.dtype)
        return -reduce(targets * F.logsigmoid(rewards) + F.logsigmoid(-rewards) / batch.num_candidates, "k b -> b", "sum")

    def targets(self, batch: CandidateBatch) -> Float[Tensor, "k b"]:
        """How much of the likelihood each candidate should draw."""
        if batch.utilities is not None:
            return torch.softmax(batch.utilities, dim=0)
        best = torch.ones_like(batch.confidence) if batch.num_candidates > 2 else batch.confidence
        others = torch.zeros_like(best).expand(max(batch.num_candidates - 2, 0), -1)
        return torch.cat((torch.stack((best, 1 - best)), others))

    def formula_at_reference(self, num_candidates: int) -> float:
        return 2 * math.log(2)
