"""Micro-batches: the prompts of a batch split into passes that fit into memory, each prompt with all its candidates."""

from __future__ import annotations

import torch
from einops import reduce
from jaxtyping import Int
from torch import Tensor

from dpo_lab.records import CandidateBatch

INFERENCE_TOKENS = 8192
"""In one pass without gradients, if nothing else is set: with a large vocabulary, the logits of more would fill memory."""


def row_lengths(batch: CandidateBatch) -> Int[Tensor, " b"]:
    """Tokens of each prompt together with its longest completion."""
    return batch.prompt_mask.sum(dim=1) + reduce(batch.mask.sum(dim=2), "k b -> b", "max")


def split_by_tokens(
    batch: CandidateBatch, rows: Int[Tensor, " n"], max_tokens: int | None, workers: int = 1
) -> list[Int[Tensor, " _"]]:
    """The rows in micro-batches of similar length, longest first.

    All micro-batches that run at once, one on each worker, hold at most `max_tokens` tokens together, padding included; None:
    no bound. Every worker gets equally many micro-batches, of about equally many tokens. Tokens are counted as if every
    candidate had its own copy of the prompt. A single prompt that exceeds the bound is a micro-batch of its own.
    """
    lengths = batch.num_candidates * row_lengths(batch)[rows]
    order = torch.argsort(lengths, descending=True, stable=True)
    descending: list[int] = lengths[order].tolist()
    whole = descending[0] * len(descending) if descending else 0
    bound = whole if max_tokens is None else max_tokens // workers
    sizes = _sizes(descending, bound)
    if workers > 1 and len(sizes) < len(rows):
        count = min(-(-len(sizes) // workers) * workers, len(rows))
        too_small = 0  # the smallest bound that gives so few micro-batches makes them the most even
        while bound - too_small > 1:
            middle = (too_small + bound) // 2
            too_small, bound = (too_small, middle) if len(_sizes(descending, middle)) <= count else (middle, bound)
        sizes = _sizes(descending, bound)
    return list(rows[order].split(sizes))


def split_for_inference(
    batch: CandidateBatch, size: int | None, max_tokens: int | None, workers: int = 1
) -> list[Int[Tensor, " _"]]:
    """All rows in micro-batches for passes without gradients: of `size` prompts, or by tokens (None: 8192)."""
    rows = torch.arange(len(batch))
    if size is not None:
        return list(rows.split(size))
    return split_by_tokens(batch, rows, INFERENCE_TOKENS if max_tokens is None else max_tokens, workers)


def largest_micro_batch(batch: CandidateBatch, size: int | None, max_tokens: int | None) -> CandidateBatch:
    """The one of `split_for_inference` that takes the most memory."""
    lengths = row_lengths(batch)
    micro_batches = split_for_inference(batch, size, max_tokens)
    return batch.select(max(micro_batches, key=lambda rows: len(rows) * int(lengths[rows].max())))


def _sizes(descending: list[int], bound: int) -> list[int]:
    """Rows in each micro-batch of at most `bound` tokens, given the rows' lengths."""
    sizes: list[int] = []
    while (first := sum(sizes)) < len(descending):
        sizes.append(min(max(bound // max(descending[first], 1), 1), len(descending) - first))
    return sizes
