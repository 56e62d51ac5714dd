"""SimPO with a reward of another shape."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from dpo_lab.losses.base import LOSSES, Laws
from dpo_lab.losses.divergences import expm1_then_straight
from dpo_lab.losses.simpo import SimPOLoss
from dpo_lab.records import CandidateBatch, Logps

LOGARITHM = 1e-12
"""Below this the shape is the logarithm's to within rounding, and dividing by alpha would only lose digits."""


@LOSSES.register
@dataclass
class AlphaPOLoss(SimPOLoss):
    """-log sigmoid(beta * (r_w - r_l) - gamma), r = (1 - p^-alpha) / alpha. Gupta et al. 2025, arXiv:2501.03884.

    p = exp(mean log-probability per token); alpha -> 0 is SimPO. Where p^-alpha would pass e^20 (with alpha .25: 80 nats per
    token) r goes on along its tangent. Defaults are the paper's for Mistral-Instruct (table 3), its gamma read as gamma / beta,
    as in the code of SimPO that it started from; TRL's index of papers takes it for gamma itself.
    """

    name: str = "alphapo"
    beta: float = 2.5
    gamma_ratio: float = 0.1
    alpha: float = 0.25
    """Above 0, pairs that are unlikely already count more and run away less; below 0 the reverse. In [-10, 10]."""

    laws: ClassVar[Laws] = Laws(monotone=True, rowwise=True, nonnegative=True)
    refuses: ClassVar[Mapping[str, str]] = {"aggregate": "its reward is a power of the mean probability per token"}

    def __post_init__(self) -> None:
        super().__post_init__()
        if not -10 <= self.alpha <= 10:
            raise ValueError(f"loss.alpha must be in [-10, 10], got {self.alpha}")

    def compared(self, logps: Logps, batch: CandidateBatch) -> Float[Tensor, "k b"]:
        means = super().compared(logps, batch)
        if abs(self.alpha) < LOGARITHM:
            return means
        return -expm1_then_straight(-self.alpha * means) / self.alpha
