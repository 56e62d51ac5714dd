"""Sequence likelihood calibration."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from dpo_lab.losses.base import LOSSES, Laws
from dpo_lab.losses.pairs import PairLoss


@LOSSES.register
@dataclass
class SLiCLoss(PairLoss):
    """relu(delta - gap) + nll, gap of log-probabilities. SLiC-HF, Zhao et al. 2023, arXiv:2305.10425.

    `nll` is the paper's lambda, on the chosen completion in place of a separate target; it is what holds the policy. It weighs
    the mean per token, where the paper's likelihood term is a sum; with the sum, loss=mix and
    loss.parts=[{name: slic, nll: 0}, {name: sft, aggregate: sum, weight: 0.1}] are the paper's equation. Other libraries call
    the hinge of DPO's log-ratios SLiC too: that is loss=hinge.
    """

    name: str = "slic"
    beta: float = 1.0
    nll: float = 0.1
    delta: float = 1.0
    """How far the chosen log-probability has to lie above the rejected one, in nats."""

    laws: ClassVar[Laws] = Laws(monotone=True, convex=True, rowwise=True, nonnegative=True)
    needs_reference: ClassVar[bool] = False
    refuses: ClassVar[Mapping[str, str]] = {"beta": "its only scale is delta, in nats"}

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.delta < math.inf:
            raise ValueError(f"loss.delta must be > 0 and finite, got {self.delta}")

    def of_gap(self, gap: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
        return torch.relu(self.delta - gap)
