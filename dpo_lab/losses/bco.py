"""Binary classifier optimisation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from dpo_lab.losses.base import LOSSES, Laws, State, logged
from dpo_lab.losses.unpaired import UnpairedLoss
from dpo_lab.records import CandidateBatch, Logps


@LOSSES.register
@dataclass
class BCOLoss(UnpairedLoss):
    """-log sigmoid(beta * log-ratio - delta) of a desirable completion, -log sigmoid(-(beta * log-ratio - delta)) of another;
    of a pair the sum, of k > 2 candidates 2 / k times the sum. Jung et al. 2024, arXiv:2404.04656.

    delta = (E[rewards of desirable] + E[rewards of undesirable]) / 2, each E an exponential average over the steps' completions
    in which a step counts by how many of its kind it has: exact from the first step on, and unmoved by a step that has none. A
    kind never met counts 0, as at the reference. A mean over all history (so TRL's former trainer) lags: of a drift from 0 to
    10 it reads 5. TRL's `bco_pair` leaves delta out.

    The paper's other half is not here: its underlying distribution matching, for feedback whose desirable and undesirable
    completions answer different prompts, weighs the undesirable by the ratio of the prompts' two densities, which a classifier
    estimates. Every completion counts 1, as in the paper where the prompts are alike.
    """

    name: str = "bco"
    decay: float = 0.9
    """What a step counts of the next one, in [0, 1). At .9 the averages lag 9 steps and are over some 19 steps' completions."""

    laws: ClassVar[Laws] = Laws(ratios_only=True, scaling=True, monotone=True, convex=True, swap_linear=True, nonnegative=True)
    couples_batch: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.decay < 1:
            raise ValueError(f"loss.decay must be in [0, 1), got {self.decay}")

    def initial_state(self) -> State:
        return {"desirable_sum": 0.0, "desirable_count": 0.0, "undesirable_sum": 0.0, "undesirable_count": 0.0}

    def observe(self, logps: Logps, batch: CandidateBatch) -> None:
        rewards = self.rewards(logps, batch).detach().double()
        good = self.probability_desirable(logps, batch).double()
        state = dict(self.state)
        for kind, of_kind in (("desirable", good), ("undesirable", 1 - good)):
            count = of_kind.sum()
            for what, newest in (("sum", (of_kind * rewards).sum()), ("count", count)):
                before = state[f"{kind}_{what}"]
                state[f"{kind}_{what}"] = torch.where(count > 0, self.decay * before + newest, before)
        self.state = state

    @property
    def delta(self) -> Float[Tensor, ""]:
        """What rewards are shifted by."""
        sums, counts = (
            [torch.as_tensor(self.state[f"{kind}_{what}"], dtype=torch.float64) for kind in ("desirable", "undesirable")]
            for what in ("sum", "count")
        )
        desirable, undesirable = (total / torch.where(count > 0, count, 1.0) for total, count in zip(sums, counts, strict=True))
        return (desirable + undesirable) / 2

    def values(self, logps: Logps, batch: CandidateBatch) -> Float[Tensor, " b"]:
        return min(batch.num_candidates, 2) * super().values(logps, batch)

    def of_desirable(self, rewards: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
        return -F.logsigmoid(rewards - self.delta)

    def of_undesirable(self, rewards: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
        return -F.logsigmoid(self.delta - rewards)

    def value_at_reference(self, num_candidates: int = 2) -> float | None:
        return min(num_candidates, 2) * -float(F.logsigmoid(torch.zeros((), dtype=torch.float64)))

    def details(self, logps: Logps, batch: CandidateBatch) -> dict[str, Float[Tensor, ""]]:
        return {"delta": logged(self.delta, batch.confidence)}
