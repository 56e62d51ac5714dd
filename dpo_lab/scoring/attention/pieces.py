"""Attention among trees by a fused kernel, a call for each piece of what is seen that is a triangle or a rectangle.

The first candidate goes on from its prompt as in any text. Another one attends to the prompt, which is a rectangle, and to
itself, a triangle; from the two results and their normalisers that of both together follows, and the kernel's backward pass is
right for either when it is given the result and the normaliser of both.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from dpo_lab.scoring.attention.trees import Tree

ALIGNED = 32
"""CUDA's kernel has room for so many normalisers, or a multiple."""


def forward(
    query: Tensor, key: Tensor, value: Tensor, trees: Sequence[Tree], scale: float | None, result: Tensor, normaliser: Tensor
) -> None:
    """Fill result and normaliser, b h n d and b h n."""

    def attend(i: int, j: int, first: int, last: int, causal: bool) -> tuple[Tensor, Tensor]:
        return _forward(query[:, :, i:j], key[:, :, first:last], value[:, :, first:last], causal, scale)

    for tree in trees:
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


def backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    trees: Sequence[Tree],
    scale: float | None,
    result: Tensor,
    normaliser: Tensor,
    of_query: Tensor,
    of_key: Tensor,
    of_value: Tensor,
) -> None:
    """Fill the gradients of query, key and value."""

    def pulled(i: int, j: int, first: int, last: int, causal: bool) -> tuple[Tensor, Tensor, Tensor]:
        rows, columns = slice(i, j), slice(first, last)
        given = grad[:, :, rows], query[:, :, rows], key[:, :, columns], value[:, :, columns], result[:, :, rows]
        return _backward(*given, normaliser[:, :, rows], causal, scale)

    for tree in trees:
        others = tree.others()
        for i, j in [(tree.begin, tree.ends[0]), *others]:
            of_query[:, :, i:j], of_key[:, :, i:j], of_value[:, :, i:j] = pulled(i, j, i, j, causal=True)
        if others:
            prompt, behind = slice(tree.begin, tree.split), slice(tree.ends[0], tree.end)
            to_query, to_key, to_value = pulled(tree.ends[0], tree.end, tree.begin, tree.split, causal=False)
            of_query[:, :, behind] += to_query
            of_key[:, :, prompt] += to_key
            of_value[:, :, prompt] += to_value


def _forward(query: Tensor, key: Tensor, value: Tensor, causal: bool, scale: float | None) -> tuple[Tensor, Tensor]:
    if query.is_cuda:
        out, normaliser, *_ = torch.ops.aten._scaled_dot_product_efficient_attention(
            query, key, value, None, True, 0.0, causal, scale=scale
        )
        return out, normaliser[:, :, : query.shape[2]]
    found: tuple[Tensor, Tensor] = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        query, key, value, 0.0, causal, scale=scale
    )
    return found


def _backward(
    grad: Tensor, query: Tensor, key: Tensor, value: Tensor, out: Tensor, normaliser: Tensor, causal: bool, scale: float | None
) -> tuple[Tensor, Tensor, Tensor]:
    given = grad, query, key, value
    if query.is_cuda:
        room = -normaliser.shape[2] % ALIGNED
        padded = F.pad(normaliser, (0, room), value=float("inf")).contiguous()
        seed = torch.zeros((), dtype=torch.long, device=query.device)  # of the dropout that there is not
        *grads, _ = torch.ops.aten._scaled_dot_product_efficient_attention_backward(
            *given, None, out, padded, seed, seed, 0.0, [True, True, True, False], causal, scale=scale
        )
        return grads[0], grads[1], grads[2]
    found: tuple[Tensor, Tensor, Tensor] = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
        *given, out, normaliser, 0.0, causal, scale=scale
    )
    return found
