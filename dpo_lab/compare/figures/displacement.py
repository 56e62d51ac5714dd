"""What happens to the log-probability of chosen and rejected completions: both may fall (likelihood displacement)."""

from __future__ import annotations

import math
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter, NullLocator

from dpo_lab.compare.comparison import Comparison
from dpo_lab.compare.figures.looks import MANY, bands, best, heading, shown_of
from dpo_lab.compare.figures.theme import BLUE, MUTED, VERMILION, halo, quiet_grid
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
    height = figure.get_figheight()
    grid = figure.add_gridspec(rows, columns, left=0.07, right=0.98, bottom=0.5 / height, top=1 - 1.0 / height)
    grid.update(hspace=0.42, wspace=0.1)
    panels = grid.subplots(sharex=True, sharey=True, squeeze=False)
    lowest = 0.0
    for place, (panel, group) in enumerate(zip(panels.flat, groups, strict=False)):
        panel.set_title(group.label.replace("$", r"\$"), pad=4)
        quiet_grid(panel)
        panel.axhline(0, color=MUTED, linewidth=0.8)
        for side, colour in SIDES.items():
            steps, means, spreads = bands([_changes(run) for run in group.runs], side)
            if not steps:
                continue
            lowest = min(lowest, *means)
            panel.plot(steps, means, color=colour, linewidth=1.7)
            low, high = ([m + s * sign for m, s in zip(means, spreads, strict=True)] for sign in (-1, 1))
            panel.fill_between(steps, low, high, color=colour, alpha=0.18, linewidth=0)
            if place == 0:
                up = side == "chosen"
                panel.annotate(
                    side,
                    (steps[-1], means[-1]),
                    (0, 5 if up else -5),
                    textcoords="offset points",
                    color=colour,
                    fontsize=9,
                    ha="right",
                    va="bottom" if up else "top",
                    fontweight="bold",
                    path_effects=halo(),
                )
        if place + columns >= len(groups):
            panel.tick_params(labelbottom=True)
            panel.set_xlabel("step")
    for panel in list(panels.flat)[len(groups) :]:
        panel.set_visible(False)
    if lowest < -30:
        panels[0][0].set_yscale("symlog", linthresh=10)
        panels[0][0].set_yticks([0, *(tick for tick in (-5, -10, -30, -100, -300, -1000, -3000) if tick > 1.2 * lowest)])
        panels[0][0].yaxis.set_major_formatter(FormatStrFormatter("%g"))
        panels[0][0].yaxis.set_minor_locator(NullLocator())
    return figure


def _changes(run: FinishedRun) -> list[dict[str, Any]]:
    """Of each evaluation, how far the held-out completions are from where they were at the first."""
    keys = [f"logps/{side}" for side in SIDES]
    rows = [row for row in run.evaluations if all(isinstance(row.get(key), int | float) for key in keys)]
    return [{"step": row["step"], **{side: row[f"logps/{side}"] - rows[0][f"logps/{side}"] for side in SIDES}} for row in rows]
