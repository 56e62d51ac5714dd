"""Reward against KL of one run: its evaluations in order, beside best-of-n of the reference and the ideal frontier."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.ticker import MaxNLocator

from dpo_lab.compare.figures.labels import Labels
from dpo_lab.compare.figures.plane import (
    X_LABEL,
    best_of_n,
    draw_best_of_n,
    draw_errors,
    draw_ideal,
    draw_reference,
    name_best_of_n,
)
from dpo_lab.compare.figures.theme import BLUE, MUTED, ROUND, halo, quiet_grid
from dpo_lab.compare.formatting import known, percent

STEPS = LinearSegmentedColormap.from_list("steps", ["#b9d8ee", "#5aa5d6", "#0072b2", "#003f66"])
SCORERS = {"proxy": "training scorer", "reward": "true scorer"}


@dataclass
class Point:
    """One evaluation: KL and reward with their standard errors (0 if unknown), and the share of positive completions."""

    step: int
    kl: float
    kl_se: float
    reward: float
    reward_se: float
    positive: float | None


def run_path(rows: list[dict[str, Any]], summary: Mapping[str, Any]) -> list[Point]:
    """The evaluations of the run in order, up to the step whose weights were kept, for which the summary stands in."""
    reward = f"{_scorer(rows, summary)}/policy"
    evaluated = [_point(row, row["step"], reward) for row in rows if row["split"] == "eval"]
    points = [point for point in evaluated if point is not None]
    kept = known(summary, "step")
    final = _point(summary, max((row["step"] for row in rows), default=0) if kept is None else int(kept), reward)
    if final is not None:
        points = [point for point in points if point.step < final.step] + [final]
    return points


def _scorer(rows: list[dict[str, Any]], summary: Mapping[str, Any]) -> str:
    """The reward on the axis: the training scorer's, for which the ideal is defined, or else the true one."""
    return "proxy" if any(known(row, "proxy/policy") is not None for row in [*rows, summary]) else "reward"


def _point(row: Mapping[str, Any], step: int, reward_key: str) -> Point | None:
    kl, reward = known(row, "kl"), known(row, reward_key)
    if kl is None or reward is None:
        return None
    errors = known(row, "kl_se") or 0.0, known(row, f"{reward_key}_se") or 0.0
    return Point(step, kl, errors[0], reward, errors[1], known(row, "positive/policy"))


def draw_run_frontier(axes: Axes, rows: list[dict[str, Any]], summary: Mapping[str, Any]) -> None:
    """Everything that the run directory holds of reward and KL."""
    scorer, points = _scorer(rows, summary), run_path(rows, summary)
    bests, reference = best_of_n([summary], scorer), known(summary, f"{scorer}/reference")
    right = 1.2 * max([point.kl + point.kl_se for point in points] + [best.kl for best in bests] + [0.1])
    axes.set_xlim(-0.025 * right, right)
    quiet_grid(axes)
    heights = [point.reward + sign * point.reward_se for point in points for sign in (-1, 1)]
    heights += [best.reward for best in bests] + ([] if reference is None else [reference])
    if scorer == "proxy":
        heights += draw_ideal(axes, summary, right, points[-1].kl)
    low, high = min(heights), max(heights)
    span = max(high - low, 1e-3)
    axes.set_ylim(low - 0.12 * span, high + 0.1 * span)
    labels = Labels(axes)
    for line in axes.lines:  # the frontier
        labels.avoid(line.get_xdata(), line.get_ydata())
    draw_best_of_n(axes, bests, labels)
    _draw_path(axes, points, labels)
    if reference is not None:
        draw_reference(axes, reference, labels, known(summary, "positive/reference"))
    _name_run(points[-1], labels)
    name_best_of_n(bests, [summary], labels)
    axes.set_xlabel(X_LABEL)
    axes.set_ylabel(f"mean reward of the completions ({SCORERS[scorer]})")
    axes.xaxis.set_major_locator(MaxNLocator(7, steps=ROUND))
    axes.set_title("Reward against distance from the reference", pad=8)


def _draw_path(axes: Axes, points: list[Point], labels: Labels) -> None:
    kl, reward = [point.kl for point in points], [point.reward for point in points]
    shade = Normalize(points[0].step, max(points[-1].step, points[0].step + 1))
    colours: Any = [STEPS(shade(point.step)) for point in points]
    axes.plot(kl, reward, color="#7fb2d6", linewidth=1.3, zorder=3.5)
    labels.avoid(kl, reward)
    draw_errors(axes, kl, reward, [point.kl_se for point in points], labels, upright=False, colors=colours, zorder=4)
    draw_errors(axes, kl, reward, [point.reward_se for point in points], labels, colors=colours, zorder=4)
    axes.scatter(kl[:-1], reward[:-1], c=colours[:-1], s=42, edgecolor="white", linewidth=0.8, zorder=5)
    axes.plot(kl[-1:], reward[-1:], "*", color=BLUE, markersize=17, markeredgecolor="white", markeredgewidth=1.2, zorder=7)
    if len(points) > 1:
        _draw_steps(axes, points[0].step, points[-1].step)


def _name_run(final: Point, labels: Labels) -> None:
    text = "this run" if final.positive is None else f"this run\n{percent(final.positive)} positive"
    style = {"color": BLUE, "fontsize": 11, "fontweight": "bold", "linespacing": 1.35, "path_effects": halo()}
    labels.annotate(text, (final.kl, final.reward), gap=13, first=(0, -1), **style)


def _draw_steps(axes: Axes, first: int, last: int) -> None:
    """The colours of the steps, as a strip in the corner that the curves leave free."""
    strip = axes.inset_axes((0.72, 0.05, 0.2, 0.018))
    strip.imshow(np.linspace(0, 1, 64)[None], aspect="auto", cmap=STEPS)
    strip.set_axis_off()
    style: dict[str, Any] = {"transform": strip.transAxes, "fontsize": 9, "color": MUTED, "va": "center"}
    strip.text(-0.04, 0.5, f"step {first:,}", ha="right", **style)
    strip.text(1.04, 0.5, f"{last:,}", ha="left", **style)
