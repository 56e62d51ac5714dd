"""Prompts one after the other in a single row, the candidates of each behind it: nothing is padded and nothing masked.

Positions start again with every prompt, and after the prompt with every candidate.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from dpo_lab.scoring.attention import Tree, Trees
from dpo_lab.scoring.layouts.base import Layout, Part, Plan, Rows, SharesPrompt, Work
from dpo_lab.scoring.layouts.rows import CAUSAL

SEEN = 1.3
"""As in `rows`, where all of a rectangle is seen."""
TOKENS_OF_A_PIECE = 4
"""What a call of the attention costs in each layer beside its products, in tokens. Measured on a CPU."""
FULL = 8192
"""Tokens beyond which a row gets no more prompts: a longer one is not faster, and where nothing is kept takes more memory."""


@dataclass
class PackedPart(Part):
    tokens: Int[Tensor, " n"]
    positions: Int[Tensor, " n"]
    trees: Trees
    predicting: Int[Tensor, " t"]
    """Where each scored token's predecessor stands."""

    def states(self, model: nn.Module) -> Float[Tensor, "t d"]:
        assert isinstance(model, SharesPrompt)
        return model.hidden_of_trees(self.tokens, self.positions, self.trees).index_select(0, self.predicting)


@dataclass
class PackedPlan(Plan):
    groups: list[list[int]]
    """Prompts."""

    layout: ClassVar[Layout] = Layout.packed

    def parts(self) -> list[Part]:
        found = map(self._part, self.groups)
        return [part for part in found if len(part.at)]

    def _part(self, prompts: list[int]) -> PackedPart:
        rows = self.rows
        trees: list[Tree] = []
        tokens, positions, predicting, at, targets = ([] for _ in range(5))
        column = 0

        def place(row: int, first: int, last: int) -> None:
            nonlocal column
            tokens.append(rows.tokens[row, first:last])
            positions.append(torch.arange(first, last))
            column += last - first

        for prompt in prompts:
            begin, length = column, rows.prompts[prompt]
            place(prompt, 0, length)
            split, ends = column, []
            for row in rows_of(rows, prompt):
                scored = rows.scored[row, 1 : rows.lengths[row]]
                before = torch.arange(len(scored))
                # A candidate's first token follows the prompt's last.
                before = torch.where(before < length, begin + before, column + before - length)
                predicting.append(before[scored])
                targets.append(rows.tokens[row, 1 : rows.lengths[row]][scored])
                at.append(rows.at[row, 1 : rows.lengths[row]][scored])
                place(row, length, max(rows.lengths[row] - 1, length))
                ends.append(column)
            trees.append(Tree(begin, split, tuple(ends)))
        in_row = torch.cat(tokens), torch.cat(positions), Trees.of(trees)
        return PackedPart(torch.cat(at), torch.cat(targets), *in_row, torch.cat(predicting))


def rows_of(rows: Rows, prompt: int) -> range:
    return range(prompt, len(rows.lengths), len(rows.prompts))


def plan(rows: Rows, work: Work) -> PackedPlan | None:
    """Prompts in their order, in rows that are full; None where a prompt is empty or a row would be too long."""
    if not rows.prompts or not all(rows.prompts):
        return None
    groups: list[list[int]] = []
    held = cost = 0.0
    most = max(FULL, work.tokens_of_pass)  # an accelerator has more to gain from one pass
    most = most if work.longest_row is None else min(most, work.longest_row)
    for prompt, length in enumerate(rows.prompts):
        behind = [max(rows.lengths[row] - 1 - length, 0) for row in rows_of(rows, prompt)]
        tokens = length + sum(behind)
        if work.longest_row is not None and tokens > work.longest_row:
            return None
        if not groups or held + tokens > most:
            groups.append([])
            held = 0
            cost += work.tokens_of_pass * work.of_token
        groups[-1].append(prompt)
        held += tokens
        first, others = length + behind[0], [n for n in behind[1:] if n]
        seen = CAUSAL * (first**2 + sum(n**2 for n in others)) + SEEN * sum(others) * length
        pieces = 1 + bool(others) + len(others)
        cost += (tokens + pieces * TOKENS_OF_A_PIECE) * work.of_token + seen * work.of_pair
    return PackedPlan(rows, cost, groups)
