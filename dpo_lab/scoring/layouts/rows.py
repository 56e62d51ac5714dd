"""One row a candidate, its own copy of the prompt before it; rows of like length run together.

PPPaa       first pass        QQc.      second pass
PPPb
QQdd
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float, Int
from torch import Tensor, nn

from dpo_lab.scoring.layouts.base import ForwardPass, Layout, LayoutPlan, SplitsHead, at_positions, flat_positions
from dpo_lab.scoring.layouts.cost import CAUSAL, ForwardCost, length_groupings
from dpo_lab.scoring.layouts.sequences import Sequences, as_index


@dataclass
class RowsPass(ForwardPass):
    tokens: Int[Tensor, "r n"]
    predictors: Int[Tensor, " t"]
    """Positions whose next token is scored, in the flattened rows."""

    def hidden_states(self, model: nn.Module) -> Float[Tensor, "t d"]:
        # The head is the widest product: completion positions only.
        states = model.hidden(self.tokens) if isinstance(model, SplitsHead) else model(self.tokens)
        return at_positions(states, self.predictors)


@dataclass
class RowsPlan(LayoutPlan):
    groups: list[list[int]]

    layout: ClassVar[Layout] = Layout.rows

    def passes(self) -> list[ForwardPass]:
        passes: list[ForwardPass] = []
        every = self.sequences
        for group in self.groups:
            chosen, longest = as_index(group), max(every.lengths[row] for row in group)
            scored, tokens = every.scored[chosen, 1:longest], every.tokens[chosen, :longest]
            slots = every.slots[chosen, 1:longest]
            passes.append(RowsPass(slots[scored], tokens[:, 1:][scored], tokens[:, :-1], flat_positions(scored)))
        return passes


def plan(sequences: Sequences, costs: ForwardCost) -> RowsPlan:
    """The cheapest grouping of the sequences that have anything to score."""
    lengths = [length - 1 for length in sequences.lengths]  # the last token is predicted, never read

    def cost(group: list[int]) -> float:
        n = max(lengths[row] for row in group)
        return (len(group) * n + costs.tokens_per_pass) * costs.per_token + len(group) * CAUSAL * n * n * costs.per_pair

    plans = [(sum(map(cost, groups)), groups) for groups in length_groupings(sequences.with_scores(), lengths)]
    return RowsPlan(sequences, *min(plans, key=lambda plan: plan[0], default=(0.0, [])))
