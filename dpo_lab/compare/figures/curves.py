"""Training, setting by setting: the mean over seeds with a band of one standard deviation."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from dpo_lab.compare.comparison import Comparison
from dpo_lab.compare.figures.looks import FEW, bands, heading, looks, name_ends, reward_of
from dpo_lab.compare.figures.theme import ROUND, quiet_grid

PANELS = {
    "loss": "Loss",
    "rewards/accuracies": "Pairs ranked right",
    "rewards/margins": "Reward margin",
    "kl": "KL to reference (nats)",
}
MIDDLE = 88
"""Of many settings, the per cent of points that a panel is scaled to: a few that run off must not flatten the others."""


def draw(comparison: Comparison) -> Figure | None:
    """Of held-out pairs and samples where they were evaluated, else of training batches."""
    reward = reward_of(comparison)
    panels = PANELS | ({reward: reward} if reward else {}) | {"entropy": "Entropy (nats per token)"}
    split = "eval" if any(len(run.evaluations) > 1 for run in comparison.runs) else "train"
    drawn = {
        id(look): [[row for row in run.metrics if row.get("split") == split] for run in look.group.runs]
        for look in looks(comparison)
    }
    metrics = [m for m in panels if any(len(bands(rows, m)[0]) > 1 for rows in drawn.values())]
    return _composed(comparison, {m: panels[m] for m in metrics}, split) if metrics else None


def _composed(comparison: Comparison, panels: dict[str, str], split: str) -> Figure:
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(1.6 + 3.7 * columns, 0.9 + 2.9 * rows))
    which = "held-out prompts" if split == "eval" else "training batches"
    heading(figure, "Training", f"{which}; mean over seeds, shaded one standard deviation")
    grid = figure.add_gridspec(
        rows, columns, left=0.06, right=0.86, bottom=0.5 / figure.get_figheight(), top=1 - 1.05 / figure.get_figheight()
    )
    grid.update(hspace=0.36, wspace=0.24)
    for place, (metric, title) in enumerate(panels.items()):
        axes = figure.add_subplot(grid[place // columns, place % columns])
        axes.set_title(title, pad=6)
        quiet_grid(axes)
        ends, heights = [], []
        for look in looks(comparison):
            steps, means, spreads = bands(
                [[row for row in run.metrics if row.get("split") == split] for run in look.group.runs], metric
            )
            if len(steps) < 2:
                continue
            front = look.label is not None
            axes.plot(steps, means, color=look.colour, linewidth=1.8 if front else 0.8, zorder=3 if front else 1)
            heights += means
            if front:
                low, high = ([m + s * sign for m, s in zip(means, spreads, strict=True)] for sign in (-1, 1))
                axes.fill_between(steps, low, high, color=look.colour, alpha=0.15, linewidth=0)
                ends.append((steps[-1], means[-1], look.label or "", look.colour))
        if len(comparison.groups) > FEW:
            _scale(axes, heights)
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True, steps=ROUND))
        axes.margins(x=0.01)
        if place % columns == columns - 1 or place == len(panels) - 1:
            name_ends(axes, ends, gap=0.075)
        if place + columns >= len(panels):
            axes.set_xlabel("step")
    return figure


def _scale(axes: Axes, heights: list[float]) -> None:
    low, high = np.percentile(heights, [100 - MIDDLE, MIDDLE])
    room = 0.35 * (high - low)
    bottom, top = axes.get_ylim()
    axes.set_ylim(max(bottom, low - room), min(top, high + room) if high > low else top)
