"""DPO whose beta follows the step, and which leaves out pairs that are unlike the others."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from jaxtyping import Float
from torch import Tensor

from dpo_lab.losses.aggregates import uniforms
from dpo_lab.losses.averages import NO_DEVIATION, check_decay, no_gaps, per_deviation, with_gaps
from dpo_lab.losses.base import LOSSES, Laws, State
from dpo_lab.losses.options import Weighting, wpo_weights
from dpo_lab.losses.pairs import PairLoss
from dpo_lab.records import CandidateBatch, Logps

SMALLEST_BETA = 1e-3


@LOSSES.register
@dataclass
class BetaDPOLoss(PairLoss):
    """-log sigmoid(sg[beta_step] * gap), the mean over the pairs kept; beta_step = beta * (1 + a * (mean gap of these - M)), at
    least 1e-3. Wu et al. 2024, arXiv:2407.08639; filter, averages and clamp as in the authors' code.

    M is the exponential average of the steps' mean gaps, S of their (sample) deviations, this step's included. A share `keep`
    of the step's pairs is drawn without replacement, with weights exp(-((gap - M) / S)^2 / 2), by a hash of the prompt's id and
    the step. All are kept while the gaps do not differ, and before the first step. In the authors' code both averages start at
    0, and evaluations and micro-batches move them; here they are corrected for their start, and only steps move them. Rewards
    are logged with the plain beta, for beta_step belongs to the step and not to a completion.
    """

    name: str = "beta_dpo"
    a: float = 0.6
    """How far beta follows the mean gap, per nat; 0: not at all."""
    keep: float = 0.8
    """Share of the pairs that is kept, in (0, 1]."""
    decay: float = 0.9
    """Of the averages, a step; in [0, 1)."""

    laws: ClassVar[Laws] = Laws(shift_invariant=True, ratios_only=True, nonnegative=True)
    couples_batch: ClassVar[bool] = True
    refuses: ClassVar[Mapping[str, str]] = {
        "margin": "its beta moves from step to step, and a margin in rewards would be worth another gap at each"
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.a < math.inf:
            raise ValueError(f"loss.a must be >= 0 and finite, got {self.a}")
        if not 0 < self.keep <= 1:
            raise ValueError(f"loss.keep must be in (0, 1], got {self.keep}")
        check_decay(self.decay)

    def initial_state(self) -> State:
        return no_gaps()

    def observe(self, logps: Logps, batch: CandidateBatch) -> None:
        self.state = with_gaps(self.state, self.pairs(logps, batch).gap, self.decay)

    def of_gap(self, gap: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
        return -F.logsigmoid(self.beta * gap)

    def values(self, logps: Logps, batch: CandidateBatch) -> Float[Tensor, " b"]:
        gap, right = self.pairs(logps, batch).gap, self.probability_right(logps, batch)
        kept = self.kept(gap.detach(), batch)
        rewards = self.beta_in_use(gap.detach(), kept) * gap
        losses = -right * F.logsigmoid(rewards) - (1 - right) * F.logsigmoid(-rewards)
        if self.weighting is Weighting.wpo:
            losses = wpo_weights(logps) * losses
        return reduce(kept / kept.mean() * losses, "q b -> b", "mean")

    def kept(self, gap: Float[Tensor, "q b"], batch: CandidateBatch) -> Float[Tensor, "q b"]:
        """1 for the pairs that count, 0 for the others."""
        if not gap.numel() or self.keep == 1 or not self.state["steps"]:
            return torch.ones_like(gap)
        # The largest of log(weight) + a Gumbel number each are a weighted draw without replacement.
        unlikeness = (per_deviation(1.0, self.state) * (gap.double() - self.state["mean"])) ** 2 / 2
        lots = -torch.log(-torch.log(uniforms(batch.ids, batch.step, len(gap)))) - unlikeness
        num_kept = max(1, math.floor(self.keep * gap.numel() + 1e-9))  # .7 * 10 is 7, not 6.999...
        places = rearrange(lots, "q b -> (q b)").argsort(descending=True, stable=True).argsort()
        alike = self.state["deviation"] < NO_DEVIATION
        return (rearrange(places < num_kept, "(q b) -> q b", b=len(batch)) | alike).to(gap.dtype)

    def beta_in_use(self, gap: Float[Tensor, "q b"], kept: Float[Tensor, "q b"]) -> Float[Tensor, ""]:
        mean = (kept * gap).sum() / kept.sum().clamp(min=1)
        beyond = mean - self.state["mean"] if self.state["steps"] else torch.zeros_like(mean)
        return (self.beta * (1 + self.a * beyond)).clamp(min=min(SMALLEST_BETA, self.beta))

    def value_at_reference(self, num_candidates: int = 2) -> float | None:
        return None if self.weighting is not Weighting.none or self.nll else math.log(2)

    def details(self, logps: Logps, batch: CandidateBatch) -> dict[str, Float[Tensor, ""]]:
        gap = self.pairs(logps, batch).gap.detach()
        kept = self.kept(gap, batch)
        found = {"beta_in_use": self.beta_in_use(gap, kept), "pairs_kept": kept.mean()}
        return super().details(logps, batch) | found
