"""The sampler: which rows make up which batch, as a pure function of seed and step, so that resuming needs no state."""

from __future__ import annotations

from functools import lru_cache

import torch
from jaxtyping import Int
from torch import Tensor

from dpo_lab.seeding import permutation


def batch_rows(
    seed: int,
    step: int,
    batch_size: int,
    num_rows: int,
    lengths: Int[Tensor, " n"] | None = None,
    window: int | None = None,
) -> Int[Tensor, " b"]:
    """The rows of one step's batch; the first step is 0.

    Batches are cut from an endless chain of shuffles of all rows, one shuffle an epoch: every row comes once in each epoch,
    whatever the batch size, and a batch may straddle two epochs.

    With a `window` of several batches, the rows of these batches are sorted by length and dealt out to them anew, and the
    batches come in random order: rows of similar length are together, and any batch may be a long or a short one.
    """
    assert min(num_rows, batch_size, step + 1) > 0, (num_rows, batch_size, step)
    if window is None or window == 1:
        return _chain(seed, step * batch_size, (step + 1) * batch_size, num_rows)
    assert lengths is not None, "a window needs the rows' lengths"
    began = step // window * window * batch_size
    first, last = step * batch_size, (step + 1) * batch_size
    parts = []
    for epoch in range(first // num_rows, (last - 1) // num_rows + 1):
        # The part of the window that belongs to one epoch, so that every row still comes once in each.
        start, end = max(began, epoch * num_rows), min(began + window * batch_size, (epoch + 1) * num_rows)
        rows = _chain(seed, start, end, num_rows)
        by_length = rows[torch.argsort(lengths[rows], stable=True)]
        edges = [start, *range((start // batch_size + 1) * batch_size, end, batch_size), end]
        sizes = torch.tensor(edges).diff()
        order = permutation(len(sizes), seed, "order of batches", start)
        dealt = dict(zip(order.tolist(), by_length.split(sizes[order].tolist()), strict=True))
        parts.append(dealt[step - start // batch_size])
    return torch.cat(parts)


def _chain(seed: int, first: int, last: int, num_rows: int) -> Int[Tensor, " n"]:
    """The places from `first` to `last` of the endless chain."""
    epochs = range(first // num_rows, (last - 1) // num_rows + 1)
    chain = torch.cat([_shuffled(seed, epoch, num_rows) for epoch in epochs])
    offset = first - epochs.start * num_rows
    return chain[offset : offset + last - first]


@lru_cache(maxsize=4)
def _shuffled(seed: int, epoch: int, num_rows: int) -> Int[Tensor, " n"]:
    return permutation(num_rows, seed, "order of rows", epoch)
