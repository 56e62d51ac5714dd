"""Losses of pairs: the chosen completion against the rejected one."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar

import torch
from einops import reduce
from jaxtyping import Bool, Float
from torch import Tensor

from dpo_lab.losses.base import NO_STATE, PreferenceLoss, State, default_of
from dpo_lab.losses.options import Weighting, wpo_weights
from dpo_lab.records import Aggregate, CandidateBatch, Logps, pairs_of, upcast


@dataclass
class Side:
    """One completion of each pair."""

    logratio: Float[Tensor, "*s"]
    """Reward over beta: the log-ratio under the divergence's link; the log-probability for a loss without a reference."""
    score: Float[Tensor, "*s"] | None = None
    kl: Float[Tensor, "*s"] | None = None
    """KL(reference || policy) summed over the completion's positions, nats."""


@dataclass
class Pair:
    """What a loss of pairs sees, of many pairs at once."""

    chosen: Side
    rejected: Side
    diff: Float[Tensor, "*s"]
    """chosen.logratio - rejected.logratio, less the margin (over beta)."""
    state: State = field(default_factory=dict)

    def swapped(self) -> Pair:
        """The same pairs, labelled the other way round."""
        return Pair(self.rejected, self.chosen, -self.diff, self.state)

    def where(self, condition: Bool[Tensor, "*s"], other: Pair) -> Pair:
        """These pairs where the condition holds, the others elsewhere."""

        def either(ours: Side, others: Side) -> Side:
            both = {f.name: (getattr(ours, f.name), getattr(others, f.name)) for f in fields(Side)}
            mixed: dict[str, Any] = {name: a if a is None else torch.where(condition, a, b) for name, (a, b) in both.items()}
            return Side(**mixed)

        chosen, rejected = either(self.chosen, other.chosen), either(self.rejected, other.rejected)
        return Pair(chosen, rejected, torch.where(condition, self.diff, other.diff), self.state)


@dataclass
class PairLoss(PreferenceLoss):
    """A loss of the chosen completion against the rejected one; of more candidates, the mean over all pairs.

    Where a pair is only probably ordered (`batch.confidence` P, or `label_smoothing` e: P = 1 - e), the loss is its
    expectation P * L(pair) + (1 - P) * L(swapped pair): conservative DPO (Mitchell 2023), with a P for each pair when the data
    has one.
    """

    beta_scales: ClassVar[bool] = True
    """beta multiplies log-ratios, so that means per token want a larger one than sums do."""

    def per_pair(self, diff: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
        """The loss of pairs whose order is certain, by the difference of the two log-ratios: where it depends on no more."""
        raise NotImplementedError(f"{type(self).__qualname__} defines neither per_pair nor per_sides")

    def per_sides(self, pair: Pair) -> Float[Tensor, "*s"]:
        """The loss of pairs whose order is certain."""
        return self.per_pair(pair.diff)

    def values(self, logps: Logps, batch: CandidateBatch, state: State) -> Float[Tensor, " b"]:
        pair = self.pairs(logps, batch, state)
        losses = self.options.weighted_by_pair(self.pair_losses(pair, logps, batch), logps)
        return self.over_pairs(losses, pair, batch)

    def pair_losses(self, pair: Pair, logps: Logps, batch: CandidateBatch) -> Float[Tensor, "q b"]:
        """The expected loss of each pair."""
        right = self.probability_right(logps, batch)
        # Where the order is certain the other side has no weight; it must not overflow either, for 0 * inf is not 0.
        other = pair.swapped().where(right < 1, pair)
        losses = self.per_sides(pair)
        if losses.shape != pair.diff.shape:
            raise ValueError(
                f"loss={self.name}: the loss of pairs has the shape {tuple(losses.shape)}, and must have a value for each "
                f"pair, {tuple(pair.diff.shape)}: means are taken elsewhere"
            )
        return right * losses + (1 - right) * self.per_sides(other)

    def over_pairs(self, losses: Float[Tensor, "q b"], pair: Pair, batch: CandidateBatch) -> Float[Tensor, " b"]:
        """Each prompt's value, from the losses of its pairs."""
        return reduce(losses, "q b -> b", "mean")

    def pairs(self, logps: Logps, batch: CandidateBatch, state: State = NO_STATE) -> Pair:
        """All pairs of candidates, (q, b) in the order of `pairs_of`."""
        per_candidate: dict[str, Any] = {
            "logratio": self.logratios(logps, batch, state),
            "score": batch.scores,
            "kl": None if logps.kl is None else reduce(upcast(logps.kl), "k b m -> k b", "sum"),
        }

        def side(candidates: Tensor) -> Side:
            numbers: dict[str, Any] = {
                name: None if known is None else known[candidates] for name, known in per_candidate.items()
            }
            return Side(**numbers)

        chosen, rejected = map(side, pairs_of(batch.num_candidates, logps.mask.device))
        diff = chosen.logratio - rejected.logratio
        if self.options.margin:
            diff = diff - self.options.margin.per_pair(logps, batch).to(diff.dtype) / self.beta
        return Pair(chosen, rejected, diff, state)

    def probability_right(self, logps: Logps, batch: CandidateBatch) -> Float[Tensor, "q b"]:
        """How probably each pair is in the order given."""
        preferred = batch.preferences().to(upcast(logps.policy).dtype)
        return self.options.smoothed(preferred if self.reads_confidence else torch.ones_like(preferred))

    def extra_metrics(self, logps: Logps, batch: CandidateBatch, state: State = NO_STATE) -> dict[str, Float[Tensor, ""]]:
        return {"weights": wpo_weights(logps).mean()} if self.options.weighting is Weighting.wpo else {}

    def formula_at_reference(self, num_candidates: int) -> float | None:
        """Of a loss of log-ratios. Others override it."""
        if type(self).values is not PairLoss.values or not self.needs_reference:
            return None
        zero = torch.zeros((), dtype=torch.float64)
        side = Side(logratio=zero, score=zero, kl=zero)
        return float(self.per_sides(Pair(side, replace(side), zero)))

    def warnings(self) -> list[str]:
        default = default_of(type(self), "beta")
        if not self.beta_scales or self.options.aggregate is not Aggregate.mean or self.beta >= 0.5 or self.beta != default:
            return []
        return [
            f"loss.beta={self.beta:g} is usual for sums of log-probabilities; on means per token the loss is then nearly flat, "
            "and 2-10 is usual"
        ]
