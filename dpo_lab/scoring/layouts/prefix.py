"""What the candidates of a prompt have in common is read once; each goes on from its keys and values.

Prompts of like length form a group, which shares as many tokens as its shortest prompt has but one: the last prompt token
predicts, so it stays with the candidates, and no row needs padding in front or positions of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from dpo_lab.scoring.layouts.base import Layout, Part, Plan, Rows, SharesPrompt, Work, index, picked, places
from dpo_lab.scoring.layouts.rows import CAUSAL, grouped, groupings


@dataclass
class Rest:
    """What follows the shared tokens in rows of like length."""

    owners: Int[Tensor, " r"]
    """Which of the part's prompts each row continues."""
    tokens: Int[Tensor, "r n"]
    predicting: Int[Tensor, " t"]


@dataclass
class PrefixPart(Part):
    shared: Int[Tensor, "b l"]
    rests: list[Rest]

    def states(self, model: nn.Module) -> Float[Tensor, "t d"]:
        assert isinstance(model, SharesPrompt)
        state = model.read(self.shared)
        return torch.cat([picked(model.hidden_after(state, rest.owners, rest.tokens), rest.predicting) for rest in self.rests])


@dataclass
class PrefixGroup:
    prompts: list[int]
    num_shared: int
    rests: list[list[int]]
    """Rows, by groups of like length."""


@dataclass
class PrefixPlan(Plan):
    groups: list[PrefixGroup]

    layout: ClassVar[Layout] = Layout.prefix

    def parts(self) -> list[Part]:
        return [self._part(group) for group in self.groups]

    def _part(self, group: PrefixGroup) -> PrefixPart:
        rows, shared = self.rows, group.num_shared
        place = {prompt: i for i, prompt in enumerate(group.prompts)}
        rests, at, targets = [], [], []
        for rest in group.rests:
            chosen, end = index(rest), max(rows.lengths[row] for row in rest)
            owners = index([place[row % len(rows.prompts)] for row in rest])
            scored = rows.scored[chosen, shared + 1 : end]
            rests.append(Rest(owners, rows.tokens[chosen, shared : end - 1], places(scored)))
            targets.append(rows.tokens[chosen, shared + 1 : end][scored])
            at.append(rows.at[chosen, shared + 1 : end][scored])
        prompts = rows.tokens[index(group.prompts), :shared]  # row i is the first candidate of prompt i
        return PrefixPart(torch.cat(at), torch.cat(targets), prompts, rests)


def plan(rows: Rows, work: Work) -> PrefixPlan | None:
    """The cheapest grouping of prompts, and then of their rows; None where a prompt has nothing to share."""
    rows_of: dict[int, list[int]] = {}
    for row in rows.with_scores():
        rows_of.setdefault(row % len(rows.prompts), []).append(row)
    if min((rows.prompts[prompt] for prompt in rows_of), default=0) < 2:
        return None

    def planned(prompts: list[int]) -> tuple[float, PrefixGroup]:
        shared = min(rows.prompts[prompt] for prompt in prompts) - 1
        following = [row for prompt in prompts for row in rows_of[prompt]]
        cost, rests = grouped(following, [length - 1 - shared for length in rows.lengths], shared, work)
        tokens, pairs = len(prompts) * shared + work.tokens_of_pass, len(prompts) * CAUSAL * shared**2
        return cost + tokens * work.of_token + pairs * work.of_pair, PrefixGroup(prompts, shared, rests)

    plans = []
    for prompts in groupings(list(rows_of), rows.prompts):
        costs, groups = zip(*map(planned, prompts), strict=True)
        plans.append(PrefixPlan(rows, sum(costs), list(groups)))
    return min(plans, key=lambda found: found.cost)
