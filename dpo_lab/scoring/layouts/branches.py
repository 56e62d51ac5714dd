"""One row a prompt, its candidates one after the other behind it; a mask keeps them from seeing each other.

row         PPPaab
positions   012343
branch      000112      0 is the prompt: a token sees the prompt and its own branch, as far as they stand before it
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

from dpo_lab.scoring.layouts.base import ForwardPass, Layout, LayoutPlan, SharesPrompt, at_positions
from dpo_lab.scoring.layouts.cost import MASKED, ForwardCost, length_groupings
from dpo_lab.scoring.layouts.sequences import Sequences, as_index


@dataclass
class BranchesPass(ForwardPass):
    tokens: Int[Tensor, "b n"]
    positions: Int[Tensor, "b n"]
    branch: Int[Tensor, "b n"]
    """Which candidate each token belongs to, counted from 1; 0 in the prompt, and in the padding at the end."""
    predictors: Int[Tensor, " t"]
    """Where each scored token's predecessor stands, in the flattened rows."""

    def hidden_states(self, model: nn.Module) -> Float[Tensor, "t d"]:
        assert isinstance(model, SharesPrompt)
        one, other = rearrange(self.branch, "b n -> b n 1"), rearrange(self.branch, "b n -> b 1 n")
        visible = (other == 0) | (other == one)  # as far as it stands before: the model is causal
        return at_positions(model.hidden_branches(self.tokens, self.positions, visible), self.predictors)


@dataclass
class BranchesPlan(LayoutPlan):
    groups: list[list[int]]
    """Prompts."""
    ends: list[list[int]]
    """Of each prompt: its length, then where each of its candidates ends in the row."""

    layout: ClassVar[Layout] = Layout.branches

    def passes(self) -> list[ForwardPass]:
        return [one for one in map(self._pass, self.groups) if len(one.slots)]

    def _pass(self, prompts: list[int]) -> BranchesPass:
        sequences, k = self.sequences, len(self.ends[0]) - 1

        def column(values: Iterable[int]) -> Int[Tensor, "r 1"]:
            return rearrange(as_index(list(values)), "r -> r 1")

        every = list(product(range(k), range(len(prompts))))
        chosen = as_index([c * len(self.ends) + prompts[i] for c, i in every])
        length = column(self.ends[prompts[i]][0] for _, i in every)
        begin, end = (column(self.ends[prompts[i]][c + behind] for c, i in every) for behind in (0, 1))
        width = max(self.ends[prompt][-1] for prompt in prompts)
        # Each candidate's own sequence gives its tokens to the row that it shares; all give the prompt's, which are the same.
        position = rearrange(torch.arange(sequences.tokens.shape[1]), "n -> 1 n")
        in_prompt = position < length
        place = torch.where(in_prompt, position, position - length + begin)
        read = in_prompt | (place < end)
        flat = place + width * column(i for _, i in every)
        branch = torch.where(in_prompt, 0, column(c + 1 for c, _ in every))

        def shared(values: Int[Tensor, "_ n"]) -> Int[Tensor, "b w"]:
            row = values.new_zeros(len(prompts) * width).scatter(0, flat[read], values.expand_as(flat)[read])
            return rearrange(row, "(b w) -> b w", w=width)

        scored = sequences.scored[chosen, 1:]
        return BranchesPass(
            tokens=shared(sequences.tokens[chosen]),
            positions=shared(position),
            branch=shared(branch),
            predictors=flat[:, :-1][scored],
            slots=sequences.slots[chosen, 1:][scored],
            targets=sequences.tokens[chosen, 1:][scored],
        )


def plan(sequences: Sequences, costs: ForwardCost) -> BranchesPlan | None:
    """The cheapest grouping of prompts; None where a prompt is empty or a row too long."""
    lengths = sequences.prompt_lengths
    if not lengths or not all(lengths):
        return None
    ends = [[length] for length in lengths]
    for row, length in enumerate(sequences.lengths):
        of_prompt = ends[row % len(ends)]  # the last token of a completion is predicted, never read
        of_prompt.append(of_prompt[-1] + max(length - of_prompt[0] - 1, 0))

    if costs.longest_row is not None and max(of_prompt[-1] for of_prompt in ends) > costs.longest_row:
        return None

    def cost(group: list[int]) -> float:
        n = max(ends[prompt][-1] for prompt in group)
        return (len(group) * n + costs.tokens_per_pass) * costs.per_token + len(group) * MASKED * n * n * costs.per_pair

    groupings = length_groupings(list(range(len(ends))), [of_prompt[-1] for of_prompt in ends])
    plans = (BranchesPlan(sequences, sum(map(cost, groups)), groups, ends) for groups in groupings)
    return min(plans, key=lambda plan: plan.cost)
