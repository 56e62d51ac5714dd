"""Alignment by optimal transport, of pairs."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import torch.nn.functional as F
from einops import rearrange, reduce
from jaxtyping import Float
from torch import Tensor

from dpo_lab.losses import LOSSES, Laws, PairLoss
from dpo_lab.losses.base import State
from dpo_lab.records import CandidateBatch, Logps, pairs_of, upcast


@LOSSES.register
@dataclass
class AOTLoss(PairLoss):
    """-log sigmoid(beta * (the policy's difference - the reference's of the same rank)), differences of log-probabilities
    between chosen and rejected, ranked among all pairs of the step. Melnyk et al. 2024, arXiv:2406.05882, the paired form.

    Asks that the policy's differences dominate the reference's as distributions, not pair by pair; wants a large batch_size. A
    step of one pair is dpo. Each comparison's value belongs to the prompt whose difference under the policy is in it; the sum
    over the step is the paper's.
    """

    name: str = "aot"
    laws = Laws.of("shift_invariant scaling monotone nonnegative")
    couples_batch = True
    reads_confidence = False
    unsupported: ClassVar = {
        "divergence": "it compares differences of the policy with the reference's of other pairs: it never forms a log-ratio",
        "weighting": "a weight belongs to a pair, and ranking takes the pairs apart",
        "margin": "a margin belongs to a pair, and ranking takes the pairs apart",
    }

    def per_pair(self, diff: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
        smoothing = self.options.label_smoothing
        return -(1 - smoothing) * F.logsigmoid(self.beta * diff) - smoothing * F.logsigmoid(-self.beta * diff)

    def values(self, logps: Logps, batch: CandidateBatch, state: State) -> Float[Tensor, " b"]:
        weights, (first, second) = self.token_weights(logps, batch), pairs_of(batch.num_candidates, logps.mask.device)
        assert logps.reference is not None, "these Logps were made without a reference"
        # In float64: policy and reference meet as sums of some -1000 nats here, not token by token.
        wide = replace(logps, policy=logps.policy.double(), reference=logps.reference.double())
        policy, reference = (
            rearrange(sums[first] - sums[second], "q b -> (q b)")
            for sums in (wide.policy_logps(weights), wide.reference_logps(weights))
        )
        ranks = policy.detach().argsort(stable=True).argsort()
        values = self.per_pair(policy - reference.sort().values[ranks]).to(upcast(logps.policy).dtype)
        return reduce(values, "(q b) -> b", "mean", b=len(batch))

    def formula_at_reference(self, num_candidates: int) -> float:
        return math.log(2)
