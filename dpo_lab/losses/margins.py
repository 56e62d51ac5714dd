"""How far the chosen reward has to lie above the rejected one."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from dpo_lab.records import CandidateBatch, Logps, pairs_of


@dataclass
class Margin:
    """How far the chosen reward has to lie above the rejected one: the sum of these, each 0 if not set. In rewards.

    A margin belongs to the pair: where the label may be wrong, the swapped pair has the negative one.
    """

    constant: float = 0.0
    """The same for every pair."""
    length_penalty: float = 0.0
    """Times (tokens of rejected - of chosen): the policy is trained for the reward less this much a token. R-DPO, Park et al.
    2024, arXiv:2403.19159. The labels knew nothing of the penalty, so a longer chosen completion needs less of a difference.
    """
    score: float = 0.0
    """Times log(score of chosen - of rejected), for pairs that are certain. ODPO, Amini et al. 2024, arXiv:2402.10571."""
    data: float = 0.0
    """Times the data's own margins."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not math.isfinite(value):
                raise ValueError(f"loss.margin.{name} must be finite, got {value}")

    def __bool__(self) -> bool:
        return any(vars(self).values())

    def per_pair(self, logps: Logps, batch: CandidateBatch) -> Float[Tensor, "q b"]:
        """The margin of every pair, in the order of `pairs_of`."""
        first, second = pairs_of(batch.num_candidates, logps.mask.device)
        lengths = logps.lengths.to(batch.confidence.dtype)
        margin = self.constant + self.length_penalty * (lengths[second] - lengths[first])
        if self.score:
            assert batch.scores is not None, "the batch has no scores"
            # Training data is checked. In an evaluation a score that ties or contradicts its label asks for as good as nothing.
            better = (batch.scores[first] - batch.scores[second]).clamp(min=torch.finfo(batch.scores.dtype).tiny)
            margin = margin + self.score * better.log()
        if self.data:
            assert batch.margin is not None, "the batch has no margins"
            margin = margin + self.data * batch.margin
        return margin

    def check(self, batch: CandidateBatch) -> None:
        """Raises ValueError where the data lacks what the margin is made of."""
        k = batch.num_candidates
        if self.data and batch.margin is None:
            raise ValueError("loss.margin.data needs margins in the data, which this data does not have")
        if self.data and k > 2:
            raise ValueError(f"loss.margin.data is for pairs, and the data has {k} candidates for each prompt")
        if not self.score:
            return
        if batch.scores is None:
            raise ValueError("loss.margin.score needs the candidates' scores, which this data does not have")
        preferred = batch.preferences()
        if ((preferred > 1e-6) & (preferred < 1 - 1e-6)).any():
            raise ValueError(
                "loss.margin.score is a margin of pairs that are certain, and this data has soft labels or ties: choose hard "
                "labels, and pairs without ties (candidates.pairing=extremes)"
            )
        first, second = pairs_of(k, preferred.device)
        contradicting = int((batch.scores[first] <= batch.scores[second]).sum())
        if contradicting:
            raise ValueError(
                f"loss.margin.score needs the chosen score above the rejected one; of {contradicting:,} of "
                f"{preferred.numel():,} pairs it is not: leave those out"
            )
