"""SimPO whose target depends on how far the policy already prefers a pair more than the reference does."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from dpo_lab.losses.averages import check_decay, no_gaps, per_deviation, with_gaps
from dpo_lab.losses.base import LOSSES, Laws, State, logged
from dpo_lab.losses.simpo import SimPOLoss
from dpo_lab.records import CandidateBatch, Logps, pairs_of


@LOSSES.register
@dataclass
class AlphaDPOLoss(SimPOLoss):
    """-log sigmoid(beta * (g - sg[gamma_ratio + alpha * z])), g the gap of mean log-probabilities, z that of mean log-ratios
    standardised. Wu et al. 2024, arXiv:2410.10148, and the authors' code for z and the defaults (Llama-3-Instruct).

    z = (gap - mean) / deviation, of all pairs of the steps so far as exponential averages of each step's mean and (sample)
    deviation; z = 0 while the gaps do not differ. The averages are corrected for their start: the authors' begin at 0, so that
    their first targets are 10 times too far. Rewards are SimPO's, beta * mean log-probability; the target is none of them.
    """

    name: str = "alpha_dpo"
    beta: float = 2.5
    gamma_ratio: float = 0.6
    alpha: float = 0.2
    """Weight of the standardised gap in the target, in nats per standard deviation."""
    decay: float = 0.9
    """Of the averages, a step; in [0, 1)."""

    laws: ClassVar[Laws] = Laws(shift_invariant=True, convex=True, nonnegative=True)
    needs_reference: ClassVar[bool] = True
    couples_batch: ClassVar[bool] = True
    refuses: ClassVar[Mapping[str, str]] = {"divergence": "its implicit reference is made of plain log-ratios"}

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.alpha < math.inf:
            raise ValueError(f"loss.alpha must be >= 0 and finite, got {self.alpha}")
        check_decay(self.decay)

    def initial_state(self) -> State:
        return no_gaps()

    def observe(self, logps: Logps, batch: CandidateBatch) -> None:
        self.state = with_gaps(self.state, self.log_ratio_gaps(logps, batch), self.decay)

    def of_gap(self, gap: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
        return -F.logsigmoid(self.beta * (gap - self.gamma_ratio + self.pull * self.state["mean"]))

    def rewards(self, logps: Logps, batch: CandidateBatch) -> Float[Tensor, "k b"]:
        return self.beta * logps.policy_logps(self.token_weights(logps, batch))

    def compared(self, logps: Logps, batch: CandidateBatch) -> Float[Tensor, "k b"]:
        """The rewards over beta, each less its share of the target."""
        weights = self.token_weights(logps, batch)
        return logps.policy_logps(weights) - self.pull * logps.logratios(weights).detach()

    @property
    def pull(self) -> float | Tensor:
        """alpha over the deviation: how much of a log-ratio counts."""
        return per_deviation(self.alpha, self.state)

    def log_ratio_gaps(self, logps: Logps, batch: CandidateBatch) -> Float[Tensor, "q b"]:
        ratios = logps.logratios(self.token_weights(logps, batch)).detach()
        first, second = pairs_of(len(ratios), ratios.device)
        return ratios[first] - ratios[second]

    def value_at_reference(self, num_candidates: int = 2) -> float | None:
        return None

    def details(self, logps: Logps, batch: CandidateBatch) -> dict[str, Float[Tensor, ""]]:
        """The mean target margin, in rewards, and what the gaps are standardised by."""
        gap = self.log_ratio_gaps(logps, batch).mean()
        found = {
            "target": self.beta * (self.gamma_ratio + self.pull * (gap - self.state["mean"])),
            "gap_mean": logged(self.state["mean"], gap),
            "gap_deviation": logged(self.state["deviation"], gap),
        }
        return super().details(logps, batch) | found
