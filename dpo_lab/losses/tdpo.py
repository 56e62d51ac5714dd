"""Token-level DPO: the difference is corrected by how far the policy has drifted over the whole vocabulary."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from einops import reduce
from jaxtyping import Float
from torch import Tensor

from dpo_lab.losses import LOSSES, Laws, Pair, PairLoss
from dpo_lab.losses.base import NO_STATE, State
from dpo_lab.losses.pairs import Side
from dpo_lab.records import CandidateBatch, Logps, upcast

LAWS = Laws.of("shift_invariant ratios_only scaling monotone convex swap_linear rowwise nonnegative")
UNSUPPORTED = {
    "aggregate": "its divergences are sums over the tokens, and so must be the log-ratios beside them",
    "divergence": "its correction is derived for the reverse KL",
}


@LOSSES.register
@dataclass
class TDPO1Loss(PairLoss):
    """-log sigmoid(beta * (diff - (KL of rejected - KL of chosen))). Zeng et al. 2024, arXiv:2404.11999 (TDPO 1).

    KL is KL(reference || policy) of the next-token distribution, summed over a completion's positions. Runs policy and
    reference side by side: no cached reference.
    """

    name: str = "tdpo1"
    laws = LAWS
    needs_kl = True
    unsupported: ClassVar = UNSUPPORTED

    def per_sides(self, pair: Pair) -> Float[Tensor, "*s"]:
        return -F.logsigmoid(self.beta * (pair.diff - (kl_of(pair.rejected) - kl_of(pair.chosen))))

    def rewards(self, logps: Logps, batch: CandidateBatch, state: State = NO_STATE) -> Float[Tensor, "k b"]:
        return self.beta * (self.logratios(logps, batch) + kl_sums(logps))


@LOSSES.register
@dataclass
class TDPO2Loss(PairLoss):
    """-log sigmoid(beta * (diff - alpha * (KL of rejected - sg(KL of chosen)))). Zeng et al. 2024, arXiv:2404.11999 (TDPO 2).

    As TDPO 1, but the correction counts alpha, and no gradient (sg) raises the divergence on the chosen completion.
    """

    name: str = "tdpo2"
    alpha: float = 0.5
    """What the difference of the divergences counts."""

    laws = LAWS
    ranges: ClassVar = {"alpha": "[0, inf)"}
    needs_kl = True
    unsupported: ClassVar = UNSUPPORTED

    def per_sides(self, pair: Pair) -> Float[Tensor, "*s"]:
        correction = self.alpha * (kl_of(pair.rejected) - kl_of(pair.chosen).detach())
        return -F.logsigmoid(self.beta * (pair.diff - correction))

    def rewards(self, logps: Logps, batch: CandidateBatch, state: State = NO_STATE) -> Float[Tensor, "k b"]:
        return self.beta * (self.logratios(logps, batch) + self.alpha * kl_sums(logps))


def kl_of(side: Side) -> Float[Tensor, "*s"]:
    assert side.kl is not None, "these Logps were made without the KL divergences"
    return side.kl


def kl_sums(logps: Logps) -> Float[Tensor, "k b"]:
    assert logps.kl is not None, "these Logps were made without the KL divergences"
    return reduce(upcast(logps.kl), "k b m -> k b", "sum")
