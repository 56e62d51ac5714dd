"""Token-level DPO: the gap is corrected by how far the policy has drifted over the whole vocabulary."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from einops import reduce
from jaxtyping import Float
from torch import Tensor

from dpo_lab.losses.base import LOSSES, Laws
from dpo_lab.losses.pairs import Pair, PairLoss, Side
from dpo_lab.records import CandidateBatch, Logps, upcast

LAWS = Laws(
    shift_invariant=True,
    ratios_only=True,
    scaling=True,
    monotone=True,
    convex=True,
    swap_linear=True,
    rowwise=True,
    nonnegative=True,
)
REFUSES = {
    "aggregate": "its divergences are sums over the tokens, and so must be the log-ratios beside them",
    "divergence": "its correction is derived for the reverse KL",
}


@LOSSES.register
@dataclass
class TDPO1Loss(PairLoss):
    """-log sigmoid(beta * (gap - (KL of rejected - KL of chosen))). Zeng et al. 2024, arXiv:2404.11999 (TDPO 1).

    KL is KL(reference || policy) of the next-token distribution, summed over a completion's positions.
    """

    name: str = "tdpo1"

    laws: ClassVar[Laws] = LAWS
    needs_kl: ClassVar[bool] = True
    refuses: ClassVar[Mapping[str, str]] = REFUSES

    def of_pair(self, pair: Pair) -> Float[Tensor, "*s"]:
        return -F.logsigmoid(self.beta * (pair.gap - (kl_of(pair.rejected) - kl_of(pair.chosen))))

    def rewards(self, logps: Logps, batch: CandidateBatch) -> Float[Tensor, "k b"]:
        return self.beta * (self.compared(logps, batch) + kl_sums(logps))


@LOSSES.register
@dataclass
class TDPO2Loss(PairLoss):
    """-log sigmoid(beta * (gap - alpha * (KL of rejected - sg(KL of chosen)))). Zeng et al. 2024, arXiv:2404.11999 (TDPO 2).

    As TDPO 1, but the correction counts alpha, and no gradient (sg) raises the divergence on the chosen completion.
    """

    name: str = "tdpo2"
    alpha: float = 0.5
    """What the difference of the divergences counts."""

    laws: ClassVar[Laws] = LAWS
    needs_kl: ClassVar[bool] = True
    refuses: ClassVar[Mapping[str, str]] = REFUSES

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.alpha < math.inf:
            raise ValueError(f"loss.alpha must be >= 0 and finite, got {self.alpha}")

    def of_pair(self, pair: Pair) -> Float[Tensor, "*s"]:
        correction = self.alpha * (kl_of(pair.rejected) - kl_of(pair.chosen).detach())
        return -F.logsigmoid(self.beta * (pair.gap - correction))

    def rewards(self, logps: Logps, batch: CandidateBatch) -> Float[Tensor, "k b"]:
        return self.beta * (self.compared(logps, batch) + self.alpha * kl_sums(logps))


def kl_of(side: Side) -> Float[Tensor, "*s"]:
    assert side.kl is not None, "these Logps were made without the KL divergences"
    return side.kl


def kl_sums(logps: Logps) -> Float[Tensor, "k b"]:
    assert logps.kl is not None, "these Logps were made without the KL divergences"
    return reduce(upcast(logps.kl), "k b m -> k b", "sum")
