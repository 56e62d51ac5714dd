"""Micro-batches: the prompts of a batch, each with all its candidates, split so that a forward pass fits into memory."""

from __future__ import annotations

import torch
from einops import reduce
from jaxtyping import Int
from torch import Tensor

from dpo_lab.records import CandidateBatch

TOKENS_AT_ONCE = 8192
"""In a pass that keeps nothing: with a large vocabulary the logits of more would fill memory."""


def longest_rows(batch: CandidateBatch) -> Int[Tensor, " b"]:
    """Tokens of each prompt together with its longest completion."""
    return batch.prompt_mask.sum(dim=1) + reduce(batch.mask.sum(dim=2), "k b -> b", "max")


def split_by_tokens(
    batch: CandidateBatch, rows: Int[Tensor, " n"], budget: int | None, workers: int = 1
) -> list[Int[Tensor, " _"]]:
    """The rows in micro-batches of like length, longest first.

    `workers` micro-batches run at once: together they hold at most `budget` tokens, padding included (None: any number), and
    each worker gets as many micro-batches as the others, of about as many tokens. Tokens are counted as if every candidate had
    its own copy of the prompt; a layout that shares prompts runs fewer. A prompt that exceeds the budget runs alone.
    """
    lengths = batch.num_candidates * longest_rows(batch)[rows]
    order = torch.argsort(lengths, descending=True, stable=True)
    in_order: list[int] = lengths[order].tolist()
    whole = in_order[0] * len(in_order) if in_order else 0
    most = whole if budget is None else budget // workers
    sizes = _sizes(in_order, most)
    if workers > 1 and len(sizes) < len(rows):
        wanted = min(-(-len(sizes) // workers) * workers, len(rows))
        low = 0  # the smallest budget with so many micro-batches makes the most even ones
        while most - low > 1:
            middle = (low + most) // 2
            low, most = (low, middle) if len(_sizes(in_order, middle)) <= wanted else (middle, most)
        sizes = _sizes(in_order, most)
    return list(rows[order].split(sizes))


def inference_micro_batches(
    batch: CandidateBatch, size: int | None, tokens: int | None, workers: int = 1
) -> list[Int[Tensor, " _"]]:
    """All rows, in micro-batches for passes without gradients: `size` prompts each, or `tokens` tokens, by default 8192."""
    rows = torch.arange(len(batch))
    if size is not None:
        return list(rows.split(size))
    return split_by_tokens(batch, rows, TOKENS_AT_ONCE if tokens is None else tokens, workers)


def largest_micro_batch(batch: CandidateBatch, size: int | None, tokens: int | None, workers: int = 1) -> CandidateBatch:
    """The micro-batch of `inference_micro_batches` that takes the most memory."""
    lengths = longest_rows(batch)
    micro_batches = inference_micro_batches(batch, size, tokens, workers)
    return batch.select(max(micro_batches, key=lambda rows: len(rows) * int(lengths[rows].max())))


def _sizes(lengths: list[int], budget: int) -> list[int]:
    """Rows in each micro-batch, of lengths that fall."""
    sizes: list[int] = []
    while (first := sum(sizes)) < len(lengths):
        sizes.append(min(max(budget // max(lengths[first], 1), 1), len(lengths) - first))
    return sizes
