"""Attention among trees on CUDA, in half precision: FlashAttention takes all texts of a row in one call, and all rectangles,
which are what other candidates than the first see of their prompt, in another. How the two go together is told in `pieces`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from einops import rearrange
from torch import Tensor

from dpo_lab.scoring.attention.trees import Tree

Spans = tuple[Tensor, Tensor, int, int]
"""Where the queries' sequences are cut, and the keys'; the longest of either."""


def forward(
    query: Tensor, key: Tensor, value: Tensor, trees: Sequence[Tree], where: Sequence[Tensor], scale: float | None
) -> tuple[Tensor, Tensor]:
    """Result and normaliser, n h d and h n. `where`: the tensors of `Trees`, in their order."""
    texts, others, of_others, prompts, of_prompts = where
    text, other, prompt = longest(trees)
    result, normaliser = _forward(query, key, value, (texts, texts, text, text), True, scale)
    if other:
        given = query[others], key[prompts], value[prompts]
        to_prompt, of_prompt = _forward(*given, (of_others, of_prompts, other, prompt), False, scale)
        to_itself, of_itself = result[others], normaliser[:, others]
        share = rearrange((of_prompt - of_itself).sigmoid(), "h n -> n h 1")
        result[others] = torch.lerp(to_itself.float(), to_prompt.float(), share).to(result.dtype)
        normaliser[:, others] = torch.logaddexp(of_prompt, of_itself)
    return result, normaliser


def backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    result: Tensor,
    normaliser: Tensor,
    trees: Sequence[Tree],
    where: Sequence[Tensor],
    scale: float | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of query, key and value."""
    texts, others, of_others, prompts, of_prompts = where
    text, other, prompt = longest(trees)
    of_query, of_key, of_value = _backward(grad, query, key, value, result, normaliser, (texts, texts, text, text), True, scale)
    if other:
        given = grad[others], query[others], key[prompts], value[prompts], result[others], normaliser[:, others]
        to_query, to_key, to_value = _backward(*given, (of_others, of_prompts, other, prompt), False, scale)
        of_query.index_add_(0, others, to_query)
        of_key.index_add_(0, prompts, to_key)
        of_value.index_add_(0, prompts, to_value)
    return of_query, of_key, of_value


def longest(trees: Sequence[Tree]) -> tuple[int, int, int]:
    """The most tokens of a text, of a tree's other candidates together (0: there are none), and of a prompt."""
    texts = [j - i for tree in trees for i, j in ((tree.begin, tree.ends[0]), *tree.others())]
    return max(texts), max(tree.end - tree.ends[0] for tree in trees), max(tree.split - tree.begin for tree in trees)


def _forward(
    query: Tensor, key: Tensor, value: Tensor, spans: Spans, causal: bool, scale: float | None
) -> tuple[Tensor, Tensor]:
    out, normaliser, *_ = torch.ops.aten._flash_attention_forward(query, key, value, *spans, 0.0, causal, False, scale=scale)
    return out, normaliser


def _backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    normaliser: Tensor,
    spans: Spans,
    causal: bool,
    scale: float | None,
) -> tuple[Tensor, Tensor, Tensor]:
    seed = torch.zeros(2, dtype=torch.uint64, device=query.device)  # of the dropout that there is not
    found: tuple[Tensor, Tensor, Tensor] = torch.ops.aten._flash_attention_backward(
        grad, query, key, value, out, normaliser, *spans, 0.0, causal, seed, seed[:0], scale=scale
    )
    return found
