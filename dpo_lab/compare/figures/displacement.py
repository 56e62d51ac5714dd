"""What happens to the log-probability of chosen and rejected completions: both may fall (likelihood displacement)."""

from __future__ import annotations

import math
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter, NullLocator

from dpo_lab.compare.comparison import Comparison
from dpo_lab.compare.figures.looks import MANY, best, shown_of
from dpo_lab.compare.figures.panels import curve_of
from dpo_lab.compare.figures.theme import BLUE, MUTED, VERMILION, halo, heading, small_multiples
from dpo_lab.compare.runs import FinishedRun

SIDES = {"chosen": BLUE, "rejected": VERMILION}
COLUMNS = 5


def draw(comparison: Comparison) -> Figure | None:
    """A panel for each setting, all on one scale: linear within 10 nats of the start, logarithmic beyond."""
    groups = best(comparison, MANY)
    if not any(len(_changes(run)) > 1 for group in groups for run in group.runs):
        return None
    columns = min(COLUMNS, len(groups))
    rows = math.ceil(len(groups) / columns)
    figure = Figure(figsize=(max(6.5, 2.2 * columns), 1.75 * rows + 1.5))
    heading(
        figure,
        "Where chosen and rejected completions go",
        "change of their log-probability since step 0, nats, held-out pairs; mean over seeds \u00b1 one standard deviation"
        + shown_of(comparison),
    )
    panels = small_multiples(figure, [group.label for group in groups], columns, "step")
    lowest = 0.0
    for place, (panel, group) in enumerate(zip(panels, groups, strict=True)):
        panel.axhline(0, color=MUTED, linewidth=0.8)
        for side, colour in SIDES.items():
            curve = curve_of([_changes(run) for run in group.runs], side)
            if not len(curve.steps):
                continue
            lowest = min(lowest, *curve.values)
            panel.plot(curve.steps, curve.values, color=colour, linewidth=1.7)
            low, high = curve.values - curve.spreads, curve.values + curve.spreads
            panel.fill_between(curve.steps, low, high, color=colour, alpha=0.18, linewidth=0)
            if place == 0:
                up = side == "chosen"
                panel.annotate(
                    side,
                    (curve.steps[-1], curve.values[-1]),
                    (0, 5 if up else -5),
                    textcoords="offset points",
                    color=colour,
                    fontsize=9,
                    ha="right",
                    va="bottom" if up else "top",
                    fontweight="bold",
                    path_effects=halo(),
                )
    if lowest < -30:
        panels[0].set_yscale("symlog", linthresh=10)
        panels[0].set_yticks([0, *(tick for tick in (-5, -10, -30, -100, -300, -1000, -3000) if tick > 1.2 * lowest)])
        panels[0].yaxis.set_major_formatter(FormatStrFormatter("%g"))
        panels[0].yaxis.set_minor_locator(NullLocator())
    return figure


def _changes(run: FinishedRun) -> list[dict[str, Any]]:
    """Of each evaluation, how far the held-out completions are from where they were at the first."""
    keys = [f"logps/{side}" for side in SIDES]
    rows = [row for row in run.evaluations if all(isinstance(row.get(key), int | float) for key in keys)]
    return [{"step": row["step"], **{side: row[f"logps/{side}"] - rows[0][f"logps/{side}"] for side in SIDES}} for row in rows]
