"""Prompts one after the other in a single row, the candidates of each behind it: nothing is padded and nothing masked.

PPPaabQQcdd     row
01234301223     positions: they start again with every prompt, and after the prompt with every candidate
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from dpo_lab.scoring.attention import PackedRow, PrefixTree
from dpo_lab.scoring.layouts.base import ForwardPass, Layout, LayoutPlan, SharesPrompt
from dpo_lab.scoring.layouts.cost import CAUSAL, RECTANGLE, ForwardCost
from dpo_lab.scoring.layouts.sequences import Sequences

TOKENS_PER_BLOCK = 4
"""What a call of the attention costs in each layer beside its products, in tokens. Measured on a CPU."""
FULL = 8192
"""Tokens beyond which a row gets no more prompts: a longer one is not faster, and where nothing is kept takes more memory."""


@dataclass
class PackedPass(ForwardPass):
    tokens: Int[Tensor, " n"]
    positions: Int[Tensor, " n"]
    row: PackedRow
    predictors: Int[Tensor, " t"]
    """Where each scored token's predecessor stands."""

    def hidden_states(self, model: nn.Module) -> Float[Tensor, "t d"]:
        assert isinstance(model, SharesPrompt)
        return model.hidden_packed(self.tokens, self.positions, self.row).index_select(0, self.predictors)


@dataclass
class PackedPlan(LayoutPlan):
    groups: list[list[int]]
    """Prompts."""

    layout: ClassVar[Layout] = Layout.packed

    def passes(self) -> list[ForwardPass]:
        return [one for one in map(self._pass, self.groups) if len(one.slots)]

    def _pass(self, prompts: list[int]) -> PackedPass:
        every = self.sequences
        trees: list[PrefixTree] = []
        tokens, positions, predictors, slots, targets = ([] for _ in range(5))
        column = 0

        def place(row: int, first: int, last: int) -> None:
            nonlocal column
            tokens.append(every.tokens[row, first:last])
            positions.append(torch.arange(first, last))
            column += last - first

        for prompt in prompts:
            begin, length = column, every.prompt_lengths[prompt]
            place(prompt, 0, length)
            split, ends = column, []
            for row in every.of_prompt(prompt):
                scored = every.scored[row, 1 : every.lengths[row]]
                before = torch.arange(len(scored))
                # A candidate's first token follows the prompt's last.
                before = torch.where(before < length, begin + before, column + before - length)
                predictors.append(before[scored])
                targets.append(every.tokens[row, 1 : every.lengths[row]][scored])
                slots.append(every.slots[row, 1 : every.lengths[row]][scored])
                place(row, length, max(every.lengths[row] - 1, length))
                ends.append(column)
            trees.append(PrefixTree(begin, split, tuple(ends)))
        in_row = torch.cat(tokens), torch.cat(positions), PackedRow.of(trees)
        return PackedPass(torch.cat(slots), torch.cat(targets), *in_row, torch.cat(predictors))


def plan(sequences: Sequences, costs: ForwardCost) -> PackedPlan | None:
    """Prompts in their order, in rows that are full; None where a prompt is empty or a row would be too long."""
    if not sequences.prompt_lengths or not all(sequences.prompt_lengths):
        return None
    groups: list[list[int]] = []
    held = cost = 0.0
    most = max(FULL, costs.tokens_per_pass)  # an accelerator has more to gain from one pass
    most = most if costs.longest_row is None else min(most, costs.longest_row)
    for prompt, length in enumerate(sequences.prompt_lengths):
        behind = [max(sequences.lengths[row] - 1 - length, 0) for row in sequences.of_prompt(prompt)]
        tokens = length + sum(behind)
        if costs.longest_row is not None and tokens > costs.longest_row:
            return None
        if not groups or held + tokens > most:
            groups.append([])
            held = 0
            cost += costs.tokens_per_pass * costs.per_token
        groups[-1].append(prompt)
        held += tokens
        cost += _cost(length, behind, tokens, costs)
    return PackedPlan(sequences, cost, groups)


def _cost(prompt: int, candidates: list[int], tokens: int, costs: ForwardCost) -> float:
    """Of one tree, given the lengths of its prompt and candidates."""
    first, later = prompt + candidates[0], [n for n in candidates[1:] if n]
    pairs = CAUSAL * (first**2 + sum(n**2 for n in later)) + RECTANGLE * sum(later) * prompt
    blocks = 1 + bool(later) + len(later)
    return (tokens + blocks * TOKENS_PER_BLOCK) * costs.per_token + pairs * costs.per_pair
