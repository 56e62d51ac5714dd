"""Likelihood displacement: how far the log-probability of held-out chosen completions has moved since training began."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from dpo_lab.evaluation.errors import mean_error, prompt_clusters, with_errors
from dpo_lab.records import CandidateBatch, Logps, pairs_of


@dataclass
class Displacement:
    """Change of the mean log-probability of chosen completions since the first evaluation, with its standard error.

    Each completion is compared with itself: the error is that of the mean of differences.
    """

    pairs: CandidateBatch
    start: float | None = None
    """The mean at the first evaluation; None before it."""
    start_logps: Float[Tensor, "k b"] | None = None
    """Log-probability of every completion at the first evaluation."""

    def since_start(self, logps: Logps, metrics: Mapping[str, float]) -> dict[str, float]:
        """`displacement/chosen` and its standard error; nothing where no completion is chosen."""
        if "logps/chosen" not in metrics:
            return {}
        if self.start is None:
            self.start = metrics["logps/chosen"]
        if self.start_logps is None:
            self.start_logps = logps.policy_logps()
        displacement = {"displacement/chosen": metrics["logps/chosen"] - self.start}
        change, weights = logps.policy_logps() - self.start_logps, None
        if self.pairs.num_candidates > 1:
            change = change[pairs_of(self.pairs.num_candidates, change.device)[0]]
        elif self.pairs.desirable is not None:
            weights = self.pairs.desirable
        return with_errors(displacement, {"displacement/chosen": mean_error(change, prompt_clusters(self.pairs)[0], weights)})


def resumed(pairs: CandidateBatch, first: Mapping[str, Any], score: Callable[[CandidateBatch], Logps]) -> Displacement:
    """The displacement of a resumed run, from the first evaluation's metrics; `score` scores with the policy at its start."""
    if "logps/chosen" not in first:
        return Displacement(pairs)
    with torch.no_grad():
        return Displacement(pairs, first["logps/chosen"], score(pairs).policy_logps())
