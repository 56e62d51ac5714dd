"""A loss of which no pair can be computed without all the others, and pairs that hold whatever a loss may ask for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from batches import gappy_pairs
from einops import reduce
from jaxtyping import Float
from torch import Tensor

from dpo_lab.losses import PairLoss, PreferenceLoss
from dpo_lab.losses.base import State
from dpo_lab.records import CandidateBatch, Logps


@dataclass
class Coupled(PairLoss):
    """Every pair against the mean of all pairs of the step, by gap, KL and mismatched completions; counts what it observes."""

    name: str = "coupled"
    needs_kl: ClassVar[bool] = True
    needs_mismatched: ClassVar[bool] = True
    couples_batch: ClassVar[bool] = True

    def initial_state(self) -> dict[str, float]:
        return {"gap": 0.0, "calls": 0.0}

    def observe(self, logps: Logps, batch: CandidateBatch, state: State) -> State:
        assert logps.mismatched is not None
        gap = self.pairs(logps, batch).diff.mean() + logps.mismatched.logratios().mean()
        return {"gap": float(gap), "calls": state["calls"] + 1}

    def values(self, logps: Logps, batch: CandidateBatch, state: State) -> Float[Tensor, " b"]:
        assert logps.kl is not None
        kl = reduce(logps.kl, "k b m -> b", "sum")
        gap = self.pairs(logps, batch).diff[0] + 0.1 * kl
        return (gap - gap.mean() - state["gap"]) ** 2 + gap.sort().values * torch.arange(len(gap))


def prepared(loss: PreferenceLoss, b: int = 5) -> CandidateBatch:
    batch = replace(gappy_pairs(b=b), scores=torch.tensor([[2.0], [1.0]], dtype=torch.float64).expand(2, b), step=3)
    return batch.with_mismatched() if loss.needs_mismatched else batch
