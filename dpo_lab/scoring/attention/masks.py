"""Attention among trees by PyTorch's attention alone: on every device and with dropout, but slow."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from dpo_lab.scoring.attention.trees import Trees

_plain = F.scaled_dot_product_attention


@torch.compiler.disable  # type: ignore[untyped-decorator]  # it would be compiled anew for the lengths of every batch
def with_masks(
    query: Tensor, key: Tensor, value: Tensor, trees: Trees, scale: float | None = None, dropout: float = 0.0
) -> Tensor:
    """Prompts as they are, every candidate with a mask of its own."""
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
