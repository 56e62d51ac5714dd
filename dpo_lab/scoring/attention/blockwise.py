"""Tree attention block by block: a kernel call for each triangle and each rectangle of what is seen.

The first candidate continues its prompt as in any text. A later one attends to the prompt, which is a rectangle, and to itself,
a triangle; from the two results and their log-sum-exps that of both together follows, and the kernel's backward pass is right
for either when it is given the result and the log-sum-exp of both.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from einops import rearrange
from torch import Tensor

from dpo_lab.scoring.attention.kernels import block_backward, block_forward
from dpo_lab.scoring.attention.prefix_tree import PrefixTree


def forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    trees: Sequence[PrefixTree],
    scale: float | None,
    result: Tensor,
    logsumexp: Tensor,
) -> None:
    """Fill result and log-sum-exp, b h n d and b h n."""

    def attend(i: int, j: int, first: int, last: int, causal: bool) -> tuple[Tensor, Tensor]:
        return block_forward(query[:, :, i:j], key[:, :, first:last], value[:, :, first:last], causal, scale)

    for tree in trees:
        i, j = tree.begin, tree.ends[0]
        result[:, :, i:j], logsumexp[:, :, i:j] = attend(i, j, i, j, causal=True)
        later = tree.later_candidates()
        if not later:
            continue
        of_prompt, prompt_lse = attend(j, tree.end, tree.begin, tree.split, causal=False)
        for i, j in later:
            of_itself, own_lse = attend(i, j, i, j, causal=True)
            behind = slice(i - tree.ends[0], j - tree.ends[0])
            share = rearrange((prompt_lse[:, :, behind] - own_lse).sigmoid(), "b h n -> b h n 1")
            result[:, :, i:j] = of_itself + share.to(result.dtype) * (of_prompt[:, :, behind] - of_itself)
            logsumexp[:, :, i:j] = torch.logaddexp(prompt_lse[:, :, behind], own_lse)


def backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    trees: Sequence[PrefixTree],
    scale: float | None,
    result: Tensor,
    logsumexp: Tensor,
    grad_query: Tensor,
    grad_key: Tensor,
    grad_value: Tensor,
) -> None:
    """Fill the gradients of query, key and value."""

    def gradients(i: int, j: int, first: int, last: int, causal: bool) -> tuple[Tensor, Tensor, Tensor]:
        rows, columns = slice(i, j), slice(first, last)
        inputs = grad[:, :, rows], query[:, :, rows], key[:, :, columns], value[:, :, columns]
        return block_backward(*inputs, result[:, :, rows], logsumexp[:, :, rows], causal, scale)

    for tree in trees:
        later = tree.later_candidates()
        for i, j in [(tree.begin, tree.ends[0]), *later]:
            grad_query[:, :, i:j], grad_key[:, :, i:j], grad_value[:, :, i:j] = gradients(i, j, i, j, causal=True)
        if later:
            prompt, behind = slice(tree.begin, tree.split), slice(tree.ends[0], tree.end)
            to_query, to_key, to_value = gradients(tree.ends[0], tree.end, tree.begin, tree.split, causal=False)
            grad_query[:, :, behind] += to_query
            grad_key[:, :, prompt] += to_key
            grad_value[:, :, prompt] += to_value
