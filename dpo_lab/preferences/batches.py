"""Lists of token ids as padded tensors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from dpo_lab.records import CandidateBatch


def padded(rows: Sequence[Sequence[int]]) -> tuple[Int[Tensor, "n m"], Bool[Tensor, "n m"]]:
    """Rows of ids as one tensor, padded with 0 at the right, and its mask."""
    width = max((len(row) for row in rows), default=0)
    ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in rows], dtype=torch.long).view(len(rows), width)
    lengths = torch.tensor([len(row) for row in rows])
    return ids, torch.arange(width) < lengths[:, None]


def from_rows(
    prompts: Sequence[Sequence[int]], candidates: Sequence[Sequence[Sequence[int]]], confidence: Tensor
) -> CandidateBatch:
    """A data set of token ids: `candidates[i]` are the completions of `prompts[i]`, the same number for each."""
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


def token_lists(ids: Int[Tensor, "n m"], mask: Bool[Tensor, "n m"]) -> list[list[int]]:
    """The unmasked ids of each row: the inverse of `padded`."""
    return [row.tolist() for row in ids[mask].split(mask.sum(dim=1).tolist())]
