"""SimPO whose target depends on how far the policy already prefers a pair more than the reference does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from dpo_lab.losses import LOSSES, Laws, Pair
from dpo_lab.losses.averages import averaged, no_averages, per_deviation
from dpo_lab.losses.base import NO_STATE, State, logged
from dpo_lab.losses.simpo import SimPOLoss
from dpo_lab.records import CandidateBatch, Logps, pairs_of


@LOSSES.register
@dataclass
class AlphaDPOLoss(SimPOLoss):
    """-log sigmoid(beta * (d - sg[gamma_ratio + alpha * z])), d the difference of mean log-probabilities, z that of mean
    log-ratios standardised. Wu et al. 2024, arXiv:2410.10148, and the authors' code for z and the defaults (Llama-3-Instruct).

    SimPO with a target margin for each pair, from the reference; needs batches of many pairs. z = (log-ratio difference - mean)
    / deviation, of all pairs of the steps so far as exponential averages of each step's mean and (sample) deviation; z = 0
    while the differences are all the same. The averages are corrected for their start: the authors' begin at 0, so that their
    first targets are 10 times too far. Rewards are SimPO's, beta * mean log-probability; the target is none of them.
    """

    name: str = "alpha_dpo"
    beta: float = 2.5
    gamma_ratio: float = 0.6
    alpha: float = 0.2
    """Weight of the standardised difference in the target, in nats per standard deviation."""
    decay: float = 0.9
    """Of the averages, a step; in [0, 1)."""

    laws = Laws.of("shift_invariant convex nonnegative")
    ranges: ClassVar = {"alpha": "[0, inf)", "decay": "[0, 1)"}
    needs_reference = True
    couples_batch = True
    unsupported: ClassVar = {"divergence": "its implicit reference is made of plain log-ratios"}

    def initial_state(self) -> State:
        return no_averages()

    def observe(self, logps: Logps, batch: CandidateBatch, state: State) -> State:
        return averaged(state, self.logratio_diffs(logps, batch), self.decay)

    def per_sides(self, pair: Pair) -> Float[Tensor, "*s"]:
        return -F.logsigmoid(self.beta * (pair.diff - self.gamma_ratio + self.pull(pair.state) * pair.state["mean"]))

    def rewards(self, logps: Logps, batch: CandidateBatch, state: State = NO_STATE) -> Float[Tensor, "k b"]:
        return self.beta * logps.policy_logps(self.token_weights(logps, batch))

    def logratios(self, logps: Logps, batch: CandidateBatch, state: State = NO_STATE) -> Float[Tensor, "k b"]:
        """The rewards over beta, each less its share of the target."""
        weights = self.token_weights(logps, batch)
        return logps.policy_logps(weights) - self.pull(state) * logps.logratios(weights).detach()

    def pull(self, state: State) -> float | Tensor:
        """alpha over the deviation: how much of a log-ratio counts."""
        return per_deviation(self.alpha, state)

    def logratio_diffs(self, logps: Logps, batch: CandidateBatch) -> Float[Tensor, "q b"]:
        ratios = logps.logratios(self.token_weights(logps, batch)).detach()
        first, second = pairs_of(len(ratios), ratios.device)
        return ratios[first] - ratios[second]

    def formula_at_reference(self, num_candidates: int) -> float | None:
        return None

    def extra_metrics(self, logps: Logps, batch: CandidateBatch, state: State = NO_STATE) -> dict[str, Float[Tensor, ""]]:
        """The mean target margin, in rewards, and what the differences are standardised by."""
        diff = self.logratio_diffs(logps, batch).mean()
        adapted = {
            "target": self.beta * (self.gamma_ratio + self.pull(state) * (diff - state["mean"])),
            "gap_mean": logged(state["mean"], diff),
            "gap_deviation": logged(state["deviation"], diff),
        }
        return super().extra_metrics(logps, batch, state) | adapted
