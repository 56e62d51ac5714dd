"""Alignment by optimal transport, of pairs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch.nn.functional as F
from einops import rearrange, reduce
from jaxtyping import Float
from torch import Tensor

from dpo_lab.losses.base import LOSSES, Laws
from dpo_lab.losses.pairs import PairLoss
from dpo_lab.records import CandidateBatch, Logps, pairs_of, upcast


@LOSSES.register
@dataclass
class AOTLoss(PairLoss):
    """-log sigmoid(beta * (the policy's gap - the reference's gap of the same rank)), gaps of log-probabilities between chosen
    and rejected, ranked among all pairs of the step. Melnyk et al. 2024, arXiv:2406.05882, the paired form.

    Asks that the policy's gaps dominate the reference's as distributions, not pair by pair. A step of one pair is dpo. Each
    comparison's value belongs to the prompt whose gap under the policy is in it; the sum over the step is the paper's.
    """

    name: str = "aot"

    laws: ClassVar[Laws] = Laws(shift_invariant=True, scaling=True, monotone=True, nonnegative=True)
    couples_batch: ClassVar[bool] = True
    reads_confidence: ClassVar[bool] = False
    refuses: ClassVar[Mapping[str, str]] = {
        "divergence": "it compares gaps of the policy with the reference's of other pairs, and so never forms a log-ratio",
        "weighting": "a weight belongs to a pair, and ranking takes the pairs apart",
        "margin": "a margin belongs to a pair, and ranking takes the pairs apart",
    }

    def of_gap(self, gap: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
        right, wrong = F.logsigmoid(self.beta * gap), F.logsigmoid(-self.beta * gap)
        return -(1 - self.label_smoothing) * right - self.label_smoothing * wrong

    def values(self, logps: Logps, batch: CandidateBatch) -> Float[Tensor, " b"]:
        weights, (first, second) = self.token_weights(logps, batch), pairs_of(batch.num_candidates, logps.mask.device)
        assert logps.reference is not None, "these Logps were made without a reference"
        # In float64: policy and reference meet as sums of some -1000 nats here, not token by token.
        wide = replace(logps, policy=logps.policy.double(), reference=logps.reference.double())
        policy, reference = (
            rearrange(of[first] - of[second], "q b -> (q b)")
            for of in (wide.policy_logps(weights), wide.reference_logps(weights))
        )
        ranks = policy.detach().argsort(stable=True).argsort()
        gaps = policy - reference.sort().values[ranks]
        values = self.of_gap(gaps).to(upcast(logps.policy).dtype)
        return reduce(values, "(q b) -> b", "mean", b=len(batch))

    def value_at_reference(self, num_candidates: int = 2) -> float | None:
        return None if self.nll else math.log(2)
