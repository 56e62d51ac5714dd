"""How far held-out chosen completions have moved since training began."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from dpo_lab.evaluation.errors import mean_error, prompt_clusters
from dpo_lab.records import CandidateBatch, Logps, pairs_of


@dataclass
class Displacement:
    """Change of the mean log-probability of chosen completions since the first evaluation, with its standard error.

    Each completion is compared with itself: the error is that of the mean of differences.
    """

    pairs: CandidateBatch
    start: float | None = None
    """The mean at the first evaluation; None: the next one is the first."""
    start_logps: Float[Tensor, "k b"] | None = None
    """Of every completion then."""

    def since_start(self, logps: Logps, metrics: Mapping[str, float]) -> dict[str, float]:
        """To be added to an evaluation's metrics; nothing where nothing is chosen."""
        if "logps/chosen" not in metrics:
            return {}
        if self.start is None:
            self.start = metrics["logps/chosen"]
        if self.start_logps is None:
            self.start_logps = logps.policy_logps()
        found = {"displacement/chosen": metrics["logps/chosen"] - self.start}
        moved, which = logps.policy_logps() - self.start_logps, None
        if self.pairs.num_candidates > 1:
            moved = moved[pairs_of(self.pairs.num_candidates, moved.device)[0]]
        elif self.pairs.desirable is not None:
            which = self.pairs.desirable
        error = mean_error(moved, prompt_clusters(self.pairs)[0], which)
        return found if error is None else {**found, "displacement/chosen_se": error}


def resumed(pairs: CandidateBatch, first: Mapping[str, Any], score: Callable[[CandidateBatch], Logps]) -> Displacement:
    """The displacement of a run that goes on, from its first line; `score` has the policy that it began with."""
    if "logps/chosen" not in first:
        return Displacement(pairs)
    with torch.no_grad():
        return Displacement(pairs, first["logps/chosen"], score(pairs).policy_logps())
