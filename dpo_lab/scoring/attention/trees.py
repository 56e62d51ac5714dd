"""Where the prompts and candidates of a row are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from jaxtyping import Bool, Int
from torch import Tensor

Span = tuple[int, int]


@dataclass(frozen=True)
class Tree:
    """A prompt and its candidates behind it, as columns of a row."""

    begin: int
    split: int
    """Where the prompt ends and the first candidate begins."""
    ends: tuple[int, ...]
    """Where each candidate ends and the next one begins."""

    @property
    def end(self) -> int:
        return self.ends[-1]

    def others(self) -> list[Span]:
        """From where to where candidates reach that are not the first, as far as they have tokens."""
        return [(i, j) for i, j in zip(self.ends, self.ends[1:], strict=False) if i < j]


@dataclass(frozen=True)
class Trees:
    """The trees of a row, one after the other, without gaps.

    The tensors say where they are to kernels that take a whole row. A prompt and its first candidate are one text; every other
    candidate is a text of its own, which also attends to its prompt.
    """

    trees: tuple[Tree, ...]
    texts: Int[Tensor, " t"]
    """Where each text begins, and where the last one ends."""
    others: Int[Tensor, " o"]
    """Columns of candidates that are not the first."""
    of_others: Int[Tensor, " s"]
    """Among those: where each tree's begin, and where the last one's end."""
    prompts: Int[Tensor, " p"]
    """Columns of the prompts before them."""
    of_prompts: Int[Tensor, " s"]

    @classmethod
    def of(cls, trees: Sequence[Tree]) -> Trees:
        texts = [text for tree in trees for text in ((tree.begin, tree.ends[0]), *tree.others())]
        pairs = [((tree.begin, tree.split), (tree.ends[0], tree.end)) for tree in trees if tree.others()]
        prompts, others = [prompt for prompt, _ in pairs], [other for _, other in pairs]
        return cls(tuple(trees), _cuts(texts), _columns(others), _cuts(others), _columns(prompts), _cuts(prompts))

    @property
    def columns(self) -> int:
        return self.trees[-1].end

    def spans(self) -> Int[Tensor, "trees _"]:
        """Begin, split and ends of every tree, in main memory; of a tree with fewer candidates the last end again."""
        most = max(len(tree.ends) for tree in self.trees)
        return torch.tensor([(t.begin, t.split, *t.ends, *[t.end] * (most - len(t.ends))) for t in self.trees])

    def stand_in(self) -> Bool[Tensor, "1 1 n n"]:
        """For a model that makes a mask of its own unless it is given one: takes no memory, and stands for these trees."""
        return torch.ones(1, 1, 1, 1, dtype=torch.bool, device=self.texts.device).expand(1, 1, self.columns, self.columns)


def trees_at(spans: Int[Tensor, "trees _"]) -> list[Tree]:
    return [Tree(begin, split, tuple(ends)) for begin, split, *ends in spans.tolist()]


def _cuts(spans: Sequence[Span]) -> Int[Tensor, " _"]:
    return torch.tensor([0, *accumulate(j - i for i, j in spans)], dtype=torch.int32)


def _columns(spans: Sequence[Span]) -> Int[Tensor, " _"]:
    return torch.cat([torch.arange(0), *(torch.arange(i, j) for i, j in spans)])
