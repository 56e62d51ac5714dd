"""Many settings at once: an axis for each setting and each final number, a line for each combination."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from dpo_lab.compare.comparison import Comparison
from dpo_lab.compare.figures.looks import reward_of
from dpo_lab.compare.figures.theme import INK, MUTED, OTHERS, halo, heading
from dpo_lab.compare.groups import Group

METRICS = ("displacement/chosen", "length/policy", "eval/rewards/accuracies", "kl")
MOST_NAMES = 40


@dataclass
class Axis:
    """Where each group stands on it, 0 to 1 (None: nowhere), and what is written beside it."""

    title: str
    places: list[float | None]
    ticks: list[tuple[float, str]]


def draw(comparison: Comparison) -> Figure | None:
    """None with fewer than three combinations or two axes."""
    groups, reward = comparison.groups, reward_of(comparison)
    axes = [_of_setting(key, [group.settings[key] for group in groups]) for key in groups[0].settings]
    for metric in [*METRICS, *([reward] if reward else [])]:
        means = [_mean(group, metric) for group in groups]
        if len({mean for mean in means if mean is not None}) > 1:
            axes.append(_of_numbers(metric, means, logarithmic=False))
    if len(groups) < 3 or len(axes) < 2:
        return None
    names = max(len(axis.ticks) for axis in axes)
    figure = Figure(figsize=(max(7.5, 1.9 * len(axes) + 1.2), max(4.8, 0.17 * names + 1.6)))
    height = figure.get_figheight()
    heading(figure, "All settings at once", f"a line is a setting, the mean over its seeds; coloured by {axes[-1].title}")
    plane = figure.add_axes((0.1, 0.3 / height, 0.82, 1 - 1.5 / height))
    plane.set_xlim(0, len(axes) - 1)
    plane.set_ylim(-0.02, 1.02)
    plane.axis("off")
    for index in range(len(groups)):
        path = [(x, place) for x, axis in enumerate(axes) if (place := axis.places[index]) is not None]
        last = axes[-1].places[index]
        colour = OTHERS if last is None else to_hex(colormaps["viridis"](0.06 + 0.8 * last))
        style: dict[str, Any] = {"linewidth": 1.5 if len(groups) < 60 else 0.7, "alpha": 0.85, "clip_on": False}
        plane.plot(*_smooth(path), color=colour, **style)
    for x, axis in enumerate(axes):
        _draw_axis(plane, x, axis)
    return figure


def _draw_axis(plane: Axes, x: int, axis: Axis) -> None:
    plane.plot([x, x], [0, 1], color=MUTED, linewidth=1, clip_on=False, zorder=3)
    plane.text(x, 1.05, axis.title.replace("$", r"\$"), ha="center", va="bottom", fontsize=9.5, fontweight="bold", color=INK)
    size = 9 if len(axis.ticks) < 15 else 7.5
    for place, text in axis.ticks:
        left = x == 0
        plane.text(
            x + (-0.03 if left else 0.03),
            place,
            text.replace("$", r"\$"),
            ha="right" if left else "left",
            va="center",
            fontsize=size,
            color=INK,
            path_effects=halo(),
            zorder=4,
        )


def _smooth(path: list[tuple[int, float]]) -> tuple[list[float], list[float]]:
    """The path with level crossings of the axes, which keeps lines apart that share a value."""
    xs, ys = [], []
    for (x0, y0), (x1, y1) in pairwise(path):
        for step in range(21):
            share = step / 20
            xs.append(x0 + (x1 - x0) * share)
            ys.append(y0 + (y1 - y0) * share * share * (3 - 2 * share))
    return xs, ys


def _of_setting(key: str, values: list[Any]) -> Axis:
    numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    if len(numbers) == len(values) and len(set(numbers)) > 1:
        return _of_numbers(key, [float(value) for value in numbers], logarithmic=min(numbers) > 0, at=sorted(set(numbers)))
    names = list(dict.fromkeys(map(str, values)))
    heights = {name: 1 - (index + 0.5) / len(names) for index, name in enumerate(names)}
    shown = names if len(names) <= MOST_NAMES else []
    return Axis(key, [heights[str(value)] for value in values], [(heights[name], name) for name in shown])


def _of_numbers(title: str, values: list[float | None], logarithmic: bool, at: list[float] | None = None) -> Axis:
    known = [value for value in values if value is not None]
    scale = math.log if logarithmic and max(known) > 8 * min(known) else float
    low, high = scale(min(known)), scale(max(known))
    places = [None if value is None else (scale(value) - low) / (high - low) for value in values]
    ticks = at if at is not None and len(at) <= 8 else [min(known), max(known)]
    return Axis(title, places, [((scale(tick) - low) / (high - low), f"{tick:.3g}") for tick in ticks])


def _mean(group: Group, metric: str) -> float | None:
    values = group.values(metric)
    return statistics.fmean(values) if values else None
