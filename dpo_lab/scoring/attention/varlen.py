"""Tree attention on CUDA in half precision: FlashAttention takes all texts of a row in one call, and in another all rectangles,
which are what later candidates see of their prompts. How the two are joined is told in `blockwise`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from einops import rearrange
from torch import Tensor

from dpo_lab.scoring.attention.kernels import varlen_backward, varlen_forward
from dpo_lab.scoring.attention.prefix_tree import PrefixTree


def forward(
    query: Tensor, key: Tensor, value: Tensor, trees: Sequence[PrefixTree], index: Sequence[Tensor], scale: float | None
) -> tuple[Tensor, Tensor]:
    """Result and log-sum-exp, n h d and h n. `index`: the tensors of `PackedRow`, in their order."""
    texts, later, later_offsets, prompts, prompt_offsets = index
    text, candidates, prompt = longest(trees)
    result, logsumexp = varlen_forward(query, key, value, (texts, texts, text, text), True, scale)
    if candidates:
        blocks = query[later], key[prompts], value[prompts]
        of_prompt, prompt_lse = varlen_forward(*blocks, (later_offsets, prompt_offsets, candidates, prompt), False, scale)
        of_itself, own_lse = result[later], logsumexp[:, later]
        share = rearrange((prompt_lse - own_lse).sigmoid(), "h n -> n h 1")
        result[later] = torch.lerp(of_itself.float(), of_prompt.float(), share).to(result.dtype)
        logsumexp[:, later] = torch.logaddexp(prompt_lse, own_lse)
    return result, logsumexp


def backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    result: Tensor,
    logsumexp: Tensor,
    trees: Sequence[PrefixTree],
    index: Sequence[Tensor],
    scale: float | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of query, key and value."""
    texts, later, later_offsets, prompts, prompt_offsets = index
    text, candidates, prompt = longest(trees)
    whole = grad, query, key, value, result, logsumexp
    grad_query, grad_key, grad_value = varlen_backward(*whole, (texts, texts, text, text), True, scale)
    if candidates:
        blocks = grad[later], query[later], key[prompts], value[prompts], result[later], logsumexp[:, later]
        offsets = later_offsets, prompt_offsets, candidates, prompt
        to_query, to_key, to_value = varlen_backward(*blocks, offsets, False, scale)
        grad_query.index_add_(0, later, to_query)
        grad_key.index_add_(0, prompts, to_key)
        grad_value.index_add_(0, prompts, to_value)
    return grad_query, grad_key, grad_value


def longest(trees: Sequence[PrefixTree]) -> tuple[int, int, int]:
    """The most tokens of a text, of a tree's later candidates together (0: there are none), and of a prompt."""
    texts = [j - i for tree in trees for i, j in ((tree.begin, tree.ends[0]), *tree.later_candidates())]
    return max(texts), max(tree.end - tree.ends[0] for tree in trees), max(tree.split - tree.begin for tree in trees)
