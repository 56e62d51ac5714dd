"""One row per prompt, its candidates one after the other behind it, each blind to the others.

Positions start again after the prompt with every candidate.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product
from typing import ClassVar

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from dpo_lab.scoring.layouts.base import Layout, Part, Plan, Rows, SharesPrompt, Work, index, picked
from dpo_lab.scoring.layouts.rows import groupings

MASKED = 1.8
"""As in `rows`, with a mask for each row: 15 to 19 products a nanosecond."""


@dataclass
class BranchesPart(Part):
    tokens: Int[Tensor, "b n"]
    positions: Int[Tensor, "b n"]
    branch: Int[Tensor, "b n"]
    """Which candidate each token belongs to, counted from 1; 0 in the prompt, and in the padding at the end."""
    predicting: Int[Tensor, " t"]
    """Where each scored token's predecessor stands, in the flattened rows."""

    def states(self, model: nn.Module) -> Float[Tensor, "t d"]:
        assert isinstance(model, SharesPrompt)
        one, other = rearrange(self.branch, "b n -> b n 1"), rearrange(self.branch, "b n -> b 1 n")
        visible = (other == 0) | (other == one)  # as far as it stands before: the model is causal
        return picked(model.hidden_of_branches(self.tokens, self.positions, visible), self.predicting)


@dataclass
class BranchesPlan(Plan):
    groups: list[list[int]]
    """Prompts."""
    ends: list[list[int]]
    """Of each prompt: its length, then where each of its candidates ends in the row."""

    layout: ClassVar[Layout] = Layout.branches

    def parts(self) -> list[Part]:
        found = map(self._part, self.groups)
        return [part for part in found if len(part.at)]

    def _part(self, prompts: list[int]) -> BranchesPart:
        rows, k = self.rows, len(self.ends[0]) - 1

        def column(values: Iterable[int]) -> Int[Tensor, "r 1"]:
            return rearrange(index(list(values)), "r -> r 1")

        every = list(product(range(k), range(len(prompts))))
        chosen = index([c * len(self.ends) + prompts[i] for c, i in every])
        length = column(self.ends[prompts[i]][0] for _, i in every)
        begin, end = (column(self.ends[prompts[i]][c + behind] for c, i in every) for behind in (0, 1))
        width = max(self.ends[prompt][-1] for prompt in prompts)
        # Each candidate's own row gives its tokens to the row that it shares; all give the prompt's, which are the same.
        position = rearrange(torch.arange(rows.tokens.shape[1]), "n -> 1 n")
        in_prompt = position < length
        place = torch.where(in_prompt, position, position - length + begin)
        read = in_prompt | (place < end)
        flat = place + width * column(i for _, i in every)
        branch = torch.where(in_prompt, 0, column(c + 1 for c, _ in every))

        def shared(values: Int[Tensor, "_ n"]) -> Int[Tensor, "b w"]:
            row = values.new_zeros(len(prompts) * width).scatter(0, flat[read], values.expand_as(flat)[read])
            return rearrange(row, "(b w) -> b w", w=width)

        scored = rows.scored[chosen, 1:]
        return BranchesPart(
            tokens=shared(rows.tokens[chosen]),
            positions=shared(position),
            branch=shared(branch),
            predicting=flat[:, :-1][scored],
            at=rows.at[chosen, 1:][scored],
            targets=rows.tokens[chosen, 1:][scored],
        )


def plan(rows: Rows, work: Work) -> BranchesPlan | None:
    """The cheapest grouping of prompts; None where a prompt is empty or a row too long."""
    if not rows.prompts or not all(rows.prompts):
        return None
    ends = [[length] for length in rows.prompts]
    for row, length in enumerate(rows.lengths):
        of_prompt = ends[row % len(ends)]  # the last token of a completion is predicted, never read
        of_prompt.append(of_prompt[-1] + max(length - of_prompt[0] - 1, 0))

    if work.longest_row is not None and max(of_prompt[-1] for of_prompt in ends) > work.longest_row:
        return None

    def cost(group: list[int]) -> float:
        n = max(ends[prompt][-1] for prompt in group)
        return (len(group) * n + work.tokens_of_pass) * work.of_token + len(group) * MASKED * n * n * work.of_pair

    plans = groupings(list(range(len(ends))), [of_prompt[-1] for of_prompt in ends])
    return min((BranchesPlan(rows, sum(map(cost, groups)), groups, ends) for groups in plans), key=lambda found: found.cost)
