"""Training curves: of a comparison, a curve for each setting; of one run, a curve for each split."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dpo_lab.compare.comparison import Comparison
from dpo_lab.compare.figures.looks import FEW, looks, reward_of
from dpo_lab.compare.figures.panels import Curve, curve_of, draw_panels
from dpo_lab.compare.figures.theme import BLUE, VERMILION, halo, heading, name_ends
from dpo_lab.compare.runs import FinishedRun

OF_A_RUN = ("loss", "rewards/accuracies", "rewards/margins", "kl")
SPLITS = {"train": ("training", BLUE), "eval": ("held-out", VERMILION)}
MIDDLE = 88
"""Of many settings, the per cent of points that a panel is scaled to: a few that run off must not flatten the others."""


def draw(comparison: Comparison) -> Figure | None:
    """Of held-out pairs and samples where they were evaluated, else of training batches."""
    reward = reward_of(comparison)
    split = "eval" if any(len(run.evaluations) > 1 for run in comparison.runs) else "train"
    settings = [(look, [_rows(run, split) for run in look.group.runs]) for look in looks(comparison)]
    panels = {}
    for metric in [*OF_A_RUN, *([reward] if reward else []), "entropy"]:
        curves = [curve_of(rows, metric, look.colour, look.label is not None) for look, rows in settings]
        if any(len(curve.steps) > 1 for curve in curves):
            panels[metric] = [curve for curve in curves if len(curve.steps) > 1]
    if not panels:
        return None
    columns = min(3, len(panels))
    figure = Figure(figsize=(1.6 + 3.7 * columns, 0.9 + 2.9 * -(-len(panels) // columns)))
    which = "held-out prompts" if split == "eval" else "training batches"
    heading(figure, "Training", f"{which}; mean over seeds, shaded one standard deviation (of one seed, standard error)")
    height = figure.get_figheight()
    place = {"left": 0.06, "right": 0.86, "bottom": 0.5 / height, "top": 1 - 1.05 / height, "hspace": 0.36, "wspace": 0.24}
    drawn = draw_panels(figure, panels, columns, **place)
    names = {look.colour: look.label or "" for look, _ in settings}
    for index, (axes, curves) in enumerate(zip(drawn, panels.values(), strict=True)):
        if len(comparison.groups) > FEW:
            _scale(axes, np.concatenate([curve.values for curve in curves]))
        if index % columns == columns - 1 or index == len(panels) - 1:
            ends = [(float(c.steps[-1]), float(c.values[-1]), names[c.colour], c.colour) for c in curves if c.in_front]
            name_ends(axes, ends, gap=0.075)
    return figure


def _rows(run: FinishedRun, split: str) -> list[dict[str, Any]]:
    return [row for row in run.metrics if row.get("split") == split]


def _scale(axes: Axes, heights: np.ndarray) -> None:
    low, high = np.percentile(heights, [100 - MIDDLE, MIDDLE])
    room = 0.35 * (high - low)
    bottom, top = axes.get_ylim()
    axes.set_ylim(max(bottom, low - room), min(top, high + room) if high > low else top)


def run_curves(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, Curve]]:
    """The curves of one run by metric and split, of the metrics that were logged at two steps or more."""
    panels: dict[str, dict[str, Curve]] = {}
    for metric in OF_A_RUN:
        for split, (_, colour) in SPLITS.items():
            curve = curve_of([[row for row in rows if row["split"] == split]], metric, colour)
            if len(curve.steps) > 1:
                panels.setdefault(metric, {})[split] = curve
    return panels


def draw_run_curves(figure: Figure, panels: dict[str, dict[str, Curve]], left: float, top: float, bottom: float) -> None:
    """A run's panels from `left` to the right edge: up to three side by side where they have the figure to themselves."""
    columns = min(len(panels), 2) if left > 0.5 or len(panels) == 4 else len(panels)
    place = {"left": left, "right": 0.98, "top": top, "bottom": bottom, "hspace": 0.38, "wspace": 0.3 if left > 0.5 else 0.16}
    drawn = draw_panels(figure, {metric: list(splits.values()) for metric, splits in panels.items()}, columns, **place)
    shown = [split for split in SPLITS if any(split in splits for splits in panels.values())]
    _name_splits(drawn[0], shown, list(next(iter(panels.values())).values()))


def _name_splits(axes: Axes, names: list[str], curves: Sequence[Curve]) -> None:
    """The names of the splits in their colours, once for all panels, in the corner that the curves leave free."""
    falling = np.mean([curve.values[-1] - curve.values[0] for curve in curves]) < 0
    for line, split in enumerate(names):
        name, colour = SPLITS[split]
        height = 0.98 - 0.1 * line if falling else 0.04 + 0.1 * (len(names) - 1 - line)
        style: dict[str, Any] = {"fontsize": 9.5, "fontweight": "bold", "ha": "right", "va": "top" if falling else "bottom"}
        axes.text(0.98, height, name, transform=axes.transAxes, color=colour, path_effects=halo(), **style)
