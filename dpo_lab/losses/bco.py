"""Binary classifier optimisation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from dpo_lab.losses import LOSSES, Laws
from dpo_lab.losses.base import NO_STATE, State, logged
from dpo_lab.losses.unpaired import UnpairedLoss
from dpo_lab.records import CandidateBatch, Logps

KINDS = ("desirable", "undesirable")


@LOSSES.register
@dataclass
class BCOLoss(UnpairedLoss):
    """-log sigmoid(beta * log-ratio - delta) of a desirable completion, -log sigmoid(-(beta * log-ratio - delta)) of another;
    of a pair the sum, of k > 2 candidates 2 / k times the sum. Jung et al. 2024, arXiv:2404.04656.

    Good and bad completions that need not be paired; gradients stay alive on those still judged wrong. delta = (E[rewards of
    desirable] + E[rewards of undesirable]) / 2, each E an exponential average over the steps' completions in which a step
    counts by how many of its kind it has: exact from the first step on, and unmoved by a step that has none. A kind never met
    counts 0, as at the reference. A mean over all history (so TRL's former trainer) lags: of a drift from 0 to 10 it reads 5.
    TRL's `bco_pair` leaves delta out.

    The paper's other half is not here: its underlying distribution matching, for feedback whose desirable and undesirable
    completions answer different prompts, weighs the undesirable by the ratio of the prompts' two densities, which a classifier
    estimates. Every completion counts 1, as in the paper where the prompts are alike.
    """

    name: str = "bco"
    decay: float = 0.9
    """What a step counts of the next one, in [0, 1). At .9 the averages lag 9 steps and are over some 19 steps' completions."""

    laws = Laws.of("ratios_only scaling monotone convex swap_linear nonnegative")
    ranges: ClassVar = {"decay": "[0, 1)"}
    couples_batch = True

    def initial_state(self) -> State:
        return {f"{kind}_{what}": 0.0 for kind in KINDS for what in ("sum", "count")}

    def observe(self, logps: Logps, batch: CandidateBatch, state: State) -> State:
        rewards = self.rewards(logps, batch).detach().double()
        good = self.probability_desirable(logps, batch).double()
        after = dict(state)
        for kind, of_kind in zip(KINDS, (good, 1 - good), strict=True):
            count = of_kind.sum()
            for what, newest in (("sum", (of_kind * rewards).sum()), ("count", count)):
                before = state[f"{kind}_{what}"]
                after[f"{kind}_{what}"] = torch.where(count > 0, self.decay * before + newest, before)
        return after

    def baseline(self, state: State) -> Float[Tensor, ""]:
        """delta."""
        sums, counts = (
            [torch.as_tensor(state[f"{kind}_{what}"], dtype=torch.float64) for kind in KINDS] for what in ("sum", "count")
        )
        desirable, undesirable = (total / torch.where(count > 0, count, 1.0) for total, count in zip(sums, counts, strict=True))
        return (desirable + undesirable) / 2

    def values(self, logps: Logps, batch: CandidateBatch, state: State) -> Float[Tensor, " b"]:
        return min(batch.num_candidates, 2) * super().values(logps, batch, state)

    def per_desirable(self, rewards: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
        return -F.logsigmoid(rewards)

    def per_undesirable(self, rewards: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
        return -F.logsigmoid(-rewards)

    def formula_at_reference(self, num_candidates: int) -> float:
        return min(num_candidates, 2) * -float(F.logsigmoid(torch.zeros((), dtype=torch.float64)))

    def extra_metrics(self, logps: Logps, batch: CandidateBatch, state: State = NO_STATE) -> dict[str, Float[Tensor, ""]]:
        return {"delta": logged(self.baseline(state), batch.confidence)}
