"""Metrics over the training steps, a panel each: of one run by split, of a comparison by setting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from dpo_lab.compare.figures.theme import MUTED, ROUND, quiet_grid
from dpo_lab.compare.formatting import known

TITLES = {
    "loss": "Loss",
    "rewards/accuracies": "Pairs ranked right",
    "rewards/margins": "Reward margin (nats)",
    "kl": "KL to reference (nats)",
    "entropy": "Entropy (nats per token)",
}
NOISY = 40
"""Points beyond which a curve is smoothed, in front of its own faint points."""


@dataclass
class Curve:
    """A metric over the steps: its mean over runs, and how far the band around it reaches (0: no band)."""

    steps: np.ndarray
    values: np.ndarray
    spreads: np.ndarray
    colour: str = ""
    in_front: bool = True


def curve_of(runs: Sequence[Sequence[Mapping[str, Any]]], metric: str, colour: str = "", in_front: bool = True) -> Curve:
    """The mean of a metric over the rows of one or several runs, with one standard deviation.

    Of a single run the band is the standard error that it logged.
    """
    logged: dict[int, list[tuple[float, float]]] = {}
    for row in (row for rows in runs for row in rows):
        if (value := known(row, metric)) is not None:
            logged.setdefault(row["step"], []).append((value, known(row, f"{metric}_se") or 0.0))
    steps, columns = sorted(logged), [np.array(logged[step]).T for step in sorted(logged)]
    means = [values.mean() for values, _ in columns]
    spreads = [values.std(ddof=1) if len(values) > 1 else errors[0] * (len(runs) == 1) for values, errors in columns]
    return Curve(np.array(steps), np.array(means), np.array(spreads), colour, in_front)


def draw_panels(figure: Figure, panels: Mapping[str, Sequence[Curve]], columns: int, **place: float) -> list[Axes]:
    """The curves of each metric in a panel of a grid, which takes the given `place` of the figure."""
    rows = -(-len(panels) // columns)
    grid, drawn = figure.add_gridspec(rows, columns, **place), []
    for index, (metric, curves) in enumerate(panels.items()):
        axes = figure.add_subplot(grid[divmod(index, columns)])
        axes.set_title(TITLES.get(metric, metric), pad=8)
        quiet_grid(axes)
        for curve in curves:
            _draw_curve(axes, curve)
        if metric == "rewards/accuracies":
            axes.axhline(0.5, color=MUTED, linewidth=0.8, linestyle=(0, (4, 3)))
            axes.yaxis.set_major_formatter(lambda share, _: f"{100 * share:.0f} %")
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True, steps=ROUND))
        axes.yaxis.set_major_locator(MaxNLocator(6, steps=ROUND))
        axes.margins(x=0.02)
        if index + columns >= len(panels):
            axes.set_xlabel("step", fontsize=9)
        drawn.append(axes)
    return drawn


def _draw_curve(axes: Axes, curve: Curve) -> None:
    style: dict[str, Any] = {"color": curve.colour, "zorder": 3 if curve.in_front else 1}
    noisy, values = len(curve.steps) > NOISY, curve.values
    if noisy and curve.in_front:
        axes.plot(curve.steps, values, linewidth=0.7, alpha=0.25, **style)
        values = _running_mean(values, len(values) // 20)
    axes.plot(curve.steps, values, linewidth=1.8 if curve.in_front else 0.8, solid_capstyle="round", **style)
    if not curve.in_front:
        return
    if not noisy:
        axes.plot(curve.steps, values, ".", markersize=5, **style)
    if curve.spreads.any():
        low, high = curve.values - curve.spreads, curve.values + curve.spreads
        axes.fill_between(curve.steps, low, high, color=curve.colour, alpha=0.16, linewidth=0)


def _running_mean(values: np.ndarray, reach: int) -> np.ndarray:
    """Mean over up to `reach` neighbours on either side, fewer at the ends."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    index = np.arange(len(values))
    low, high = np.maximum(index - reach, 0), np.minimum(index + reach + 1, len(values))
    return (sums[high] - sums[low]) / (high - low)
