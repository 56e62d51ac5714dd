"""Which layout a batch gets: the one with the fewest multiplications, counted from its lengths."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import nn

from dpo_lab.records import CandidateBatch
from dpo_lab.scoring.attention.kernels import devices_with_kernels
from dpo_lab.scoring.layouts import branches, packed, rows
from dpo_lab.scoring.layouts.base import Layout, LayoutPlan, SharesPrompt
from dpo_lab.scoring.layouts.cost import ForwardCost
from dpo_lab.scoring.layouts.sequences import Sequences, sequences_of_batch

TOKENS_PER_PASS_ELSEWHERE = 16384
"""An accelerator computes a batch of such a size at once."""

ALL_LAYOUTS = (Layout.rows, Layout.branches, Layout.packed)

PLANNERS: dict[Layout, Callable[[Sequences, ForwardCost], LayoutPlan | None]] = {
    Layout.rows: rows.plan,
    Layout.branches: branches.plan,
    Layout.packed: packed.plan,
}


def plan_batch(models: Sequence[nn.Module], batch: CandidateBatch, layouts: Sequence[Layout]) -> LayoutPlan:
    """The cheapest of the layouts; rows, where the models or the batch allow no other."""
    return cheapest_plan(models, sequences_of_batch(batch), layouts)


def cheapest_plan(models: Sequence[nn.Module], sequences: Sequences, layouts: Sequence[Layout]) -> LayoutPlan:
    """The same for sequences."""
    costs = forward_cost(models[0])
    if len(sequences.prompt_lengths) == len(sequences.lengths) and Layout.rows in layouts:  # nothing to share
        layouts = [layout for layout in layouts if layout in (Layout.rows, Layout.packed)]
    if not all(isinstance(model, SharesPrompt) for model in models):
        return rows.plan(sequences, costs)
    plans = [plan for plan in (PLANNERS[layout](sequences, costs) for layout in layouts) if plan is not None]
    return min(plans or [rows.plan(sequences, costs)], key=lambda plan: plan.cost)


def available_layouts(model: nn.Module) -> tuple[Layout, ...]:
    """What `auto` chooses from on the model's device, if it is exact for the model."""
    if device_of(model).type in devices_with_kernels():
        return ALL_LAYOUTS
    return tuple(layout for layout in ALL_LAYOUTS if layout is not Layout.packed)


def forward_cost(model: nn.Module) -> ForwardCost:
    costs = model.forward_cost() if isinstance(model, SharesPrompt) else ForwardCost()
    return costs if device_of(model).type == "cpu" else replace(costs, tokens_per_pass=TOKENS_PER_PASS_ELSEWHERE)


def device_of(model: nn.Module) -> torch.device:
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
