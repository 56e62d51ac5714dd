"""Which layout a batch gets: the one with the fewest multiplications, counted from its lengths."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import nn

from dpo_lab.records import CandidateBatch
from dpo_lab.scoring.layouts import branches, packed, rows
from dpo_lab.scoring.layouts.base import Layout, Plan, Rows, SharesPrompt, Work, rows_of_batch

TOKENS_OF_A_PASS_ELSEWHERE = 16384
"""An accelerator computes a batch of such a size at once."""

EVERY = (Layout.rows, Layout.branches, Layout.packed)

PLANNERS: dict[Layout, Callable[[Rows, Work], Plan | None]] = {
    Layout.rows: rows.plan,
    Layout.branches: branches.plan,
    Layout.packed: packed.plan,
}


def planned(models: Sequence[nn.Module], batch: CandidateBatch, layouts: Sequence[Layout]) -> Plan:
    """The cheapest of the layouts; rows, where the models or the batch allow no other."""
    return cheapest(models, rows_of_batch(batch), layouts)


def cheapest(models: Sequence[nn.Module], found: Rows, layouts: Sequence[Layout]) -> Plan:
    work = work_of(models[0])
    if len(found.prompts) == len(found.lengths) and Layout.rows in layouts:
        layouts = [layout for layout in layouts if layout in (Layout.rows, Layout.packed)]  # nothing to share
    if not all(isinstance(model, SharesPrompt) for model in models):
        return rows.plan(found, work)
    plans = [plan for plan in (PLANNERS[layout](found, work) for layout in layouts) if plan is not None]
    return min(plans, key=lambda plan: plan.cost, default=rows.plan(found, work))


def offered(model: nn.Module) -> tuple[Layout, ...]:
    """What `auto` chooses from, if it is right for the model."""
    if device_of(model).type in ("cpu", "cuda"):
        return EVERY
    return tuple(layout for layout in EVERY if layout is not Layout.packed)  # elsewhere it has no kernel


def work_of(model: nn.Module) -> Work:
    work = model.work() if isinstance(model, SharesPrompt) else Work()
    return work if device_of(model).type == "cpu" else replace(work, tokens_of_pass=TOKENS_OF_A_PASS_ELSEWHERE)


def device_of(model: nn.Module) -> torch.device:
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
