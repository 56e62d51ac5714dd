"""Where the prompts and candidates of a packed row are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from jaxtyping import Bool, Int
from torch import Tensor

Span = tuple[int, int]


@dataclass(frozen=True)
class PrefixTree:
    """A prompt and the candidates behind it, as columns of a row."""

    begin: int
    split: int
    """Where the prompt ends and the first candidate begins."""
    ends: tuple[int, ...]
    """Where each candidate ends and the next one begins."""

    @property
    def end(self) -> int:
        return self.ends[-1]

    def later_candidates(self) -> list[Span]:
        """Begin and end of each candidate but the first, empty ones left out."""
        return [(i, j) for i, j in zip(self.ends, self.ends[1:], strict=False) if i < j]


@dataclass(frozen=True)
class PackedRow:
    """The trees of a row, one after the other, without gaps.

    A prompt and its first candidate are one text; every later candidate is a text of its own, which also attends to its prompt.
    The tensors tell this to kernels that take a whole row: columns, and offsets as FlashAttention's `cu_seqlens`.
    """

    trees: tuple[PrefixTree, ...]
    text_offsets: Int[Tensor, " t"]
    """Where each text begins, and where the last one ends."""
    later_columns: Int[Tensor, " o"]
    """Columns of the later candidates."""
    later_offsets: Int[Tensor, " s"]
    """Among those: where each tree's begin, and where the last one's end."""
    prompt_columns: Int[Tensor, " p"]
    """Columns of the prompts before them."""
    prompt_offsets: Int[Tensor, " s"]

    @classmethod
    def of(cls, trees: Sequence[PrefixTree]) -> PackedRow:
        texts = [text for tree in trees for text in ((tree.begin, tree.ends[0]), *tree.later_candidates())]
        pairs = [((tree.begin, tree.split), (tree.ends[0], tree.end)) for tree in trees if tree.later_candidates()]
        prompts, later = [prompt for prompt, _ in pairs], [candidates for _, candidates in pairs]
        return cls(tuple(trees), _offsets(texts), _columns(later), _offsets(later), _columns(prompts), _offsets(prompts))

    @property
    def num_columns(self) -> int:
        return self.trees[-1].end

    def bounds(self) -> Int[Tensor, "trees _"]:
        """Begin, split and ends of every tree, in main memory; a tree with fewer candidates repeats its last end."""
        most = max(len(tree.ends) for tree in self.trees)
        return torch.tensor([(t.begin, t.split, *t.ends, *[t.end] * (most - len(t.ends))) for t in self.trees])

    def placeholder_mask(self) -> Bool[Tensor, "1 1 n n"]:
        """A mask of one byte for a model that makes its own unless it is given one; the trees are meant by it."""
        n = self.num_columns
        return torch.ones(1, 1, 1, 1, dtype=torch.bool, device=self.text_offsets.device).expand(1, 1, n, n)


def trees_from(bounds: Int[Tensor, "trees _"]) -> list[PrefixTree]:
    return [PrefixTree(begin, split, tuple(ends)) for begin, split, *ends in bounds.tolist()]


def _offsets(spans: Sequence[Span]) -> Int[Tensor, " _"]:
    return torch.tensor([0, *accumulate(j - i for i, j in spans)], dtype=torch.int32)


def _columns(spans: Sequence[Span]) -> Int[Tensor, " _"]:
    return torch.cat([torch.arange(0), *(torch.arange(i, j) for i, j in spans)])
