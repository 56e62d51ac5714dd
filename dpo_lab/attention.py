"""Attention within a row that holds several prompts, each followed by its candidates: whatever model asks for it.

A model is run on the row as if it were one text; inside `attending_among` its fused attention is replaced. No mask of the row's
square exists: a CPU computes each prompt and candidate by itself, CUDA leaves out the blocks in which nothing is seen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache, cached_property
from threading import local
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention
from torch.overrides import TorchFunctionMode

T = TypeVar("T")
Heads = Float[Tensor, "b h n d"]


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

    def others(self) -> list[tuple[int, int]]:
        """From where to where candidates reach that are not the first, as far as they have tokens."""
        return [(i, j) for i, j in zip(self.ends, self.ends[1:], strict=False) if i < j]


@dataclass(frozen=True)
class Trees:
    """The trees of a row, one after the other, without gaps."""

    trees: tuple[Tree, ...]
    tree: Int[Tensor, " n"]
    """Which tree each column belongs to."""
    branch: Int[Tensor, " n"]
    """Which candidate, counted from 1; 0 in the prompt."""

    @cached_property
    def stand_in(self) -> Bool[Tensor, "1 1 n n"]:
        """For a model that makes a mask of its own unless it is given one: takes no memory, and stands for these trees."""
        n = len(self.tree)
        return torch.ones(1, 1, 1, 1, dtype=torch.bool, device=self.tree.device).expand(1, 1, n, n)

    @cached_property
    def block_mask(self) -> BlockMask:
        tree, branch, n = self.tree, self.branch, len(self.tree)

        return create_block_mask(
            lambda b, h, i, j: (tree[i] == tree[j]) & ((branch[j] == 0) | (branch[j] == branch[i])) & (i >= j),
            *(None, None, n, n),
            device=str(tree.device),
        )


def attending_among(trees: Trees, run: Callable[[], T]) -> T:
    """What `run` gives when `scaled_dot_product_attention`, causal or with the trees' stand-in for a mask, sees of the row what
    each token follows in its tree.

    Raises ValueError where it is asked for anything else, a bias or a window say, and if it is not asked at all.
    """
    with _Among(trees) as among:
        found = run()
    if not among.asked:
        raise ValueError("its attention is not PyTorch's fused one")
    return found


def again() -> AbstractContextManager[object]:
    """In which that what is computed now can be computed once more, later and perhaps on another thread."""
    return _Among(_entered()[-1].trees) if _entered() else nullcontext()


class _Among(TorchFunctionMode):
    def __init__(self, trees: Trees) -> None:
        super().__init__()
        self.trees = trees
        self.asked = False

    def __enter__(self) -> _Among:
        super().__enter__()
        _entered().append(self)
        return self

    def __exit__(self, kind: Any, value: Any, trace: Any) -> None:
        _entered().pop()
        super().__exit__(kind, value, trace)

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if function is not F.scaled_dot_product_attention:
            return function(*args, **(kwargs or {}))
        self.asked = True
        return self._attention(*args, **(kwargs or {}))

    def _attention(
        self,
        query: Heads,
        key: Float[Tensor, "b _ m d"],
        value: Float[Tensor, "b _ m d"],
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Heads:
        columns = len(self.trees.tree)
        if query.shape[2] != columns or key.shape[2] != columns:
            raise ValueError("its attention sees other tokens than the row's")
        if not (is_causal or columns == 1) if attn_mask is None else attn_mask.data_ptr() != self.trees.stand_in.data_ptr():
            raise ValueError("its attention has a mask, a bias or a window of its own")
        if enable_gqa and key.shape[1] != query.shape[1]:
            key, value = (t.repeat_interleave(query.shape[1] // t.shape[1], dim=1) for t in (key, value))
        device = query.device.type
        if torch.is_autocast_enabled(device):
            query, key, value = (t.to(torch.get_autocast_dtype(device)) for t in (query, key, value))
        with torch.autocast(device, enabled=False):
            if dropout_p or device not in ("cpu", "cuda"):
                return with_masks(query, key, value, self.trees, scale, dropout_p)
            return (by_pieces if device == "cpu" else by_blocks)(query, key, value, self.trees, scale)


def with_masks(query: Heads, key: Heads, value: Heads, trees: Trees, scale: float | None = None, dropout: float = 0.0) -> Heads:
    """By PyTorch's attention alone, every candidate with a mask of its own: on every device, with dropout, slow."""
    found = []

    def attend(query: Tensor, key: Tensor, value: Tensor, seen: Tensor | None) -> Tensor:
        return _plain(query, key, value, attn_mask=seen, dropout_p=dropout, is_causal=seen is None, scale=scale)

    for tree in trees.trees:
        prompt = slice(tree.begin, tree.split)
        found.append(attend(query[:, :, prompt], key[:, :, prompt], value[:, :, prompt], None))
        for i, j in zip((tree.split, *tree.ends), tree.ends, strict=False):
            if i == j:
                continue
            keys, values = (torch.cat((t[:, :, prompt], t[:, :, i:j]), dim=2) for t in (key, value))
            seen = torch.ones(j - i, keys.shape[2], dtype=torch.bool, device=query.device).tril(tree.split - tree.begin)
            found.append(attend(query[:, :, i:j], keys, values, seen))
    return torch.cat(found, dim=2)


def by_blocks(query: Heads, key: Heads, value: Heads, trees: Trees, scale: float | None = None) -> Heads:
    """By FlexAttention, which leaves out blocks of 128 by 128 in which nothing is seen."""
    found: Heads = _flex(query.is_cuda)(query, key, value, block_mask=trees.block_mask, scale=scale)
    return found


def by_pieces(query: Heads, key: Heads, value: Heads, trees: Trees, scale: float | None = None) -> Heads:
    """By the CPU's fused attention, a call for each piece of what is seen that is a triangle or a rectangle."""
    found: Heads = _ByPieces.apply(query, key, value, trees, scale)
    return found


class _ByPieces(torch.autograd.Function):
    """The first candidate goes on from its prompt as in any text. Another one attends to the prompt, which is a rectangle, and
    to itself, a triangle; from the two results and their normalisers that of both together follows, and the kernel's backward
    pass is right for either when it is given the result and the normaliser of both.
    """

    @staticmethod
    def forward(ctx: Any, query: Heads, key: Heads, value: Heads, trees: Trees, scale: float | None) -> Heads:
        shape = query.shape[0], query.shape[2], query.shape[1]
        result = rearrange(query.new_empty(*shape, value.shape[3]), "b n h d -> b h n d")
        wide = torch.promote_types(query.dtype, torch.float32)
        normaliser = rearrange(query.new_empty(shape, dtype=wide), "b n h -> b h n")

        def attend(i: int, j: int, first: int, last: int, causal: bool) -> tuple[Tensor, Tensor]:
            found: tuple[Tensor, Tensor] = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
                query[:, :, i:j], key[:, :, first:last], value[:, :, first:last], 0.0, causal, scale=scale
            )
            return found

        for tree in trees.trees:
            i, j = tree.begin, tree.ends[0]
            result[:, :, i:j], normaliser[:, :, i:j] = attend(i, j, i, j, causal=True)
            others = tree.others()
            if not others:
                continue
            to_prompt, of_prompt = attend(j, tree.end, tree.begin, tree.split, causal=False)
            for i, j in others:
                to_itself, of_itself = attend(i, j, i, j, causal=True)
                behind = slice(i - tree.ends[0], j - tree.ends[0])
                share = rearrange((of_prompt[:, :, behind] - of_itself).sigmoid(), "b h n -> b h n 1")
                result[:, :, i:j] = to_itself + share.to(result.dtype) * (to_prompt[:, :, behind] - to_itself)
                normaliser[:, :, i:j] = torch.logaddexp(of_prompt[:, :, behind], of_itself)
        ctx.save_for_backward(query, key, value, result, normaliser)
        ctx.trees, ctx.scale = trees, scale
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Heads) -> tuple[Heads, Heads, Heads, None, None]:
        query, key, value, result, normaliser = ctx.saved_tensors
        of_query, of_key, of_value = (
            rearrange(t.new_empty(t.shape[0], t.shape[2], t.shape[1], t.shape[3]), "b n h d -> b h n d")
            for t in (query, key, value)
        )

        def pulled(i: int, j: int, first: int, last: int, causal: bool) -> tuple[Tensor, Tensor, Tensor]:
            rows, columns = slice(i, j), slice(first, last)
            given = grad[:, :, rows], query[:, :, rows], key[:, :, columns], value[:, :, columns], result[:, :, rows]
            found: tuple[Tensor, Tensor, Tensor] = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
                *given, normaliser[:, :, rows], 0.0, causal, scale=ctx.scale
            )
            return found

        for tree in ctx.trees.trees:
            others = tree.others()
            for i, j in [(tree.begin, tree.ends[0]), *others]:
                of_query[:, :, i:j], of_key[:, :, i:j], of_value[:, :, i:j] = pulled(i, j, i, j, causal=True)
            if others:
                prompt, behind = slice(tree.begin, tree.split), slice(tree.ends[0], tree.end)
                to_query, to_key, to_value = pulled(tree.ends[0], tree.end, tree.begin, tree.split, causal=False)
                of_query[:, :, behind] += to_query
                of_key[:, :, prompt] += to_key
                of_value[:, :, prompt] += to_value
        return of_query, of_key, of_value, None, None


_plain = F.scaled_dot_product_attention
_of_thread = local()


def _entered() -> list[_Among]:
    if not hasattr(_of_thread, "entered"):
        _of_thread.entered = []
    found: list[_Among] = _of_thread.entered
    return found


@cache
def _flex(compiled: bool) -> Any:
    return torch.compile(flex_attention) if compiled else flex_attention
