"""Losses that judge each completion by itself, as desirable or not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from einops import reduce
from jaxtyping import Float
from torch import Tensor

from dpo_lab.losses.base import PreferenceLoss, State
from dpo_lab.records import CandidateBatch, Logps, pairs_of, upcast


@dataclass
class UnpairedLoss(PreferenceLoss):
    """A loss of single completions: of a prompt with several, the mean over them.

    Each is desirable with some probability P, and its loss is the expectation P * per_desirable + (1 - P) * per_undesirable. P
    is the data's own word on a single completion, `batch.confidence` for the chosen of two (the rejected has the rest), the
    mean probability of beating another candidate for more; `label_smoothing` e makes it P (1 - e) + (1 - P) e.
    """

    min_candidates = 1
    unsupported: ClassVar = {
        "divergence": "it judges each completion by itself, and the normaliser of other divergences only cancels between two",
        "weighting": "wpo weighs pairs, and it judges each completion by itself",
        "margin": "a margin lies between two completions, and it judges each by itself",
        "nll": "unpaired data has no chosen completion to imitate",
    }

    def per_desirable(self, rewards: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
        """The loss of completions known to be desirable, by their rewards less the baseline."""
        raise NotImplementedError

    def per_undesirable(self, rewards: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
        """The loss of completions known not to be desirable."""
        raise NotImplementedError

    def baseline(self, state: State) -> float | Float[Tensor, ""]:
        """The reward that others are compared with."""
        return 0.0

    def values(self, logps: Logps, batch: CandidateBatch, state: State) -> Float[Tensor, " b"]:
        rewards = self.rewards(logps, batch, state) - self.baseline(state)
        good = self.probability_desirable(logps, batch)
        return reduce(good * self.per_desirable(rewards) + (1 - good) * self.per_undesirable(rewards), "k b -> b", "mean")

    def probability_desirable(self, logps: Logps, batch: CandidateBatch) -> Float[Tensor, "k b"]:
        k, dtype = batch.num_candidates, upcast(logps.policy).dtype
        if k == 1:
            assert batch.desirable is not None, "the batch does not say which completions are desirable"
            return self.options.smoothed(batch.desirable.to(dtype))
        first, second = pairs_of(k, logps.mask.device)
        preferred = batch.preferences().to(dtype)
        beats = preferred.new_zeros(k, k, len(batch))
        beats[first, second], beats[second, first] = preferred, 1 - preferred
        return self.options.smoothed(reduce(beats, "i j b -> i b", "sum") / (k - 1))

    def check(self, batch: CandidateBatch) -> None:
        super().check(batch)
        if batch.num_candidates == 1 and batch.desirable is None:
            raise ValueError(
                f"loss={self.name} needs to know of each single completion whether it is desirable, and this data does not say"
            )
