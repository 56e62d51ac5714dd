"""How the prompts of a step are portioned into micro-batches, each prompt with all its candidates."""

from __future__ import annotations

import torch
from einops import reduce
from jaxtyping import Int
from torch import Tensor

from dpo_lab.records import CandidateBatch


def longest_rows(batch: CandidateBatch) -> Int[Tensor, " b"]:
    """Of each prompt, how many tokens it has together with its longest completion."""
    return batch.prompt_mask.sum(dim=1) + reduce(batch.mask.sum(dim=2), "k b -> b", "max")


def by_tokens(batch: CandidateBatch, rows: Int[Tensor, " n"], budget: int) -> list[Int[Tensor, " _"]]:
    """The rows in portions of like length, longest first, each of at most `budget` tokens, padding included.

    Tokens are counted as if every candidate had its own copy of the prompt; a layout that shares prompts runs fewer. A single
    prompt that exceeds the budget is a portion of its own.
    """
    lengths = longest_rows(batch)[rows]
    order = torch.argsort(lengths, descending=True, stable=True)
    in_order: list[int] = lengths[order].tolist()
    portions, first = [], 0
    while first < len(rows):
        size = max(budget // max(batch.num_candidates * in_order[first], 1), 1)
        portions.append(rows[order[first : first + size]])
        first += size
    return portions
