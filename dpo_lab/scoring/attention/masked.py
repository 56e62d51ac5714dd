"""Tree attention by PyTorch's public attention and masks: exact on every device and with dropout, but slow."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from dpo_lab.scoring.attention.prefix_tree import PackedRow

_plain = F.scaled_dot_product_attention


@torch.compiler.disable  # type: ignore[untyped-decorator]  # it would be compiled anew for the lengths of every batch
def masked_attention(
    query: Tensor, key: Tensor, value: Tensor, row: PackedRow, scale: float | None = None, dropout: float = 0.0
) -> Tensor:
    """Prompts as they are, every candidate with a mask of its own; heads are b h n d."""
    results = []

    def attend(query: Tensor, key: Tensor, value: Tensor, seen: Tensor | None) -> Tensor:
        return _plain(query, key, value, attn_mask=seen, dropout_p=dropout, is_causal=seen is None, scale=scale)

    for tree in row.trees:
        prompt = slice(tree.begin, tree.split)
        results.append(attend(query[:, :, prompt], key[:, :, prompt], value[:, :, prompt], None))
        for i, j in zip((tree.split, *tree.ends), tree.ends, strict=False):
            if i == j:
                continue
            keys, values = (torch.cat((t[:, :, prompt], t[:, :, i:j]), dim=2) for t in (key, value))
            seen = torch.ones(j - i, keys.shape[2], dtype=torch.bool, device=query.device).tril(tree.split - tree.begin)
            results.append(attend(query[:, :, i:j], keys, values, seen))
    return torch.cat(results, dim=2)
