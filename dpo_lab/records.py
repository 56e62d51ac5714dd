"""The two records that everything passes on: what is compared (CandidateBatch), and how likely it is (Logps).

Letters in shapes: b prompts, k candidates of one prompt (index 0 chosen, 1 rejected), p prompt tokens, m completion tokens.
Log-probabilities are in nats.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from enum import Enum
from typing import Any

import torch
from einops import rearrange, reduce, repeat
from jaxtyping import Bool, Float, Int
from torch import Tensor


class Aggregate(Enum):
    """How the log-probabilities of a completion's tokens become one number.

    sum, or mean per token. shared: the sum, in which tokens beyond the length of the prompt's shortest candidate count only in
    part (LD-DPO, Liu et al. 2024, arXiv:2409.06411). sampled: the sum over as many tokens as the shortest candidate has, drawn
    without replacement, the same for policy and reference (SamPO, Lu et al. 2024, arXiv:2406.10957).
    """

    sum = "sum"
    mean = "mean"
    shared = "shared"
    sampled = "sampled"


def pairs_of(num_candidates: int, device: torch.device | None = None) -> tuple[Int[Tensor, " q"], Int[Tensor, " q"]]:
    """First and second candidate of every pair i < j: (0), (1) for two. Made on the device, which would wait for a copy."""
    first, second = torch.triu_indices(num_candidates, num_candidates, offset=1, device=device)
    return first, second


@dataclass
class CandidateBatch:
    """Prompts with their candidate completions, and what is known of them; also a whole data set, as one batch.

    Masks are true at real tokens; padding may stand anywhere. A prompt has at least one token (a start token if its text is
    empty), as something has to predict the first completion token.
    """

    prompt: Int[Tensor, "b p"]
    prompt_mask: Bool[Tensor, "b p"]
    completions: Int[Tensor, "k b m"]
    mask: Bool[Tensor, "k b m"]
    ids: Int[Tensor, " b"]
    """Row of each prompt in the data set it came from."""
    confidence: Float[Tensor, " b"]
    """P(chosen beats rejected); 1 if unknown."""
    utilities: Float[Tensor, "k b"] | None = None
    """Candidate i beats j with probability sigmoid(utility i - utility j); these then stand in for `confidence`.

    Without them more than two candidates are ordered, best first.
    """
    scores: Float[Tensor, "k b"] | None = None
    """Rewards of the candidates, if a scorer labelled them."""
    desirable: Bool[Tensor, "k b"] | None = None
    """Unpaired feedback: whether each completion is a good one."""
    margin: Float[Tensor, " b"] | None = None
    """How much better the first candidate should be than the second, in rewards, if the data says so."""
    reference: Float[Tensor, "k b m"] | None = None
    """Log-probabilities under the reference, if they were computed before training; 0 at padding."""
    mismatched: CandidateBatch | None = None
    """The same prompts with one completion each that belongs to another prompt, for losses that need a baseline."""
    step: int = 0
    """The optimiser step that the batch is for: it varies what a loss draws at random."""
    host: CandidateBatch | None = None
    """The same batch in main memory, if it was moved to a device from there."""

    def __len__(self) -> int:
        return self.prompt.shape[0]

    @property
    def num_candidates(self) -> int:
        return self.completions.shape[0]

    @property
    def num_tokens(self) -> Int[Tensor, ""]:
        """Tokens of all completions and of the prompts, each prompt once, however often it is read."""
        return self.prompt_mask.sum() + self.mask.sum()

    def preferences(self) -> Float[Tensor, "q b"]:
        """P(first beats second) for every pair of candidates, in the order of `pairs_of`."""
        first, second = pairs_of(self.num_candidates, self.mask.device)
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
            margin=None if self.margin is None else self.margin[rows],
            reference=None if self.reference is None else self.reference[:, rows][:, :, m],
            mismatched=None if self.mismatched is None else self.mismatched.select(rows),
            step=self.step,
        )

    def with_mismatched(self) -> CandidateBatch:
        """The same with, for each row, a completion of the next row that has another prompt (its candidates take turns).

        Raises ValueError where all prompts are the same.
        """
        prompts = (self.prompt * self.prompt_mask, self.prompt_mask.long())
        prompt = torch.unique(torch.cat(prompts, dim=1), dim=0, return_inverse=True)[1].tolist()
        if len(set(prompt)) < 2:
            raise ValueError("a baseline from mismatched completions needs at least 2 different prompts, the data has 1")
        following = list(range(1, len(self) + 1))
        for row in reversed(range(2 * len(self))):  # twice round: the last rows may have to look past the end
            i, after = row % len(self), (row + 1) % len(self)
            following[i] = following[after] if prompt[after] == prompt[i] else after
        other = torch.tensor(following, device=self.prompt.device)
        candidate = other % self.num_candidates
        mismatched = CandidateBatch(
            prompt=self.prompt,
            prompt_mask=self.prompt_mask,
            completions=rearrange(self.completions[candidate, other], "b m -> 1 b m"),
            mask=rearrange(self.mask[candidate, other], "b m -> 1 b m"),
            ids=self.ids,
            confidence=torch.ones_like(self.confidence),
        )
        return replace(self, mismatched=mismatched)

    def to(self, device: torch.device | str) -> CandidateBatch:
        to_host = torch.device(device).type == "cpu"
        moved: dict[str, Any] = {name: tensor.to(device, non_blocking=not to_host) for name, tensor in self.tensors().items()}
        mismatched = None if self.mismatched is None else self.mismatched.to(device)
        host = None if to_host else self if self.prompt.device.type == "cpu" else self.host
        return CandidateBatch(**moved, mismatched=mismatched, step=self.step, host=host)

    def on_host(self) -> CandidateBatch:
        """The batch in main memory: reading its lengths there waits for no device."""
        if self.prompt.device.type == "cpu":
            return self
        return self.host if self.host is not None else self.to("cpu")

    def tensors(self) -> dict[str, Tensor]:
        """The tensors that are present, by name."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, Tensor)}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> CandidateBatch:
        given: dict[str, Any] = dict(tensors)
        return cls(**given)


@dataclass
class Logps:
    """Log-probability of every completion token under the policy and under the reference, at the token's own index.

    Masked positions hold exactly 0, so sums need no further masking. Aggregates are float32 (float64 stays float64), and no
    gradient reaches the reference.
    """

    policy: Float[Tensor, "k b m"]
    reference: Float[Tensor, "k b m"] | None
    mask: Bool[Tensor, "k b m"]
    kl: Float[Tensor, "k b m"] | None = None
    """KL(reference || policy) of the whole next-token distribution at each completion token, if a loss reads it."""
    collision: Float[Tensor, "k b m"] | None = None
    """log of the sum over the vocabulary of the policy's squared probabilities, without gradient, if a loss reads it."""
    mismatched: Logps | None = None
    """The same for the batch's mismatched completions, without gradient."""

    @property
    def lengths(self) -> Int[Tensor, "k b"]:
        """Tokens in each completion."""
        return reduce(self.mask.long(), "k b m -> k b", "sum")

    def policy_logps(self, weights: Float[Tensor, "k b m"] | None = None) -> Float[Tensor, "k b"]:
        """Sums over tokens, each counted with its weight (see `aggregates`); None: with 1."""
        return _weighted(upcast(self.policy), weights)

    def reference_logps(self, weights: Float[Tensor, "k b m"] | None = None) -> Float[Tensor, "k b"]:
        assert self.reference is not None, "these Logps were made without a reference"
        return _weighted(upcast(self.reference.detach()), weights)

    def logratios(self, weights: Float[Tensor, "k b m"] | None = None) -> Float[Tensor, "k b"]:
        """Policy minus reference, of each completion."""
        assert self.reference is not None, "these Logps were made without a reference"
        # Subtracted per token, before the sum: two sums of some -1000 nats would cancel in float32.
        return _weighted(upcast(self.policy) - upcast(self.reference.detach()), weights)


def _weighted(per_token: Float[Tensor, "k b m"], weights: Float[Tensor, "k b m"] | None) -> Float[Tensor, "k b"]:
    return reduce(per_token if weights is None else per_token * weights.to(per_token.dtype), "k b m -> k b", "sum")


def upcast(logps: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
    """float32, or float64 if it is that already: half precision is for storage."""
    # A bfloat16 sum over 512 tokens is off by nats, a float16 one overflows at 65504.
    return logps if logps.dtype == torch.float64 else logps.float()
