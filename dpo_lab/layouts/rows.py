"""One row per candidate, its prompt before it; rows of like length run together."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from dpo_lab.layouts.base import Part, Plan, Rows, SplitsHead, Work, index

CAUSAL, MASKED = 0.9, 1.3
"""What a pair of tokens costs in attention, counted over the whole square, a multiplication with the weights being 1.

Measured forward and backward on a CPU, heads of 32: 32 products a nanosecond with the weights; 18, 26 and 36 in causal
attention over 128, 512 and 1024 tokens, 20 to 25 with a mask.
"""
TOKENS_OF_A_PASS = {"cpu": 48}
"""One more pass of the model costs as much as so many more tokens: small products are slow."""
ELSEWHERE = 16384
NUM_GROUPS = (1, 2, 3, 4, 6, 8)


@dataclass
class RowsPart(Part):
    tokens: Int[Tensor, "r n"]
    wanted: Bool[Tensor, "r n"]
    """Positions whose next token is scored."""

    def states(self, model: nn.Module) -> Float[Tensor, "t d"]:
        # The head is the widest product: completion positions only.
        return (model.hidden(self.tokens) if isinstance(model, SplitsHead) else model(self.tokens))[self.wanted]


@dataclass
class RowsPlan(Plan):
    groups: list[list[int]]

    def parts(self) -> list[Part]:
        found: list[Part] = []
        for group in self.groups:
            chosen, longest = index(group, self.rows.tokens), max(self.rows.lengths[row] for row in group)
            scored = self.rows.scored[chosen, 1:longest]
            found.append(RowsPart(self.rows.at[chosen, 1:longest][scored], self.rows.tokens[chosen, : longest - 1], scored))
        return found


def plan(rows: Rows, work: Work) -> RowsPlan:
    """The cheapest grouping of rows that have anything to score."""
    return RowsPlan(rows, *grouped(rows.with_scores(), [length - 1 for length in rows.lengths], 0, work, of_pass(rows)))


def grouped(rows: list[int], lengths: list[int], before: int, work: Work, of_pass: int) -> tuple[float, list[list[int]]]:
    """The cheapest of some groupings of rows by length, and its cost; each attends to `before` tokens more than its own."""

    def cost(group: list[int]) -> float:
        n = max(lengths[row] for row in group)
        pairs = MASKED * n * (before + n) if before else CAUSAL * n * n
        return (len(group) * n + of_pass) * work.of_token + len(group) * pairs * work.of_pair

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


def of_pass(rows: Rows) -> int:
    return TOKENS_OF_A_PASS.get(rows.tokens.device.type, ELSEWHERE)
