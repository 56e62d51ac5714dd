"""The way of a run: loss, accuracy, margin and KL over the steps, training and held-out pairs together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from dpo_lab.compare.figures.theme import BLUE, MUTED, ROUND, VERMILION, halo, known, quiet_grid

PANELS = {  # metric: title with its unit
    "loss": "Loss",
    "rewards/accuracies": "Pairs ranked right",
    "rewards/margins": "Reward margin (nats)",
    "kl": "KL to reference (nats)",
}
SPLITS = {"train": ("training", BLUE), "eval": ("held-out", VERMILION)}


@dataclass
class Curve:
    """One metric of one split over the steps, with standard errors where they were logged (else 0)."""

    steps: np.ndarray
    values: np.ndarray
    errors: np.ndarray


def curves(rows: list[dict[str, Any]]) -> dict[str, dict[str, Curve]]:
    """Curve by metric and split, of the metrics of the picture that were logged at two steps or more."""
    found: dict[str, dict[str, Curve]] = {}
    for metric in PANELS:
        for split in SPLITS:
            logged = [row for row in rows if row["split"] == split and known(row, metric) is not None]
            if len({row["step"] for row in logged}) > 1:
                columns = [[row["step"], row[metric], known(row, f"{metric}_se") or 0.0] for row in logged]
                found.setdefault(metric, {})[split] = Curve(*np.array(columns, dtype=float).T)
    return found


def draw_training(figure: Figure, found: dict[str, dict[str, Curve]], left: float, top: float, bottom: float) -> None:
    """The panels in a grid from `left` to the right edge: up to three side by side where they have the figure to themselves."""
    columns = min(len(found), 2) if left > 0.5 or len(found) == 4 else len(found)
    num_rows = -(-len(found) // columns)
    grid = figure.add_gridspec(
        num_rows, columns, left=left, right=0.98, top=top, bottom=bottom, hspace=0.38, wspace=0.3 if left > 0.5 else 0.16
    )
    for place, (metric, splits) in enumerate(found.items()):
        axes = figure.add_subplot(grid[place // columns, place % columns])
        axes.set_title(PANELS[metric], pad=8)
        quiet_grid(axes)
        for split, curve in splits.items():
            _draw_curve(axes, curve, SPLITS[split][1])
        if metric == "rewards/accuracies":
            axes.axhline(0.5, color=MUTED, linewidth=0.8, linestyle=(0, (4, 3)))
            axes.yaxis.set_major_formatter(lambda share, _: f"{100 * share:.0f} %")
        if place == 0:
            _name_splits(axes, [split for split in SPLITS if any(split in curves for curves in found.values())], splits)
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True, steps=ROUND))
        axes.yaxis.set_major_locator(MaxNLocator(6, steps=ROUND))
        axes.margins(x=0.02)
        if place + columns >= len(found):
            axes.set_xlabel("step", fontsize=9)


def _draw_curve(axes: Axes, curve: Curve, colour: str) -> None:
    noisy = len(curve.steps) > 40
    if noisy:
        axes.plot(curve.steps, curve.values, color=colour, linewidth=0.7, alpha=0.25)
    values = _running_mean(curve.values, len(curve.values) // 20) if noisy else curve.values
    axes.plot(curve.steps, values, color=colour, linewidth=1.8, solid_capstyle="round")
    if not noisy:
        axes.plot(curve.steps, values, ".", color=colour, markersize=6)
    if curve.errors.any():
        low, high = curve.values - curve.errors, curve.values + curve.errors
        axes.fill_between(curve.steps, low, high, color=colour, alpha=0.18, linewidth=0)


def _running_mean(values: np.ndarray, reach: int) -> np.ndarray:
    """Mean over up to `reach` neighbours on either side, fewer at the ends."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    index = np.arange(len(values))
    low, high = np.maximum(index - reach, 0), np.minimum(index + reach + 1, len(values))
    return (sums[high] - sums[low]) / (high - low)


def _name_splits(axes: Axes, names: list[str], splits: dict[str, Curve]) -> None:
    """The names of the splits in their colours, once for all panels, in the corner that the curves leave free."""
    falling = np.mean([curve.values[-1] - curve.values[0] for curve in splits.values()]) < 0
    for line, split in enumerate(names):
        name, colour = SPLITS[split]
        height = 0.98 - 0.1 * line if falling else 0.04 + 0.1 * (len(names) - 1 - line)
        style: dict[str, Any] = {"fontsize": 9.5, "fontweight": "bold", "ha": "right", "va": "top" if falling else "bottom"}
        axes.text(0.98, height, name, transform=axes.transAxes, color=colour, path_effects=halo(), **style)
