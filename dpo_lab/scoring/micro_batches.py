"""How the prompts of a step are portioned into micro-batches, each prompt with all its candidates."""

from __future__ import annotations

import torch
from einops import reduce
from jaxtyping import Int
from torch import Tensor

from dpo_lab.records import CandidateBatch

TOKENS_AT_ONCE = 8192


def longest_rows(batch: CandidateBatch) -> Int[Tensor, " b"]:
    """Of each prompt, how many tokens it has together with its longest completion."""
    return batch.prompt_mask.sum(dim=1) + reduce(batch.mask.sum(dim=2), "k b -> b", "max")


def by_tokens(batch: CandidateBatch, rows: Int[Tensor, " n"], budget: int | None, workers: int = 1) -> list[Int[Tensor, " _"]]:
    """The rows in portions of like length, longest first.

    So many workers are to run portions at once: what they hold together is at most `budget` tokens, padding included (None: any
    number), and each has as many portions as the others, of about as many tokens. Tokens are counted as if every candidate had
    its own copy of the prompt; a layout that shares prompts runs fewer. A single prompt that exceeds the budget is a portion of
    its own.
    """
    lengths = batch.num_candidates * longest_rows(batch)[rows]
    order = torch.argsort(lengths, descending=True, stable=True)
    in_order: list[int] = lengths[order].tolist()
    whole = in_order[0] * len(in_order) if in_order else 0
    most = whole if budget is None else budget // workers
    sizes = _sizes(in_order, most)
    if workers > 1 and len(sizes) < len(rows):
        wanted = min(-(-len(sizes) // workers) * workers, len(rows))
        low = 0  # the smallest portions of which so many are enough are the most even
        while most - low > 1:
            middle = (low + most) // 2
            low, most = (low, middle) if len(_sizes(in_order, middle)) <= wanted else (middle, most)
        sizes = _sizes(in_order, most)
    return list(rows[order].split(sizes))


def without_gradients(batch: CandidateBatch, size: int | None, tokens: int | None, workers: int = 1) -> list[Int[Tensor, " _"]]:
    """All rows, in portions for passes that keep nothing: so many prompts, or so many tokens (see `by_tokens`).

    By default 8192 tokens: with a large vocabulary the logits of more would fill memory.
    """
    rows = torch.arange(len(batch))
    if size is not None:
        return list(rows.split(size))
    return by_tokens(batch, rows, TOKENS_AT_ONCE if tokens is None else tokens, workers)


def largest_portion(batch: CandidateBatch, size: int | None, tokens: int | None, workers: int = 1) -> CandidateBatch:
    """Of the portions `without_gradients` the one that is the most to hold."""
    lengths = longest_rows(batch)
    portions = without_gradients(batch, size, tokens, workers)
    return batch.select(max(portions, key=lambda rows: len(rows) * int(lengths[rows].max())))


def _sizes(lengths: list[int], budget: int) -> list[int]:
    """Rows in each portion, of lengths that fall."""
    sizes: list[int] = []
    while (first := sum(sizes)) < len(lengths):
        sizes.append(min(max(budget // max(lengths[first], 1), 1), len(lengths) - first))
    return sizes
