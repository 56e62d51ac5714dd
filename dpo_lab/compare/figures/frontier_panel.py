"""Reward against KL: how far the run came, beside what best-of-n of the reference reaches and what no policy can exceed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.ticker import MaxNLocator

from dpo_lab.compare.figures.labels import Labels
from dpo_lab.compare.figures.theme import (
    BLUE,
    GREEN,
    INK,
    MUTED,
    ORANGE,
    ROUND,
    best_of_n_title,
    halo,
    known,
    percent,
    quiet_grid,
)

STEPS = LinearSegmentedColormap.from_list("steps", ["#b9d8ee", "#5aa5d6", "#0072b2", "#003f66"])
LABELS = {"proxy": "mean reward of the completions (training scorer)", "reward": "mean reward of the completions (true scorer)"}


@dataclass
class Point:
    """One evaluation: KL to the reference in nats and reward, each with its standard error (0 if unknown), share of positive
    completions if known.
    """

    step: int
    kl: float
    kl_se: float
    reward: float
    reward_se: float
    positive: float | None


def scorer(rows: list[dict[str, Any]], summary: Mapping[str, Any]) -> str:
    """The reward on the axis: the training scorer's, for which the ideal is defined, or else the true one."""
    return "proxy" if any(known(row, "proxy/policy") is not None for row in [*rows, summary]) else "reward"


def way(rows: list[dict[str, Any]], summary: Mapping[str, Any]) -> list[Point]:
    """The evaluations of the run in order, up to the step whose weights were kept, for which the summary stands in."""
    reward = f"{scorer(rows, summary)}/policy"
    found = [_point(row, row["step"], reward) for row in rows if row["split"] == "eval"]
    points = [point for point in found if point is not None]
    kept = known(summary, "step")
    final = _point(summary, max((row["step"] for row in rows), default=0) if kept is None else int(kept), reward)
    if final is not None:
        points = [point for point in points if point.step < final.step] + [final]
    return points


def _point(row: Mapping[str, Any], step: int, reward_key: str) -> Point | None:
    kl, reward = known(row, "kl"), known(row, reward_key)
    if kl is None or reward is None:
        return None
    errors = known(row, "kl_se") or 0.0, known(row, f"{reward_key}_se") or 0.0
    return Point(step, kl, errors[0], reward, errors[1], known(row, "positive/policy"))


def draw_frontier(axes: Axes, rows: list[dict[str, Any]], summary: Mapping[str, Any]) -> None:
    """Everything that the run directory knows of reward and KL."""
    reward, points = scorer(rows, summary), way(rows, summary)
    best = sorted(
        (row for row in summary.get("best_of_n", []) if known(row, "kl") is not None and known(row, reward) is not None),
        key=lambda row: row["kl"],
    )
    reference = known(summary, f"{reward}/reference")
    right = 1.2 * max([point.kl + point.kl_se for point in points] + [row["kl"] for row in best] + [0.1])
    axes.set_xlim(-0.025 * right, right)
    quiet_grid(axes)
    heights = [point.reward + sign * point.reward_se for point in points for sign in (-1, 1)]
    heights += [row[reward] for row in best] + ([] if reference is None else [reference])
    if reward == "proxy":
        heights += _draw_ideal(axes, summary, right, points[-1].kl)
    low, high = min(heights), max(heights)
    span = max(high - low, 1e-3)
    axes.set_ylim(low - 0.12 * span, high + 0.1 * span)
    labels = Labels(axes)
    for line in axes.lines:  # the frontier
        labels.avoid(np.asarray(line.get_xdata()), np.asarray(line.get_ydata()))
    _draw_best_of_n(axes, best, reward, labels)
    _draw_way(axes, points, labels)
    if reference is not None:
        _draw_reference(axes, reference, known(summary, "positive/reference"), labels)
    _name_run(points[-1], labels)
    _name_best_of_n(best, reward, labels)
    axes.set_xlabel("KL(policy || reference), nats per completion")
    axes.set_ylabel(LABELS[reward])
    axes.xaxis.set_major_locator(MaxNLocator(7, steps=ROUND))
    axes.set_title("Reward against distance from the reference", pad=8)


def _draw_ideal(axes: Axes, summary: Mapping[str, Any], right: float, run: float) -> list[float]:
    """The frontier up to `right`, and dashed on to the run's KL where it ends before; returns the heights it covers."""
    frontier = [(row["kl"], row["proxy"]) for row in summary.get("ideal_frontier", []) if None not in (row["kl"], row["proxy"])]
    if len(frontier) < 2:
        return []
    kl, proxy = np.array(sorted(frontier), dtype=float).T
    inside = np.append(kl[kl < right], min(right, kl[-1]))
    height = np.interp(inside, kl, proxy)
    top = height.max() + 10 * (np.ptp(height) + 1)
    if kl[-1] >= right:
        axes.fill_between(inside, height, top, color="#f3f5f7", linewidth=0, zorder=0.5)
    axes.plot(inside, height, color=GREEN, linewidth=2, zorder=2)
    axes.annotate(
        "ideal frontier",
        (inside[-1], height[-1]),
        xytext=(-6, 6),
        textcoords="offset points",
        color=GREEN,
        fontweight="bold",
        ha="right",
        va="bottom",
    )
    heights = [height.min(), height.max()]
    if run > kl[-1] > 0:
        further = np.linspace(kl[-1], run, 40)
        extrapolated = proxy[0] + (proxy[-1] - proxy[0]) * np.sqrt(further / kl[-1])
        axes.plot(further, extrapolated, color=GREEN, linewidth=1.4, linestyle=(0, (4, 3)), zorder=2)
        style: dict[str, Any] = {"textcoords": "offset points", "ha": "right", "va": "bottom", "color": GREEN, "fontsize": 9}
        axes.annotate("* extrapolated as \N{SQUARE ROOT}KL", (further[-1], extrapolated[-1]), (-6, 6), **style)
        heights.append(extrapolated[-1])
    return heights


def _draw_best_of_n(axes: Axes, best: list[dict[str, Any]], reward: str, labels: Labels) -> None:
    if not best:
        return
    kl, height = [row["kl"] for row in best], [row[reward] for row in best]
    _draw_errors(axes, kl, height, [known(row, f"{reward}_se") or 0.0 for row in best], labels, colors=ORANGE, zorder=2.6)
    axes.plot(kl, height, color=ORANGE, linewidth=1.5, zorder=2.5)
    axes.plot(kl, height, "o", color="white", markeredgecolor=ORANGE, markeredgewidth=1.6, markersize=6, zorder=3)
    labels.avoid(kl, height)


def _draw_errors(
    axes: Axes, x: list[float], y: list[float], errors: list[float], labels: Labels, upright: bool = True, **style: Any
) -> None:
    """A standard error to both sides of each point, in reward (upright) or in KL."""
    of, across = (y, x) if upright else (x, y)
    ends = [([a - e, a + e], [b, b]) for a, b, e in zip(of, across, errors, strict=True)]
    low, high = [pair[0] for pair, _ in ends], [pair[1] for pair, _ in ends]
    (axes.vlines if upright else axes.hlines)(across, low, high, linewidth=1.3, **style)
    for pair, level in ends:
        labels.avoid(*((level, pair) if upright else (pair, level)))


def _name_best_of_n(best: list[dict[str, Any]], reward: str, labels: Labels) -> None:
    """n of each, and of the last what it is."""
    for row in reversed(best):
        if row["kl"] > 0:
            text = best_of_n_title(best) if row is best[-1] else f"{row['n']}"
            labels.annotate(text, (row["kl"], row[reward]), gap=6, first=(-1, 1), color=ORANGE, path_effects=halo())


def _draw_reference(axes: Axes, reward: float, positive: float | None, labels: Labels) -> None:
    axes.plot([0], [reward], "D", color=INK, markersize=8, markeredgecolor="white", zorder=6, clip_on=False)
    text = "reference" if positive is None else f"reference\n{percent(positive)} positive"
    labels.annotate(text, (0, reward), gap=9, first=(1, -1), color=INK, linespacing=1.35, path_effects=halo())


def _draw_way(axes: Axes, points: list[Point], labels: Labels) -> None:
    kl, reward = [point.kl for point in points], [point.reward for point in points]
    shade = Normalize(points[0].step, max(points[-1].step, points[0].step + 1))
    colours: Any = [STEPS(shade(point.step)) for point in points]
    axes.plot(kl, reward, color="#7fb2d6", linewidth=1.3, zorder=3.5)
    labels.avoid(kl, reward)
    _draw_errors(axes, kl, reward, [point.kl_se for point in points], labels, upright=False, colors=colours, zorder=4)
    _draw_errors(axes, kl, reward, [point.reward_se for point in points], labels, colors=colours, zorder=4)
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
