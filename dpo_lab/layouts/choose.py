"""Which layout a batch gets: the one with the fewest multiplications, counted from its lengths."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum

from torch import nn

from dpo_lab.layouts import branches, prefix, rows
from dpo_lab.layouts.base import Plan, Rows, SharesPrompt, Work, rows_of_batch
from dpo_lab.records import CandidateBatch


class Layout(Enum):
    """How the tokens of a batch are laid out; changes time and memory, not the scores.

    rows: every candidate after its own copy of the prompt. prefix: the prompt once, and each candidate goes on from its keys
    and values. branches: the prompt once, its candidates behind it in one row. auto: for each batch the cheapest by count.
    """

    auto = "auto"
    rows = "rows"
    prefix = "prefix"
    branches = "branches"


EVERY = (Layout.rows, Layout.prefix, Layout.branches)

PLANNERS: dict[Layout, Callable[[Rows, Work], Plan | None]] = {
    Layout.rows: rows.plan,
    Layout.prefix: prefix.plan,
    Layout.branches: branches.plan,
}


def planned(models: Sequence[nn.Module], batch: CandidateBatch, layouts: Sequence[Layout]) -> Plan:
    """The cheapest of the layouts; rows, where the models or the batch allow no other."""
    found, work = rows_of_batch(batch), work_of(models[0])
    if not all(isinstance(model, SharesPrompt) for model in models):
        return rows.plan(found, work)
    plans = [plan for plan in (PLANNERS[layout](found, work) for layout in layouts) if plan is not None]
    return min(plans, key=lambda plan: plan.cost, default=rows.plan(found, work))


def work_of(model: nn.Module) -> Work:
    return model.work() if isinstance(model, SharesPrompt) else Work()
