"""The two records everything passes through: what was compared (CandidateBatch) and how likely it was (Logps).

Letters in shapes: b prompts, k candidates of one prompt (index 0 chosen, 1 rejected), p prompt tokens, m completion tokens.
Log-probabilities are in nats.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import Enum

import torch
from einops import reduce, repeat
from jaxtyping import Bool, Float, Int
from torch import Tensor


class Aggregate(Enum):
    """How the log-probabilities of a completion's tokens become one number: their sum, or their mean per token."""

    sum = "sum"
    mean = "mean"


def pairs_of(num_candidates: int) -> tuple[Int[Tensor, " q"], Int[Tensor, " q"]]:
    """First and second candidate of every pair i < j: (0), (1) for two candidates."""
    first, second = torch.triu_indices(num_candidates, num_candidates, offset=1)
    return first, second


@dataclass
class CandidateBatch:
    """Prompts with their candidate completions, and what is known of them. Also the form of a whole data set (b = all of it).

    Masks are true at real tokens; padding may stand anywhere. A prompt has at least one token (a start token when it is
    empty text), for something has to predict the first completion token.
    """

    prompt: Int[Tensor, "b p"]
    prompt_mask: Bool[Tensor, "b p"]
    completions: Int[Tensor, "k b m"]
    mask: Bool[Tensor, "k b m"]
    ids: Int[Tensor, " b"]
    """Row of each prompt in the data set it came from."""
    confidence: Float[Tensor, " b"]
    """P(chosen beats rejected); 1 where nothing says otherwise."""
    utilities: Float[Tensor, "k b"] | None = None
    """Candidate i beats j with probability sigmoid(utility i - utility j); these then stand in for `confidence`.

    Without them more than two candidates are ordered, best first.
    """
    scores: Float[Tensor, "k b"] | None = None
    """Rewards that labelled the candidates, where a scorer did."""
    desirable: Bool[Tensor, "k b"] | None = None
    """Unpaired feedback: is this completion a good one?"""
    reference: Float[Tensor, "k b m"] | None = None
    """Log-probabilities under the reference, where they were computed ahead; 0 at padding."""

    def __len__(self) -> int:
        return self.prompt.shape[0]

    @property
    def num_candidates(self) -> int:
        return self.completions.shape[0]

    def preferences(self) -> Float[Tensor, "q b"]:
        """P(first beats second) for every pair of candidates, in the order of `pairs_of`."""
        first, second = pairs_of(self.num_candidates)
        if self.utilities is not None:
            return torch.sigmoid(self.utilities[first] - self.utilities[second])
        if self.num_candidates == 2:
            return repeat(self.confidence, "b -> 1 b")
        return torch.ones(len(first), len(self), device=self.confidence.device, dtype=self.confidence.dtype)

    def select(self, rows: Int[Tensor, " n"]) -> CandidateBatch:
        """The given prompts, with columns that are padding in all of them cut off."""
        prompt_mask, mask = self.prompt_mask[rows], self.mask[:, rows]
        p, m = prompt_mask.any(dim=0), reduce(mask, "k b m -> m", "any")
        return CandidateBatch(
            prompt=self.prompt[rows][:, p],
            prompt_mask=prompt_mask[:, p],
            completions=self.completions[:, rows][:, :, m],
            mask=mask[:, :, m],
            ids=self.ids[rows],
            confidence=self.confidence[rows],
            utilities=None if self.utilities is None else self.utilities[:, rows],
            scores=None if self.scores is None else self.scores[:, rows],
            desirable=None if self.desirable is None else self.desirable[:, rows],
            reference=None if self.reference is None else self.reference[:, rows][:, :, m],
        )

    def to(self, device: torch.device | str) -> CandidateBatch:
        return CandidateBatch(**{name: tensor.to(device) for name, tensor in self.tensors().items()})

    def tensors(self) -> dict[str, Tensor]:
        """The fields that are present, by name."""
        found = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: tensor for name, tensor in found.items() if tensor is not None}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> CandidateBatch:
        return cls(**tensors)


@dataclass
class Logps:
    """Log-probability of every completion token under the policy and under the reference, at the token's own index.

    Masked positions hold exactly 0, so sums need no further masking. Aggregates are float32 (float64 stays float64), and no
    gradient reaches the reference.
    """

    policy: Float[Tensor, "k b m"]
    reference: Float[Tensor, "k b m"] | None
    mask: Bool[Tensor, "k b m"]

    @property
    def lengths(self) -> Int[Tensor, "k b"]:
        """Tokens in each completion."""
        return reduce(self.mask.long(), "k b m -> k b", "sum")

    def policy_logps(self, aggregate: Aggregate = Aggregate.sum) -> Float[Tensor, "k b"]:
        return self._aggregated(_upcast(self.policy), aggregate)

    def reference_logps(self, aggregate: Aggregate = Aggregate.sum) -> Float[Tensor, "k b"]:
        assert self.reference is not None, "these Logps were made without a reference"
        return self._aggregated(_upcast(self.reference.detach()), aggregate)

    def logratios(self, aggregate: Aggregate = Aggregate.sum) -> Float[Tensor, "k b"]:
        """Policy minus reference, of each completion."""
        assert self.reference is not None, "these Logps were made without a reference"
        # Subtracted per token, before the sum: two sums of some -1000 nats would cancel in float32.
        return self._aggregated(_upcast(self.policy) - _upcast(self.reference.detach()), aggregate)

    def _aggregated(self, per_token: Float[Tensor, "k b m"], aggregate: Aggregate) -> Float[Tensor, "k b"]:
        total = reduce(per_token, "k b m -> k b", "sum")
        if aggregate is Aggregate.sum:
            return total
        # An empty completion has the mean 0, as it has the sum 0.
        return total / self.lengths.clamp(min=1)


def _upcast(logps: Float[Tensor, "k b m"]) -> Float[Tensor, "k b m"]:
    # A bfloat16 sum over 512 tokens is off by nats, a float16 one overflows at 65504.
    return logps if logps.dtype == torch.float64 else logps.float()
