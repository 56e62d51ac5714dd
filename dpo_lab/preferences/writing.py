"""Rows of tokens written to a safetensors file without holding them in memory."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any

import numpy as np
import torch
from numpy.lib.format import open_memmap
from safetensors.torch import save_file

BUFFERED = 1 << 16
"""Tokens that wait in memory."""
CELLS = 1 << 22
"""Cells of the padded table that are made at a time."""


class TokenColumn:
    """Lists of token ids, one after the other in a file; only their lengths stay in memory."""

    def __init__(self, file: IO[bytes]) -> None:
        self.lengths = array("i")
        self._waiting = array("i")
        self._file = file

    def append(self, ids: Sequence[int]) -> None:
        self.lengths.append(len(ids))
        self._waiting.extend(ids)
        if len(self._waiting) > BUFFERED:
            self._flush()

    @property
    def width(self) -> int:
        return max(self.lengths, default=0)

    def fill(self, ids: Any, mask: Any) -> None:
        """Write the lists, padded with 0 at the right, and their mask into two tables."""
        self._flush()
        self._file.seek(0)
        width = ids.shape[1]
        lengths = np.frombuffer(self.lengths, dtype=np.int32)
        size = max(CELLS // max(width, 1), 1)
        for first in range(0, len(lengths), size):
            rows = slice(first, first + size)
            real = np.arange(width) < lengths[rows, None]
            table = np.zeros(real.shape, dtype=np.int64)
            table[real] = np.fromfile(self._file, dtype=np.int32, count=int(lengths[rows].sum()))
            ids[rows], mask[rows] = table, real

    def _flush(self) -> None:
        self._file.seek(0, 2)
        self._waiting.tofile(self._file)
        self._file.flush()
        self._waiting = array("i")


def write_columns(path: Path, prompts: TokenColumn, candidates: Sequence[TokenColumn], labels: Mapping[str, Any]) -> None:
    """The tensors of a CandidateBatch as a safetensors file; `labels` are those that are not tokens, as numpy arrays."""
    k, n, m = len(candidates), len(prompts.lengths), max(column.width for column in candidates)
    shapes = {"prompt": (n, prompts.width), "prompt_mask": (n, prompts.width), "completions": (k, n, m), "mask": (k, n, m)}
    with TemporaryDirectory(dir=path.parent) as folder:  # of mapped files, which safetensors copies to its own
        tables = {
            name: open_memmap(f"{folder}/{name}.npy", mode="w+", dtype=bool if "mask" in name else np.int64, shape=shape)
            for name, shape in shapes.items()
        }
        prompts.fill(tables["prompt"], tables["prompt_mask"])
        for column, ids, mask in zip(candidates, tables["completions"], tables["mask"], strict=True):
            column.fill(ids, mask)
        tensors = {name: torch.from_numpy(np.ascontiguousarray(values)) for name, values in {**tables, **labels}.items()}
        save_file(tensors, path)
