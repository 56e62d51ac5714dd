"""Candidates: where the completions that are compared come from, and which of them make a pair."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dpo_lab.records import CandidateBatch
from dpo_lab.registry import Registry


@dataclass
class CandidatesSpec:
    """How candidates come to be: read from the data, or sampled from the base policy and labelled by a reward."""

    name: str
    max_tokens: int = 32
    """Most tokens of a completion, its end token included."""

    sampled: ClassVar[bool] = False

    @property
    def num_candidates(self) -> int | None:
        """Of each prompt, where the settings alone say so."""
        return None

    @property
    def most_rows(self) -> int | None:
        """More rows than this there cannot be to train on, where the settings alone say so."""
        return None

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise ValueError(f"candidates.max_tokens must be at least 1, got {self.max_tokens}")


CANDIDATES: Registry[CandidatesSpec] = Registry("candidates", "dpo_lab.preferences")


def padded(rows: Sequence[Sequence[int]]) -> tuple[Int[Tensor, "n m"], Bool[Tensor, "n m"]]:
    """Rows of ids as one tensor, padded with 0 at the right, and its mask."""
    width = max((len(row) for row in rows), default=0)
    ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in rows], dtype=torch.long).view(len(rows), width)
    lengths = torch.tensor([len(row) for row in rows])
    return ids, torch.arange(width) < lengths[:, None]


def from_rows(
    prompts: Sequence[Sequence[int]], candidates: Sequence[Sequence[Sequence[int]]], confidence: Tensor
) -> CandidateBatch:
    """A data set from token ids: `candidates[i]` are the completions of `prompts[i]`, equally many for each."""
    prompt, prompt_mask = padded(prompts)
    num_candidates = len(candidates[0])
    flat, flat_mask = padded([completions[j] for j in range(num_candidates) for completions in candidates])
    shape = (num_candidates, len(prompts), flat.shape[1])
    return CandidateBatch(
        prompt=prompt,
        prompt_mask=prompt_mask,
        completions=flat.reshape(shape),
        mask=flat_mask.reshape(shape),
        ids=torch.arange(len(prompts)),
        confidence=confidence,
    )


def certain_utilities(scores: Float[Tensor, "k b"]) -> Float[Tensor, "k b"]:
    """Utilities by which the higher score always wins, and equal scores are no preference. Best first."""
    # Steps of 40 log-odds are certain in float32; equal scores stay at one half.
    steps = (scores.diff(dim=0) != 0).float().cumsum(dim=0)
    return torch.cat((torch.zeros(1, scores.shape[1]), -40 * steps))


def noun(num_candidates: int) -> str:
    """What a user calls prompts with so many candidates."""
    return {1: "completions", 2: "pairs"}.get(num_candidates, f"rankings of {num_candidates}")
