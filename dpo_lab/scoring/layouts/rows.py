"""One row per candidate, its prompt before it; rows of like length run together."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

from jaxtyping import Float, Int
from torch import Tensor, nn

from dpo_lab.scoring.layouts.base import Layout, Part, Plan, Rows, SplitsHead, Work, index, picked, places

CAUSAL = 0.9
"""What a pair of tokens costs in attention, counted over the whole square, a multiplication with the weights being 1.

Measured forward and backward on a CPU, heads of 32: 32 products a nanosecond with the weights; 18, 26 and 36 in causal
attention over 128, 512 and 1024 tokens.
"""
NUM_GROUPS = (1, 2, 3, 4, 6, 8)


@dataclass
class RowsPart(Part):
    tokens: Int[Tensor, "r n"]
    predicting: Int[Tensor, " t"]
    """Positions whose next token is scored, in the flattened rows."""

    def states(self, model: nn.Module) -> Float[Tensor, "t d"]:
        # The head is the widest product: completion positions only.
        return picked(model.hidden(self.tokens) if isinstance(model, SplitsHead) else model(self.tokens), self.predicting)


@dataclass
class RowsPlan(Plan):
    groups: list[list[int]]

    layout: ClassVar[Layout] = Layout.rows

    def parts(self) -> list[Part]:
        found: list[Part] = []
        for group in self.groups:
            chosen, longest = index(group), max(self.rows.lengths[row] for row in group)
            scored, tokens = self.rows.scored[chosen, 1:longest], self.rows.tokens[chosen, :longest]
            at = self.rows.at[chosen, 1:longest]
            found.append(RowsPart(at[scored], tokens[:, 1:][scored], tokens[:, :-1], places(scored)))
        return found


def plan(rows: Rows, work: Work) -> RowsPlan:
    """The cheapest grouping of rows that have anything to score."""
    return RowsPlan(rows, *grouped(rows.with_scores(), [length - 1 for length in rows.lengths], work))


def grouped(rows: list[int], lengths: list[int], work: Work) -> tuple[float, list[list[int]]]:
    """The cheapest of some groupings of rows by length, and its cost."""

    def cost(group: list[int]) -> float:
        n = max(lengths[row] for row in group)
        return (len(group) * n + work.tokens_of_pass) * work.of_token + len(group) * CAUSAL * n * n * work.of_pair

    plans = groupings(rows, lengths)
    return min(((sum(map(cost, groups)), groups) for groups in plans), key=lambda found: found[0], default=(0.0, []))


def groupings(items: list[int], lengths: list[int]) -> list[list[list[int]]]:
    """Ways to sort items into groups of like length and number."""
    by_length = sorted(items, key=lambda item: lengths[item])
    found = []
    for number in (number for number in NUM_GROUPS if number <= len(items)):
        edges = [len(items) * i // number for i in range(number + 1)]
        found.append([sorted(by_length[i:j]) for i, j in pairwise(edges)])
    return found
