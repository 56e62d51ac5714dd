"""Losses of pairs: the chosen completion against the rejected one."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from einops import reduce
from jaxtyping import Bool, Float
from torch import Tensor

from dpo_lab.losses.base import PreferenceLoss, default_of
from dpo_lab.losses.options import Weighting, wpo_weights
from dpo_lab.records import Aggregate, CandidateBatch, Logps, pairs_of, upcast


@dataclass
class Side:
    """One completion of each pair; whatever the loss aggregates by, aggregated."""

    logp: Float[Tensor, "*s"]
    """Under the policy, nats."""
    compared: Float[Tensor, "*s"]
    """Reward over beta: the log-ratio under the divergence's link; the log-probability for a loss without a reference."""
    length: Float[Tensor, "*s"]
    """Tokens."""
    score: Float[Tensor, "*s"] | None = None
    kl: Float[Tensor, "*s"] | None = None
    """KL(reference || policy) summed over the completion's positions, nats."""


@dataclass
class Pair:
    """What a loss of pairs sees, of many pairs at once."""

    chosen: Side
    rejected: Side
    gap: Float[Tensor, "*s"]
    """chosen.compared - rejected.compared, less the margin (over beta)."""

    def swapped(self) -> Pair:
        """The same pairs, labelled the other way round."""
        return Pair(self.rejected, self.chosen, -self.gap)

    def where(self, condition: Bool[Tensor, "*s"], other: Pair) -> Pair:
        """These pairs where the condition holds, the others elsewhere."""

        def of_sides(ours: Side, theirs: Side) -> Side:
            both = {f.name: (getattr(ours, f.name), getattr(theirs, f.name)) for f in fields(Side)}
            mixed: dict[str, Any] = {name: a if a is None else torch.where(condition, a, b) for name, (a, b) in both.items()}
            return Side(**mixed)

        chosen, rejected = of_sides(self.chosen, other.chosen), of_sides(self.rejected, other.rejected)
        return Pair(chosen, rejected, torch.where(condition, self.gap, other.gap))


@dataclass
class PairLoss(PreferenceLoss):
    """A loss of the chosen completion against the rejected one; of more candidates, the mean over all pairs.

    Where a pair is only probably ordered (`batch.confidence` P, or `label_smoothing` e: P = 1 - e), the loss is its
    expectation P * L(pair) + (1 - P) * L(swapped pair): conservative DPO (Mitchell 2023), with a P for each pair when the data
    has one.
    """

    def of_gap(self, gap: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
        """The loss of pairs whose order is certain, where it depends on the gap only."""
        raise NotImplementedError(f"{type(self).__qualname__} defines neither of_gap nor of_pair")

    def of_pair(self, pair: Pair) -> Float[Tensor, "*s"]:
        """The loss of pairs whose order is certain."""
        return self.of_gap(pair.gap)

    def values(self, logps: Logps, batch: CandidateBatch) -> Float[Tensor, " b"]:
        pair, right = self.pairs(logps, batch), self.probability_right(logps, batch)
        # Where the order is certain the other side has no weight; it must not overflow either, for 0 * inf is not 0.
        other = pair.swapped().where(right < 1, pair)
        values = right * self.of_pair(pair) + (1 - right) * self.of_pair(other)
        if self.weighting is Weighting.wpo:
            values = wpo_weights(logps) * values
        return reduce(values, "q b -> b", "mean")

    def pairs(self, logps: Logps, batch: CandidateBatch) -> Pair:
        """All pairs of candidates, (q, b) in the order of `pairs_of`."""
        per_candidate: dict[str, Any] = {
            "logp": logps.policy_logps(self.token_weights(logps, batch)),
            "compared": self.compared(logps, batch),
            "length": logps.lengths.to(batch.confidence.dtype),
            "score": batch.scores,
            "kl": None if logps.kl is None else reduce(upcast(logps.kl), "k b m -> k b", "sum"),
        }

        def side(candidates: Tensor) -> Side:
            of_side: dict[str, Any] = {name: of if of is None else of[candidates] for name, of in per_candidate.items()}
            return Side(**of_side)

        chosen, rejected = map(side, pairs_of(batch.num_candidates, logps.mask.device))
        gap = chosen.compared - rejected.compared
        if self.margin:
            gap = gap - self.margin.of_pairs(logps, batch).to(gap.dtype) / self.beta
        return Pair(chosen, rejected, gap)

    def probability_right(self, logps: Logps, batch: CandidateBatch) -> Float[Tensor, "q b"]:
        """How probably each pair is in the order given."""
        preferred = batch.preferences().to(upcast(logps.policy).dtype)
        if not self.reads_confidence:
            preferred = torch.ones_like(preferred)
        return preferred * (1 - self.label_smoothing) + (1 - preferred) * self.label_smoothing

    def details(self, logps: Logps, batch: CandidateBatch) -> dict[str, Float[Tensor, ""]]:
        return {"weights": wpo_weights(logps).mean()} if self.weighting is Weighting.wpo else {}

    def value_at_reference(self, num_candidates: int = 2) -> float | None:
        """Of a loss of the gap. Others override it."""
        if type(self).values is not PairLoss.values:
            return None
        if not self.needs_reference or self.weighting is not Weighting.none or self.margin or self.nll:
            return None
        zero = torch.zeros((), dtype=torch.float64)
        side = Side(logp=zero, compared=zero, length=zero, score=zero, kl=zero)
        return float(self.of_pair(Pair(side, replace(side), zero)))

    def remarks(self) -> list[str]:
        if self.aggregate is Aggregate.mean and self.beta < 0.5 and self.beta == default_of(type(self), "beta"):
            return [
                f"loss.beta={self.beta:g} is usual for sums of log-probabilities; on means per token the loss is then nearly "
                "flat, and 2-10 is usual"
            ]
        return []
