"""Rows of tokens written to a safetensors file that is never held in memory: loading it maps it."""

from __future__ import annotations

import json
import math
from array import array
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

BUFFERED = 1 << 16
"""Tokens that wait in memory."""
CELLS = 1 << 22
"""Cells of the padded table that are made at a time."""
KINDS: dict[str, tuple[str, type]] = {"i": ("I64", np.int64), "f": ("F32", np.float32), "b": ("BOOL", np.bool_)}
"""By numpy's letter for a kind of number: what safetensors calls its type, and that type."""


class TokenColumn:
    """Rows of ids, one after the other in a file; their lengths in memory."""

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
        """Write the rows, padded with 0 at the right, and their mask into two tables."""
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


def write_columns(path: Path, prompts: TokenColumn, candidates: Sequence[TokenColumn], said: Mapping[str, Any]) -> None:
    """The tensors of a CandidateBatch as a safetensors file; `said` are those that are no tokens, as numpy arrays."""
    k, n, m = len(candidates), len(prompts.lengths), max(column.width for column in candidates)
    shapes: dict[str, tuple[str, tuple[int, ...]]]
    shapes = {"prompt": ("i", (n, prompts.width)), "prompt_mask": ("b", (n, prompts.width))}
    shapes |= {"completions": ("i", (k, n, m)), "mask": ("b", (k, n, m))}
    shapes |= {name: (values.dtype.kind, values.shape) for name, values in said.items()}
    tensors = _empty_file(path, shapes)
    prompts.fill(tensors["prompt"], tensors["prompt_mask"])
    for column, ids, mask in zip(candidates, tensors["completions"], tensors["mask"], strict=True):
        column.fill(ids, mask)
    for name, values in said.items():
        tensors[name][...] = values


def _empty_file(path: Path, shapes: Mapping[str, tuple[str, tuple[int, ...]]]) -> dict[str, Any]:
    """A safetensors file of zeros, and its tensors mapped for writing."""
    header: dict[str, Any] = {}
    end = 0
    # 8-byte numbers first, so that everything is aligned.
    for name, (kind, shape) in sorted(shapes.items(), key=lambda item: -np.dtype(KINDS[item[1][0]][1]).itemsize):
        name_of_type, dtype = KINDS[kind]
        start, end = end, end + math.prod(shape) * np.dtype(dtype).itemsize
        header[name] = {"dtype": name_of_type, "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    found: dict[str, Any] = {}
    for name, facts in header.items():
        dtype = KINDS[shapes[name][0]][1]
        if math.prod(facts["shape"]):
            offset = 8 + len(text) + facts["data_offsets"][0]
            found[name] = np.memmap(path, dtype=dtype, mode="r+", offset=offset, shape=tuple(facts["shape"]))
        else:
            found[name] = np.zeros(facts["shape"], dtype=dtype)
    return found
