"""Batches of given token ids, and drawn pairs whose masks have holes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from dpo_lab.records import CandidateBatch


def comparison(
    prompts: list[list[int]], completions: list[list[list[int]]], pad: int = 0, left: bool = False
) -> CandidateBatch:
    def padded(rows: list[list[int]]) -> tuple[Tensor, Tensor]:
        width = max(map(len, rows))
        fill = [(row, [pad] * (width - len(row))) for row in rows]
        tokens = [p + row if left else row + p for row, p in fill]
        mask = [[False] * len(p) + [True] * len(row) if left else [True] * len(row) + [False] * len(p) for row, p in fill]
        return torch.tensor(tokens), torch.tensor(mask)

    b = len(prompts)
    prompt, prompt_mask = padded(prompts)
    tokens, mask = padded([row for candidate in completions for row in candidate])
    return CandidateBatch(
        prompt=prompt,
        prompt_mask=prompt_mask,
        completions=tokens.reshape(len(completions), b, -1),
        mask=mask.reshape(len(completions), b, -1),
        ids=torch.arange(b),
        confidence=torch.ones(b),
    )


def gappy_pairs(b: int = 5, seed: int = 0, **fields: Any) -> CandidateBatch:
    draw = torch.Generator().manual_seed(seed)
    mask = torch.rand(2, b, 4, generator=draw) < 0.6
    mask[:, :, 1] = True
    batch = CandidateBatch(
        prompt=torch.randint(5, (b, 3), generator=draw),
        prompt_mask=torch.arange(3) < torch.randint(1, 4, (b, 1), generator=draw),
        completions=torch.randint(5, (2, b, 4), generator=draw),
        mask=mask,
        ids=torch.arange(b),
        confidence=torch.ones(b, dtype=torch.float64),
    )
    return replace(batch, **fields)


def samples(scores: list[list[int]]) -> CandidateBatch:
    """`scores[b][k]`; sample k of prompt b is the completion (10 b + k), so that it is known again."""
    rewards = torch.tensor(scores, dtype=torch.float32).T.contiguous()
    k, b = rewards.shape
    return CandidateBatch(
        prompt=torch.arange(b)[:, None],
        prompt_mask=torch.ones(b, 1, dtype=torch.bool),
        completions=(10 * torch.arange(b) + torch.arange(k)[:, None])[:, :, None],
        mask=torch.ones(k, b, 1, dtype=torch.bool),
        ids=torch.arange(b),
        confidence=torch.ones(b),
        scores=rewards,
    )
