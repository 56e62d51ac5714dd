"""Random numbers: every draw of a study has its own stream, named by a seed, a purpose and the items it is for.

Adding, leaving out or reordering other draws changes no number of a stream, and no two streams share any. Weights and dropout
are drawn by torch; all other numbers are made by this file alone, so they do not depend on the device or a library's version.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int, UInt32
from torch import Tensor

Item = int | str | tuple[int, ...]

LOW = np.uint64(0xFFFFFFFF)
HALF = np.uint64(32)
MULTIPLIERS = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
STEPS = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)
ROUNDS = 10


def philox(counter: UInt32[np.ndarray, "four ..."], key: UInt32[np.ndarray, "two ..."]) -> UInt32[np.ndarray, "four ..."]:
    """Philox-4x32-10: 128 random bits for each counter and key. Salmon et al. 2011, "Parallel random numbers"."""
    a, b, c, d = counter.astype(np.uint64)
    key_a, key_b = key.astype(np.uint64)
    for _ in range(ROUNDS):
        first, second = MULTIPLIERS[0] * a, MULTIPLIERS[1] * c
        a, b, c, d = (second >> HALF) ^ b ^ key_a, second & LOW, (first >> HALF) ^ d ^ key_b, first & LOW
        key_a, key_b = (key_a + STEPS[0]) & LOW, (key_b + STEPS[1]) & LOW
    return np.stack([a, b, c, d]).astype(np.uint32)


@dataclass
class Streams:
    """n streams of random numbers, each given by its key: 128 bits that stand for its name, and the number of its branch."""

    keys: UInt32[np.ndarray, "n 5"]

    def __len__(self) -> int:
        return len(self.keys)

    def select(self, rows: Int[Tensor, " r"]) -> Streams:
        return Streams(self.keys[rows.cpu().numpy()])

    def branches(self, count: int) -> Streams:
        """`count` streams from each: the first branch of all, then the second of all, ... More begin with the same ones."""
        assert not self.keys[:, 4].any(), "branches do not branch"
        keys = np.tile(self.keys, (count, 1))
        keys[:, 4] = np.arange(count, dtype=np.uint32).repeat(len(self))
        return Streams(keys)

    def uniform(self, count: int) -> Float64[Tensor, "n count"]:
        """`count` numbers of each stream, multiples of 2^-53 in [0, 1). More begin with the same ones."""
        blocks = np.arange(-(-count // 2), dtype=np.uint32)
        counter = np.broadcast_arrays(blocks, *(self.keys[:, i : i + 1] for i in (2, 3, 4)))
        key = np.broadcast_arrays(self.keys[:, :1], self.keys[:, 1:2], blocks)[:2]
        words = philox(np.stack(counter), np.stack(key)).astype(np.uint64)
        whole = (words[0::2] >> np.uint64(5) << np.uint64(26)) | (words[1::2] >> np.uint64(6))
        numbers = np.stack(list(whole), axis=-1).reshape(len(self), -1)[:, :count]
        return torch.from_numpy(numbers * 2.0**-53)


def stream(seed: int, purpose: str, *items: Item) -> Streams:
    """The stream of this name."""
    return Streams(np.frombuffer(_key(seed, purpose, *items) + bytes(4), dtype="<u4")[None])


def streams_of_prompts(
    seed: int, purpose: str, prompt: Int[Tensor, "b p"], prompt_mask: Bool[Tensor, "b p"], *items: Item
) -> Streams:
    """A stream for each prompt, named by its tokens; equal prompts are numbered."""
    seen: Counter[tuple[int, ...]] = Counter()
    names = []
    for row in prompt[prompt_mask].split(prompt_mask.sum(dim=1).tolist()):
        tokens = tuple(row.tolist())
        names.append(_key(seed, purpose, *items, tokens, seen[tokens]) + bytes(4))
        seen[tokens] += 1
    return Streams(np.frombuffer(b"".join(names), dtype="<u4").reshape(len(names), 5))


def uniform(count: int, seed: int, purpose: str, *items: Item) -> Float64[Tensor, " count"]:
    """`count` random numbers in [0, 1)."""
    return stream(seed, purpose, *items).uniform(count)[0]


def permutation(count: int, seed: int, purpose: str, *items: Item) -> Int[Tensor, " count"]:
    """The numbers below `count` in random order."""
    return uniform(count, seed, purpose, *items).argsort(stable=True)


def number(seed: int, purpose: str, *items: Item) -> int:
    """A random seed of 63 bits, for another generator."""
    return int.from_bytes(_key(seed, purpose, *items)[:8], "little") >> 1


def generator(seed: int, purpose: str, *items: Item) -> torch.Generator:
    """A torch generator. It keeps only 32 bits of its name: enough for a few generators, not for one for each prompt."""
    return torch.Generator().manual_seed(number(seed, purpose, *items))


def seed_torch(seed: int, purpose: str) -> None:
    """Set torch's own generators, from which weights and dropout are drawn, on all devices."""
    torch.manual_seed(number(seed, purpose))


def _key(seed: int, purpose: str, *items: Item) -> bytes:
    """16 bytes that stand for a name."""
    return hashlib.sha256(repr((seed, purpose, *items)).encode()).digest()[:16]
