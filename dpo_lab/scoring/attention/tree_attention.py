"""Tree attention as one PyTorch operation with its gradient, which torch.compile takes as it is.

Heads are b h n d, texts n h d. No shapes are asserted: while a model is compiled, there are only symbols for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from dpo_lab.scoring.attention import blockwise, varlen
from dpo_lab.scoring.attention.prefix_tree import PackedRow, trees_from

HALF = (torch.bfloat16, torch.float16)
INPUTS = "Tensor query, Tensor key, Tensor value, Tensor bounds, Tensor[] index, float? scale"


def tree_attention(
    query: Tensor, key: Tensor, value: Tensor, row: PackedRow, bounds: Tensor, scale: float | None = None
) -> Tensor:
    """Attention of queries, keys and values as b h n d, each token to what it follows in its tree; `bounds` are the row's.

    Raises ValueError where the queries have another number of columns than the row.
    """
    index = [row.text_offsets, row.later_columns, row.later_offsets, row.prompt_columns, row.prompt_offsets]
    result: Tensor = _attention(query, key, value, bounds, index, scale)[0]
    return result


def kernel_takes(query: Tensor) -> bool:
    """Whether there is a kernel for queries of this device, type and width."""
    if not query.is_cuda:
        return query.device.type == "cpu"
    return query.dtype in (torch.float32, *HALF) and query.shape[-1] * query.dtype.itemsize % 16 == 0


@torch.library.custom_op(
    "dpo_lab::tree_attention", mutates_args=(), schema=f"({INPUTS}) -> (Tensor, Tensor)", device_types=("cpu", "cuda")
)
def _attention(
    query: Tensor, key: Tensor, value: Tensor, bounds: Tensor, index: Sequence[Tensor], scale: float | None
) -> tuple[Tensor, Tensor]:
    trees = trees_from(bounds)
    if trees[-1].end != query.shape[2]:
        raise ValueError("its attention sees other tokens than the row's")
    if _takes_varlen(query):
        result, logsumexp = varlen.forward(_to_text(query), _to_text(key), _to_text(value), trees, index, scale)
        return _strided_like(query, result), rearrange(logsumexp, "h n -> 1 h n")
    result, logsumexp = _fake_forward(query, key, value, bounds, index, scale)
    blockwise.forward(query, key, value, trees, scale, result, logsumexp)
    return result, logsumexp


@torch.library.custom_op(
    "dpo_lab::tree_attention_backward",
    mutates_args=(),
    schema=f"(Tensor grad, Tensor result, Tensor logsumexp, {INPUTS}) -> (Tensor, Tensor, Tensor)",
    device_types=("cpu", "cuda"),
)
def _backward(
    grad: Tensor,
    result: Tensor,
    logsumexp: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bounds: Tensor,
    index: Sequence[Tensor],
    scale: float | None,
) -> tuple[Tensor, Tensor, Tensor]:
    trees = trees_from(bounds)
    if _takes_varlen(query):
        text = _to_text(grad), _to_text(query), _to_text(key), _to_text(value), _to_text(result)
        gradients = varlen.backward(*text, rearrange(logsumexp, "1 h n -> h n"), trees, index, scale)
        return _strided_like(query, gradients[0]), _strided_like(key, gradients[1]), _strided_like(value, gradients[2])
    grad_query, grad_key, grad_value = map(_empty_tokenwise, (query, key, value))
    blockwise.backward(grad, query, key, value, trees, scale, result, logsumexp, grad_query, grad_key, grad_value)
    return grad_query, grad_key, grad_value


@_attention.register_fake
def _fake_forward(
    query: Tensor, key: Tensor, value: Tensor, bounds: Tensor, index: Sequence[Tensor], scale: float | None
) -> tuple[Tensor, Tensor]:
    b, h, n, _ = query.shape
    wide = torch.promote_types(query.dtype, torch.float32)
    if _takes_varlen(query):
        return torch.empty_like(query), query.new_empty((b, h, n), dtype=wide)
    return _empty_tokenwise(value), rearrange(query.new_empty((b, n, h), dtype=wide), "b n h -> b h n")


@_backward.register_fake
def _fake_backward(grad: Tensor, result: Tensor, logsumexp: Tensor, query: Tensor, key: Tensor, value: Tensor, *_: Any) -> Any:
    like = torch.empty_like if _takes_varlen(query) else _empty_tokenwise
    return like(query), like(key), like(value)


def _save_for_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    query, key, value, bounds, index, scale = inputs
    ctx.save_for_backward(*output, query, key, value, bounds, *index)
    ctx.scale = scale


def _gradient(ctx: Any, grad: Tensor, _: Tensor | None) -> tuple[Any, ...]:
    result, logsumexp, query, key, value, bounds, *index = ctx.saved_tensors
    return *_backward(grad, result, logsumexp, query, key, value, bounds, index, ctx.scale), None, [None] * len(index), None


_attention.register_autograd(_gradient, setup_context=_save_for_backward)


def _takes_varlen(query: Tensor) -> bool:
    """Whether FlashAttention takes all texts at once; else the blocks are computed one by one."""
    fits = query.is_cuda and query.dtype in HALF and query.shape[-1] <= 256
    return fits and torch.cuda.get_device_capability(query.device) >= (8, 0)


def _empty_tokenwise(heads: Tensor) -> Tensor:
    """An empty tensor as large, the heads of a token side by side: as a model's next matrix wants them."""
    b, h, n, d = heads.shape
    return rearrange(heads.new_empty(b, n, h, d), "b n h d -> b h n d")


def _to_text(heads: Tensor) -> Tensor:
    text = rearrange(heads, "1 h n d -> n h d")
    return text if text.stride(-1) == 1 else text.contiguous()  # which the kernel wants of the last dimension


def _strided_like(heads: Tensor, text: Tensor) -> Tensor:
    """The text as heads, in memory as `empty_like` of them would be: a compiled model relies on that."""
    moved = rearrange(text, "n h d -> 1 h n d")
    if moved.stride()[1:] == heads.stride()[1:]:
        return moved
    room = torch.empty_like(heads)  # laid out otherwise where the heads have gaps between them
    return moved if moved.stride()[1:] == room.stride()[1:] else room.copy_(moved)
