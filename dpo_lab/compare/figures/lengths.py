"""Length against reward: is the reward bought with longer completions?"""

from __future__ import annotations

import statistics

from matplotlib.figure import Figure

from dpo_lab.compare.comparison import Comparison
from dpo_lab.compare.figures.looks import looks, reward_of
from dpo_lab.compare.figures.theme import heading, name_ends, quiet_grid

LENGTH = "length/policy"


def draw(comparison: Comparison) -> Figure | None:
    """Every evaluation faintly, the mean of the final ones of each setting with its name."""
    reward = reward_of(comparison)
    if reward is None or not any(group.values(LENGTH) for group in comparison.groups):
        return None
    figure = Figure(figsize=(9, 5.2))
    axes = figure.add_axes((0.075, 0.11, 0.76, 0.75))
    heading(figure, f"{reward} against length", "faint: evaluations of all runs; large: final mean over seeds of a setting")
    quiet_grid(axes)
    ends = []
    for look in looks(comparison):
        rows = [row for run in look.group.runs for row in run.evaluations if LENGTH in row and reward in row]
        front = look.label is not None
        axes.plot(
            [row[LENGTH] for row in rows],
            [row[reward] for row in rows],
            "o",
            color=look.colour,
            alpha=0.3,
            markersize=3.5,
            markeredgewidth=0,
        )
        if not look.group.values(LENGTH) or not look.group.values(reward):
            continue
        x, y = statistics.fmean(look.group.values(LENGTH)), statistics.fmean(look.group.values(reward))
        axes.plot([x], [y], "o", color=look.colour, markersize=9 if front else 6, markeredgecolor="white", zorder=4)
        if look.label is not None:
            ends.append((x, y, look.label, look.colour))
    name_ends(axes, ends, gap=0.05)
    axes.set_xlabel("mean length of the policy's completions, tokens")
    return figure
