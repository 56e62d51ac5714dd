"""Attention among trees as one operation of PyTorch's, which its compiler takes for granted.

Heads are b h n d, texts n h d. No shapes are asserted: while a model is compiled, there are only symbols for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from dpo_lab.scoring.attention import pieces, texts
from dpo_lab.scoring.attention.trees import Trees, trees_at

HALF = (torch.bfloat16, torch.float16)
GIVEN = "Tensor query, Tensor key, Tensor value, Tensor spans, Tensor[] where, float? scale"


def attention(query: Tensor, key: Tensor, value: Tensor, trees: Trees, spans: Tensor, scale: float | None = None) -> Tensor:
    """Of queries, keys and values as b h n d; `spans` are the trees'.

    Raises ValueError where the row has other columns than they have.
    """
    where = [trees.texts, trees.others, trees.of_others, trees.prompts, trees.of_prompts]
    found: Tensor = _attention(query, key, value, spans, where, scale)[0]
    return found


def there_is_one_for(query: Tensor) -> bool:
    """Whether `attention` can be computed with such queries."""
    if not query.is_cuda:
        return query.device.type == "cpu"
    return query.dtype in (torch.float32, *HALF) and query.shape[-1] * query.dtype.itemsize % 16 == 0


@torch.library.custom_op(
    "dpo_lab::attention_among_trees", mutates_args=(), schema=f"({GIVEN}) -> (Tensor, Tensor)", device_types=("cpu", "cuda")
)
def _attention(
    query: Tensor, key: Tensor, value: Tensor, spans: Tensor, where: Sequence[Tensor], scale: float | None
) -> tuple[Tensor, Tensor]:
    trees = trees_at(spans)
    if trees[-1].end != query.shape[2]:
        raise ValueError("its attention sees other tokens than the row's")
    if _whole_rows(query):
        result, normaliser = texts.forward(_as_text(query), _as_text(key), _as_text(value), trees, where, scale)
        return _placed_as(query, result), rearrange(normaliser, "h n -> 1 h n")
    result, normaliser = _room(query, key, value, spans, where, scale)
    pieces.forward(query, key, value, trees, scale, result, normaliser)
    return result, normaliser


@torch.library.custom_op(
    "dpo_lab::attention_among_trees_backward",
    mutates_args=(),
    schema=f"(Tensor grad, Tensor result, Tensor normaliser, {GIVEN}) -> (Tensor, Tensor, Tensor)",
    device_types=("cpu", "cuda"),
)
def _backward(
    grad: Tensor,
    result: Tensor,
    normaliser: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    spans: Tensor,
    where: Sequence[Tensor],
    scale: float | None,
) -> tuple[Tensor, Tensor, Tensor]:
    trees = trees_at(spans)
    if _whole_rows(query):
        text = _as_text(grad), _as_text(query), _as_text(key), _as_text(value), _as_text(result)
        found = texts.backward(*text, rearrange(normaliser, "1 h n -> h n"), trees, where, scale)
        return _placed_as(query, found[0]), _placed_as(key, found[1]), _placed_as(value, found[2])
    of_query, of_key, of_value = map(_like, (query, key, value))
    pieces.backward(grad, query, key, value, trees, scale, result, normaliser, of_query, of_key, of_value)
    return of_query, of_key, of_value


@_attention.register_fake
def _room(
    query: Tensor, key: Tensor, value: Tensor, spans: Tensor, where: Sequence[Tensor], scale: float | None
) -> tuple[Tensor, Tensor]:
    b, h, n, _ = query.shape
    wide = torch.promote_types(query.dtype, torch.float32)
    if _whole_rows(query):
        return torch.empty_like(query), query.new_empty((b, h, n), dtype=wide)
    return _like(value), rearrange(query.new_empty((b, n, h), dtype=wide), "b n h -> b h n")


@_backward.register_fake
def _room_backward(grad: Tensor, result: Tensor, normaliser: Tensor, query: Tensor, key: Tensor, value: Tensor, *_: Any) -> Any:
    like = torch.empty_like if _whole_rows(query) else _like
    return like(query), like(key), like(value)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    query, key, value, spans, where, scale = inputs
    ctx.save_for_backward(*output, query, key, value, spans, *where)
    ctx.scale = scale


def _differentiate(ctx: Any, grad: Tensor, _: Tensor | None) -> tuple[Any, ...]:
    result, normaliser, query, key, value, spans, *where = ctx.saved_tensors
    return *_backward(grad, result, normaliser, query, key, value, spans, where, ctx.scale), None, [None] * len(where), None


_attention.register_autograd(_differentiate, setup_context=_keep)


def _whole_rows(query: Tensor) -> bool:
    """Whether FlashAttention takes all texts at once. Where not, the pieces are computed one by one."""
    fits = query.is_cuda and query.dtype in HALF and query.shape[-1] <= 256
    return fits and torch.cuda.get_device_capability(query.device) >= (8, 0)


def _like(heads: Tensor) -> Tensor:
    """Room for as much, the heads of a token side by side: as a model's next matrix wants to have them."""
    b, h, n, d = heads.shape
    return rearrange(heads.new_empty(b, n, h, d), "b n h d -> b h n d")


def _as_text(heads: Tensor) -> Tensor:
    text = rearrange(heads, "1 h n d -> n h d")
    return text if text.stride(-1) == 1 else text.contiguous()  # which the kernel wants of the last dimension


def _placed_as(heads: Tensor, found: Tensor) -> Tensor:
    """In memory as `empty_like` of the heads would be. The kernel leaves it so; a compiled model has to rely on it."""
    moved = rearrange(found, "n h d -> 1 h n d")
    if moved.stride()[1:] == heads.stride()[1:]:
        return moved
    room = torch.empty_like(heads)  # laid out otherwise where the heads have gaps between them
    return moved if moved.stride()[1:] == room.stride()[1:] else room.copy_(moved)
