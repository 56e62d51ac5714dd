"""The picture of the losses: value and gradient of every loss of pairs, against the reward margin."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import matplotlib as mpl
import torch
from einops import rearrange
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from dpo_lab.check.strategies import Loss, complete, default, numbers_of_candidates
from dpo_lab.compare.figures.theme import BLUE, INK, MUTED, STYLE, VERMILION, halo, quiet_grid
from dpo_lab.losses.base import PreferenceLoss
from dpo_lab.records import Aggregate

REACH = 5.0
"""Margins drawn: as far as this to either side, in rewards."""
COLUMNS = 7
GROUPS = ("against a reference", "without a reference", "coupling the batch, as it starts")


@dataclass
class Curve:
    """A loss and the weight of its gradient, at every margin."""

    name: str
    group: str
    margins: Float[Tensor, " n"]
    values: Float[Tensor, " n"]
    pull: Float[Tensor, " n"]
    """How fast the loss falls as the margin grows."""


def draw(losses: Mapping[str, Loss], path: Path) -> Path:
    """A PNG of small multiples; losses without a curve are named below it."""
    path.parent.mkdir(parents=True, exist_ok=True)  # before the work, if it cannot be
    curves, left_out = [], []
    for name, loss_class in losses.items():
        curve = curve_of(name, loss_class)
        curves += [curve] if curve else []
        left_out += [] if curve else [name]
    with mpl.rc_context(STYLE):
        FigureCanvasAgg(compose(curves, left_out)).print_png(str(path))
    return path


def curve_of(name: str, loss_class: Loss) -> Curve | None:
    """The loss as the chosen completion becomes more likely and the rejected one as much less; None where it has no margin."""
    if 2 not in numbers_of_candidates(loss_class):
        return None
    loss = default(loss_class)
    # Without a reference, completions start at a likelihood from which both have far to go: 1 nat per token, or as a sum.
    mean = loss.options.aggregate is Aggregate.mean
    start = -1.0 if mean and not loss.needs_reference else -1.05 * REACH / (2 * loss.beta)
    room = 0.98 * -start if not loss.needs_reference else torch.inf
    moves = torch.linspace(-1, 1, 801, dtype=torch.float64) * min(REACH / (2 * loss.beta), room)
    points = [at(loss, start, move) for move in moves]
    margins, values = (torch.stack(numbers) for numbers in zip(*points, strict=True))
    known = margins.isfinite() & values.isfinite()
    margins, values = margins[known], values[known]
    if len(margins) < 3 or (margins.diff() <= 0).any() or margins.max() < 1:
        return None
    pull = -torch.gradient(values, spacing=(margins,))[0]
    group = GROUPS[2] if loss.couples_batch else GROUPS[0] if loss.needs_reference else GROUPS[1]
    return Curve(name, group, margins, values, pull)


def at(loss: PreferenceLoss, start: float, move: Float[Tensor, ""]) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Margin and value of a pair of one token each, in a step of its own; the state is that before the first step."""
    reference = torch.full((2, 1, 1), start, dtype=torch.float64)
    policy = reference + rearrange(torch.stack((move, -move)), "k -> k 1 1")
    logps, batch = complete(policy, reference, torch.ones(2, 1, 1, dtype=torch.bool))
    assert logps.kl is not None
    same = None if logps.mismatched is None else replace(logps.mismatched, reference=logps.mismatched.policy)
    # Nothing but the margin differs from the start; the chosen completion is better by a score of 1.
    level = replace(logps, kl=torch.zeros_like(logps.kl), mismatched=same)
    scored = replace(batch, scores=torch.tensor([[1.0], [0.0]], dtype=torch.float64))
    state = loss.initial_state()
    chosen, rejected = loss.rewards(level, scored, state)
    return (chosen - rejected)[0], loss(level, scored, state)[0]


def compose(curves: Sequence[Curve], left_out: Sequence[str]) -> Figure:
    """The picture, not yet drawn. Each loss is measured from its value at margin 0, in units of its pull there."""
    groups = {group: [curve for curve in curves if curve.group == group] for group in GROUPS}
    rows = [(group, kind[i : i + COLUMNS]) for group, kind in groups.items() for i in range(0, len(kind), COLUMNS)]
    height = 1.6 + 2.0 * len(rows)
    figure = Figure(figsize=(13, height), dpi=130, facecolor="white")
    figure.text(0.04, 1 - 0.33 / height, "The zoo of losses", fontsize=18, fontweight="bold", color=INK, va="center")
    figure.text(0.04, 1 - 0.66 / height, "the loss", fontsize=11, fontweight="bold", color=BLUE, va="center")
    figure.text(0.104, 1 - 0.66 / height, "and how hard it pulls", fontsize=11, fontweight="bold", color=VERMILION, va="center")
    told = "against the margin, as the chosen completion becomes more likely and the rejected one as much less"
    figure.text(0.263, 1 - 0.66 / height, told, fontsize=10.5, color=MUTED, va="center")
    grid = figure.add_gridspec(
        max(len(rows), 1),
        COLUMNS,
        left=0.04,
        right=0.985,
        top=1 - 1.4 / height,
        bottom=0.62 / height,
        hspace=0.62,
        wspace=0.16,
    )
    before = None
    for row, (group, members) in enumerate(rows):
        for column, curve in enumerate(members):
            axes = figure.add_subplot(grid[row, column])
            panel(axes, curve)
            if group != before:
                axes.text(0, 1.29, group, transform=axes.transAxes, fontsize=10, color=MUTED, style="italic")
                before = group
    below = "The number is the loss at margin 0; heights are measured from there, in units of the pull there."
    if left_out:
        below += f" No curve in the margin alone: {', '.join(left_out)}."
    figure.text(0.04, 0.2 / height, below, fontsize=10, color=MUTED)
    return figure


def panel(axes: Axes, curve: Curve) -> None:
    """One loss. Where it does not pull at margin 0, it is drawn as it is."""
    zero = int(curve.margins.abs().argmin())
    unit = abs(float(curve.pull[zero])) or 1.0
    quiet_grid(axes)
    axes.axvline(0, color="#c5ccd3", linewidth=0.8)
    axes.plot(curve.margins, curve.pull / unit, color=VERMILION, linewidth=1.4, linestyle=(0, (4, 1.5)))
    axes.plot(curve.margins, (curve.values - curve.values[zero]) / unit, color=BLUE, linewidth=2)
    axes.plot([0], [0], marker="o", markersize=4, color=BLUE)
    axes.annotate(
        f"{curve.values[zero]:.3g}", (0, 0), (5, 4), textcoords="offset points", fontsize=8.5, color=INK, path_effects=halo()
    )
    axes.set(xlim=(-REACH, REACH), ylim=(-3, 5), title=curve.name, xticks=[-4, 0, 4], yticks=[-2, 0, 2, 4])
