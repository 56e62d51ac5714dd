"""Which rows make up which batch: a pure function, so that a resumed run needs no state to go on."""

from __future__ import annotations

from functools import lru_cache

import torch
from jaxtyping import Int
from torch import Tensor


def batch_rows(seed: int, step: int, batch_size: int, num_rows: int) -> Int[Tensor, " b"]:
    """Rows of the given step's batch.

    Batches are cut from an endless chain of shuffles of all rows, one an epoch: every row comes once in each epoch, whatever
    the batch size, and a batch may straddle two epochs.
    """
    assert min(num_rows, batch_size, step + 1) > 0, (num_rows, batch_size, step)
    first, last = step * batch_size, (step + 1) * batch_size
    epochs = range(first // num_rows, (last - 1) // num_rows + 1)
    chain = torch.cat([_shuffled(seed, epoch, num_rows) for epoch in epochs])
    offset = first - epochs.start * num_rows
    return chain[offset : offset + batch_size]


@lru_cache(maxsize=4)
def _shuffled(seed: int, epoch: int, num_rows: int) -> Int[Tensor, " n"]:
    # Seeds of neighbouring runs and epochs are spread apart: torch mixes them, but (0, 1) and (1, 0) must not meet.
    return torch.randperm(num_rows, generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch))
