"""Alignment by optimal transport, of single completions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from jaxtyping import Float, Int
from torch import Tensor

from dpo_lab.losses import LOSSES, Laws
from dpo_lab.losses.base import NO_STATE, State
from dpo_lab.losses.unpaired import UnpairedLoss
from dpo_lab.records import CandidateBatch, Logps


@LOSSES.register
@dataclass
class AOTUnpairedLoss(UnpairedLoss):
    """Integral over t in [0, 1] of -log sigmoid(beta * (Q_desirable(t) - Q_undesirable(t))), Q the quantiles of the step's
    log-ratios. Melnyk et al. 2024, arXiv:2406.05882, the unpaired form.

    Good and bad completions of unrelated prompts, compared as distributions; wants a large batch_size. Of equally many
    desirable and undesirable completions these are both sorted and compared rank by rank. Of n and m, the i-th smallest
    desirable one meets each undesirable one by how much of [0, 1] their quantiles share, so that each desirable one counts
    1 / n in all and each undesirable one 1 / m. A comparison's value is shared by its two prompts, and the sum over the step is
    the number of prompts times the integral. A step of one kind only has nothing to compare: value and gradient 0.
    """

    name: str = "aot_unpaired"
    laws = Laws.of("ratios_only scaling monotone nonnegative")
    couples_batch = True
    reads_confidence = False
    max_candidates = 2
    unsupported: ClassVar = {
        **UnpairedLoss.unsupported,
        "divergence": "it compares completions of different prompts, whose normalisers under other divergences differ",
    }

    def check(self, batch: CandidateBatch) -> None:
        super().check(batch)
        if batch.num_candidates == 1 and batch.desirable is not None and bool((batch.desirable == batch.desirable[0, 0]).all()):
            kind = "desirable" if batch.desirable[0, 0] else "undesirable"
            raise ValueError(f"loss=aot_unpaired compares desirable completions with others, and all of this data are {kind}")

    def values(self, logps: Logps, batch: CandidateBatch, state: State) -> Float[Tensor, " b"]:
        ratios = rearrange(self.logratios(logps, batch), "k b -> (k b)")
        good, bad = self.sides(ratios, batch)
        if not len(good) or not len(bad):
            return 0.0 * reduce(ratios, "(k b) -> b", "sum", b=len(batch))
        of_good, of_bad, shares = matched(len(good), len(bad))
        good, bad = good[of_good.to(good.device)], bad[of_bad.to(bad.device)]
        rewards, smoothing = self.beta * (ratios[good] - ratios[bad]), self.options.label_smoothing
        losses = -(1 - smoothing) * F.logsigmoid(rewards) - smoothing * F.logsigmoid(-rewards)
        halves = len(batch) / 2 * shares.to(losses) * losses
        values = torch.zeros_like(ratios).index_add(0, good, halves).index_add(0, bad, halves)
        return reduce(values, "(k b) -> b", "sum", b=len(batch))

    def sides(self, ratios: Float[Tensor, " n"], batch: CandidateBatch) -> tuple[Int[Tensor, " g"], Int[Tensor, " u"]]:
        """Where in the flattened batch the desirable completions are, and the others, each from the lowest log-ratio up."""
        desirable = torch.zeros_like(batch.mask[:, :, 0])
        desirable[0] = True
        if batch.num_candidates == 1:
            assert batch.desirable is not None, "the batch does not say which completions are desirable"
            desirable = batch.desirable
        order, flat = ratios.detach().argsort(stable=True), rearrange(desirable, "k b -> (k b)")
        return order[flat[order]], order[~flat[order]]

    def formula_at_reference(self, num_candidates: int) -> float | None:
        """Of pairs; of single completions it depends on how many there are of each kind."""
        return math.log(2) if num_candidates == 2 else None

    def extra_metrics(self, logps: Logps, batch: CandidateBatch, state: State = NO_STATE) -> dict[str, Float[Tensor, ""]]:
        """1 for a step that has completions of one kind only, and so has no gradient."""
        good, bad = self.sides(rearrange(self.logratios(logps, batch), "k b -> (k b)"), batch)
        return {"one_sided": torch.tensor(float(not len(good) or not len(bad)), device=batch.confidence.device)}


def matched(n: int, m: int) -> tuple[Int[Tensor, " c"], Int[Tensor, " c"], Float[Tensor, " c"]]:
    """The optimal transport between n and m sorted points: ranks of those that meet, and their shares of the whole."""
    # On a scale of n * m, in integers: every point of the first kind spans m, of the second n.
    ends = torch.cat((m * torch.arange(1, n + 1), n * torch.arange(1, m + 1))).unique()
    begins = torch.cat((ends.new_zeros(1), ends[:-1]))
    return begins // m, begins // n, (ends - begins).double() / (n * m)
