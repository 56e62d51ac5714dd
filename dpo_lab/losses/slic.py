"""Sequence likelihood calibration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from dpo_lab.losses import LOSSES, Laws, PairLoss


@LOSSES.register
@dataclass
class SLiCLoss(PairLoss):
    """relu(delta - diff) + nll, diff of log-probabilities. SLiC-HF, Zhao et al. 2023, arXiv:2305.10425.

    Pairs beyond delta nats are left alone. `nll` is the paper's lambda, on the chosen completion in place of a separate target;
    it is what holds the policy. It weighs the mean per token, where the paper's likelihood term is a sum; with the sum,
    loss=mix and loss.parts=[{name: slic, nll: 0}, {name: sft, aggregate: sum, weight: 0.1}] are the paper's equation. Other
    libraries call the hinge of DPO's log-ratios SLiC too: that is loss=hinge.
    """

    name: str = "slic"
    beta: float = 1.0
    nll: float = 0.1
    delta: float = 1.0
    """How far the chosen log-probability has to lie above the rejected one, in nats."""

    laws = Laws.of("monotone convex rowwise nonnegative")
    ranges: ClassVar = {"delta": "(0, inf)"}
    needs_reference = False
    unsupported: ClassVar = {"beta": "its only scale is delta, in nats"}

    def per_pair(self, diff: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
        return torch.relu(self.delta - diff)
