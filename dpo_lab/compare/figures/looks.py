"""How a comparison is drawn: a colour for each setting where there are few, the best and the baseline before the rest else."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from dpo_lab.compare.comparison import Comparison
from dpo_lab.compare.figures.theme import BLUE, GREEN, INK, MUTED, ORANGE, VERMILION, halo
from dpo_lab.compare.runs import Group

FEW = 8
"""Settings up to which each has a colour of its own."""
MANY = 40
"""Panels that a picture has at most."""
OTHERS = "#c3cad2"
PALETTE = (BLUE, VERMILION, GREEN, "#a65d91", "#2f9fd8", ORANGE, INK, "#8a7a5c")


@dataclass
class Look:
    """How one setting is drawn; without a label it is one of the many behind."""

    group: Group
    colour: str
    label: str | None


def looks(comparison: Comparison) -> list[Look]:
    """Of few settings all, in the order of colours where they are numbers; of many the baseline and the best four in colour.

    Those behind come first.
    """
    groups = comparison.groups
    if len(groups) <= FEW:
        names = [list(group.settings.values()) for group in groups]
        ordered = all(len(values) == 1 and isinstance(values[0], int | float) for values in names) and len(groups) > 2
        shades = [to_hex(colormaps["viridis"](0.08 + 0.74 * i / max(len(groups) - 1, 1))) for i in range(len(groups))]
        return [Look(group, colour, group.label) for group, colour in zip(groups, shades if ordered else PALETTE, strict=False)]
    front = best(comparison, 4)
    if comparison.baseline is not None:
        front = [comparison.baseline, *(group for group in front if group is not comparison.baseline)]
    behind = [Look(group, OTHERS, None) for group in groups if all(group is not each for each in front)]
    colours = [INK, *PALETTE] if comparison.baseline is not None else PALETTE
    return behind + [Look(group, colour, group.label) for group, colour in zip(front, colours, strict=False)]


def best(comparison: Comparison, number: int) -> list[Group]:
    """The settings of the highest mean reward, in the order of the comparison."""
    reward = reward_of(comparison)

    def height(group: Group) -> float:
        values = group.values(reward) if reward else []
        return sum(values) / len(values) if values else -math.inf

    found = sorted(comparison.groups, key=height, reverse=True)[:number]
    return [group for group in comparison.groups if any(group is each for each in found)]


def shown_of(comparison: Comparison) -> str:
    """What a picture with a panel for each setting must add to its title where there are too many of them."""
    return f"; the best {MANY} of {len(comparison.groups)} settings" if len(comparison.groups) > MANY else ""


def reward_of(comparison: Comparison) -> str | None:
    """The reward that was asked for, else the training scorer's, else the true one's; None where there is none."""
    asked = [metric.partition(" at KL ")[0] for metric in comparison.metrics]
    for metric in [name for name in asked if name in ("proxy/policy", "reward/policy")] + ["proxy/policy", "reward/policy"]:
        if any(run.value(metric) is not None for run in comparison.runs):
            return metric
    return None


def heading(figure: Figure, title: str, subtitle: str = "") -> None:
    """Top left, above everything."""
    height = figure.get_figheight()
    figure.text(0.012, 1 - 0.26 / height, title, fontsize=13, fontweight="bold", color=INK, va="center")
    figure.text(0.012, 1 - 0.54 / height, subtitle, fontsize=9.5, color=MUTED, va="center")


def name_ends(axes: Axes, ends: Sequence[tuple[float | int, float | int, str, str]], gap: float) -> None:
    """Labels right of the axes at the ends (x, y, text, colour) of lines, `gap` of the axes' height apart at least."""
    low, high = axes.get_ylim()
    ends = [(x, min(max(y, low), high), text, colour) for x, y, text, colour in ends]
    wanted = sorted(((y - low) / (high - low), x, y, text, colour) for x, y, text, colour in ends)
    places: list[float] = []
    for height, *_ in wanted:
        places.append(max(min(max(height, 0.0), 1.0), places[-1] + gap if places else 0.0))
    ceiling = max(1.0, gap * (len(places) - 1))
    for index in reversed(range(len(places))):  # whatever was pushed out at the top comes back down
        places[index] = min(places[index], ceiling - gap * (len(places) - 1 - index))
    for place, (_, x, y, text, colour) in zip(places, wanted, strict=True):
        style: dict[str, Any] = {"arrowprops": {"arrowstyle": "-", "color": colour, "linewidth": 0.6, "alpha": 0.4}}
        axes.annotate(
            text.replace("$", r"\$"),
            (x, y),
            xytext=(1.02, place),
            textcoords=axes.transAxes,
            color=colour,
            fontsize=9.5,
            va="center",
            fontweight="bold",
            annotation_clip=False,
            path_effects=halo(),
            **style,
        )


def bands(rows: Sequence[Sequence[dict[str, Any]]], metric: str) -> tuple[list[int], list[float], list[float]]:
    """Steps, and the mean and standard deviation of the metric over runs at each (0 where one run has it)."""
    found: dict[int, list[float]] = {}
    for run in rows:
        for row in run:
            value = row.get(metric)
            if isinstance(value, int | float) and math.isfinite(value):
                found.setdefault(row["step"], []).append(value)
    steps = sorted(found)
    means = [sum(found[step]) / len(found[step]) for step in steps]
    spreads = [
        math.sqrt(sum((value - mean) ** 2 for value in found[step]) / max(len(found[step]) - 1, 1))
        for step, mean in zip(steps, means, strict=True)
    ]
    return steps, means, spreads
