"""What a layout costs: multiplications in the model's body, forward, counted from lengths."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

CAUSAL = 0.9
"""What a pair of tokens costs in causal attention, counted over the whole square, a multiplication with the weights being 1.

Measured forward and backward on a CPU, heads of 32: 32 products a nanosecond with the weights; 18, 26 and 36 in causal
attention over 128, 512 and 1024 tokens.
"""
MASKED = 1.8
"""The same with a mask for each row: 15 to 19 products a nanosecond."""
RECTANGLE = 1.3
"""The same where all of a rectangle is seen."""
NUM_GROUPS = (1, 2, 3, 4, 6, 8)


@dataclass
class ForwardCost:
    """What a model's body multiplies: each token with the weights, and each token with one that it attends to."""

    per_token: int = 1
    per_pair: int = 0
    longest_row: int | None = None
    """The most tokens that a row of several candidates may hold: the size of a learned table of positions. None: any number."""
    tokens_per_pass: int = 48
    """What one more pass of the model costs, in tokens: small products are slow. Measured on a CPU."""


def length_groupings(items: list[int], lengths: list[int]) -> list[list[list[int]]]:
    """Ways to sort items into groups of like length and number."""
    by_length = sorted(items, key=lambda item: lengths[item])
    groupings = []
    for number in (number for number in NUM_GROUPS if number <= len(items)):
        edges = [len(items) * i // number for i in range(number + 1)]
        groupings.append([sorted(by_length[i:j]) for i, j in pairwise(edges)])
    return groupings
