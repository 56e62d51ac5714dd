"""What a preference loss is, and the laws it can declare."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from einops import reduce
from jaxtyping import Float
from torch import Tensor

from dpo_lab.records import Aggregate, CandidateBatch, Logps, pairs_of
from dpo_lab.registry import Registry


@dataclass(frozen=True)
class Laws:
    """What a loss promises of itself; the property tests check every promise, and that none is missing.

    `shift_invariant`: one constant added to all candidates' log-probabilities of one prompt changes nothing.
    `monotone`: never rises as the gap between chosen and rejected log-ratio grows. `convex`: in that gap.
    """

    shift_invariant: bool = False
    monotone: bool = False
    convex: bool = False


@dataclass
class PreferenceLoss:
    """One value per prompt from the log-probabilities of its candidates.

    Values are not averaged here: who trains divides by the number of prompts in the whole step, so that accumulation over
    micro-batches and ranks changes nothing.
    """

    name: str

    laws: ClassVar[Laws] = Laws()
    needs_reference: ClassVar[bool] = True
    num_candidates: ClassVar[int | None] = None
    """How many candidates a prompt must have; None: any number."""

    def __call__(self, logps: Logps, batch: CandidateBatch) -> Float[Tensor, " b"]:
        raise NotImplementedError

    def rewards(self, logps: Logps) -> Float[Tensor, "k b"]:
        """The implicit reward that this loss compares, of each candidate: what is logged as rewards/*."""
        raise NotImplementedError

    def value_at_reference(self) -> float | None:
        """What the loss is while the policy still equals the reference, or None where that is no constant."""
        return None


@dataclass
class PairLoss(PreferenceLoss):
    """A function of the gap: the chosen completion's log-ratio minus the rejected one's.

    Of more than two candidates, the mean over all pairs.

    Where a pair is only probably ordered (`batch.confidence` P, or `label_smoothing` e: P = 1 - e), the loss is its
    expectation P * L(gap) + (1 - P) * L(-gap): conservative DPO (Mitchell 2023), with a P for each pair when the data has one.
    """

    beta: float = 0.1
    """Strength of the pull towards the reference. Scales with `aggregate`: about .01-.5 for sums, 2-10 for means."""
    aggregate: Aggregate = Aggregate.sum
    label_smoothing: float = 0.0
    """Probability that a label is wrong, in [0, .5)."""

    def __post_init__(self) -> None:
        if not 0 < self.beta < math.inf:
            raise ValueError(f"loss.beta must be > 0 and finite, got {self.beta}")
        if not 0 <= self.label_smoothing < 0.5:
            raise ValueError(f"loss.label_smoothing must be in [0, 0.5), got {self.label_smoothing}")

    def of_gap(self, gap: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
        """The loss of pairs whose order is certain."""
        raise NotImplementedError

    def __call__(self, logps: Logps, batch: CandidateBatch) -> Float[Tensor, " b"]:
        ratios = logps.logratios(self.aggregate)
        first, second = pairs_of(batch.num_candidates)
        gap, preferred = ratios[first] - ratios[second], batch.preferences()
        right = preferred * (1 - self.label_smoothing) + (1 - preferred) * self.label_smoothing
        # Where the order is certain the other side has no weight; it must not overflow either, for 0 * inf is not 0.
        other = torch.where(right < 1, -gap, gap)
        values = right * self.of_gap(gap) + (1 - right) * self.of_gap(other)
        return reduce(values, "q b -> b", "mean")

    def rewards(self, logps: Logps) -> Float[Tensor, "k b"]:
        return self.beta * logps.logratios(self.aggregate)

    def value_at_reference(self) -> float | None:
        return float(self.of_gap(torch.zeros((), dtype=torch.float64)))


LOSSES: Registry[PreferenceLoss] = Registry("loss")
