"""SimPO with a reward of another shape."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from dpo_lab.losses import LOSSES, Laws
from dpo_lab.losses.divergences import expm1_then_straight
from dpo_lab.losses.simpo import SimPOLoss

LOGARITHM = 1e-12
"""Below this the shape is the logarithm's to within rounding, and dividing by alpha would only lose digits."""


@LOSSES.register
@dataclass
class AlphaPOLoss(SimPOLoss):
    """-log sigmoid(beta * (r_w - r_l) - gamma), r = (1 - p^-alpha) / alpha. Gupta et al. 2025, arXiv:2501.03884.

    Where with SimPO the likelihood of chosen completions falls too far: alpha shapes the reward. p = exp(mean log-probability
    per token); alpha -> 0 is SimPO. Where p^-alpha would pass e^20 (with alpha .25: 80 nats per token) r goes on along its
    tangent. Defaults are the paper's for Mistral-Instruct (table 3), its gamma read as gamma / beta, as in the code of SimPO
    that it started from; TRL's index of papers takes it for gamma itself.
    """

    name: str = "alphapo"
    beta: float = 2.5
    gamma_ratio: float = 0.1
    alpha: float = 0.25
    """Above 0, pairs that are unlikely already count more and run away less; below 0 the reverse. In [-10, 10]."""

    laws = Laws.of("monotone rowwise nonnegative")
    ranges: ClassVar = {"alpha": "[-10, 10]"}
    unsupported: ClassVar = {"aggregate": "its reward is a power of the mean probability per token"}

    def per_candidate(self, logratios: Float[Tensor, "k b"]) -> Float[Tensor, "k b"]:
        if abs(self.alpha) < LOGARITHM:
            return logratios
        return -expm1_then_straight(-self.alpha * logratios) / self.alpha
