"""DPO whose beta follows the step, and which leaves out pairs that are unlike the others."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from jaxtyping import Float
from torch import Tensor

from dpo_lab.losses import LOSSES, Laws, Pair, PairLoss
from dpo_lab.losses.aggregates import uniforms
from dpo_lab.losses.averages import NO_DEVIATION, averaged, no_averages, per_deviation
from dpo_lab.losses.base import NO_STATE, State
from dpo_lab.records import CandidateBatch, Logps

SMALLEST_BETA = 1e-3


@LOSSES.register
@dataclass
class BetaDPOLoss(PairLoss):
    """-log sigmoid(sg[beta_step] * diff), the mean over the pairs kept; beta_step = beta * (1 + a * (mean diff of these - M)),
    at least 1e-3. Wu et al. 2024, arXiv:2407.08639; filter, averages and clamp as in the authors' code.

    Pairs of mixed quality: a larger beta where differences are wide, and pairs unlike the others left out. M is the exponential
    average of the steps' mean diffs, S of their (sample) deviations, this step's included. A share `keep` of the step's pairs
    is drawn without replacement, with weights exp(-((diff - M) / S)^2 / 2), by a hash of the prompt's id and the step. All are
    kept while the diffs are all the same, and before the first step. In the authors' code both averages start at 0, and
    evaluations and micro-batches move them; here they are corrected for their start, and only steps move them. Rewards are
    logged with the plain beta, for beta_step belongs to the step and not to a completion.
    """

    name: str = "beta_dpo"
    a: float = 0.6
    """How far beta follows the mean difference, per nat; 0: not at all."""
    keep: float = 0.8
    """Share of the pairs that is kept, in (0, 1]."""
    decay: float = 0.9
    """Of the averages, a step; in [0, 1)."""

    laws = Laws.of("shift_invariant ratios_only nonnegative")
    ranges: ClassVar = {"a": "[0, inf)", "keep": "(0, 1]", "decay": "[0, 1)"}
    couples_batch = True
    unsupported: ClassVar = {
        "margin": "its beta moves from step to step, and a margin in rewards would be worth another difference at each"
    }

    def initial_state(self) -> State:
        return no_averages()

    def observe(self, logps: Logps, batch: CandidateBatch, state: State) -> State:
        return averaged(state, self.pairs(logps, batch).diff, self.decay)

    def pair_losses(self, pair: Pair, logps: Logps, batch: CandidateBatch) -> Float[Tensor, "q b"]:
        right, rewards = self.probability_right(logps, batch), self.beta_in_use(pair, batch) * pair.diff
        return -right * F.logsigmoid(rewards) - (1 - right) * F.logsigmoid(-rewards)

    def over_pairs(self, losses: Float[Tensor, "q b"], pair: Pair, batch: CandidateBatch) -> Float[Tensor, " b"]:
        kept = self.kept(pair, batch)
        return reduce(kept / kept.mean() * losses, "q b -> b", "mean")

    def kept(self, pair: Pair, batch: CandidateBatch) -> Float[Tensor, "q b"]:
        """1 for the pairs that count, 0 for the others."""
        diff, state = pair.diff.detach(), pair.state
        if not diff.numel() or self.keep == 1 or not state["steps"]:
            return torch.ones_like(diff)
        # The largest of log(weight) + a Gumbel number each are a weighted draw without replacement.
        unlikeness = (per_deviation(1.0, state) * (diff.double() - state["mean"])) ** 2 / 2
        lots = -torch.log(-torch.log(uniforms(batch.ids, batch.step, len(diff)))) - unlikeness
        num_kept = max(1, math.floor(self.keep * diff.numel() + 1e-9))  # .7 * 10 is 7, not 6.999...
        places = rearrange(lots, "q b -> (q b)").argsort(descending=True, stable=True).argsort()
        alike = state["deviation"] < NO_DEVIATION
        return (rearrange(places < num_kept, "(q b) -> q b", b=len(batch)) | alike).to(diff.dtype)

    def beta_in_use(self, pair: Pair, batch: CandidateBatch) -> Float[Tensor, ""]:
        kept, state = self.kept(pair, batch), pair.state
        mean = (kept * pair.diff.detach()).sum() / kept.sum().clamp(min=1)
        beyond = mean - state["mean"] if state["steps"] else torch.zeros_like(mean)
        return (self.beta * (1 + self.a * beyond)).clamp(min=min(SMALLEST_BETA, self.beta))

    def formula_at_reference(self, num_candidates: int) -> float:
        return math.log(2)

    def extra_metrics(self, logps: Logps, batch: CandidateBatch, state: State = NO_STATE) -> dict[str, Float[Tensor, ""]]:
        pair = self.pairs(logps, batch, state)
        adapted = {"beta_in_use": self.beta_in_use(pair, batch).detach(), "pairs_kept": self.kept(pair, batch).mean()}
        return super().extra_metrics(logps, batch, state) | adapted
