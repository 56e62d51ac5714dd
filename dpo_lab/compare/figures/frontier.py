"""Reward against KL: every evaluation of every run, each setting's path, and what best-of-n and the ideal have there."""

from __future__ import annotations

import statistics
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dpo_lab.compare.comparison import Comparison
from dpo_lab.compare.figure import composed, points
from dpo_lab.compare.figures.looks import FEW, MANY, best, heading, looks, name_ends, reward_of, shown_of
from dpo_lab.compare.figures.theme import INK, MUTED, ORANGE, best_of_n_title, halo, quiet_grid
from dpo_lab.compare.matched import mean_path

IDEAL = "#7b8794"


def draw(comparison: Comparison) -> Figure | None:
    """One plane for few settings, a panel for each of many."""
    reward = reward_of(comparison)
    if reward is None or not any(points(run, reward, None)[0] for run in comparison.runs):
        return None
    if len(comparison.groups) > FEW:
        panels = composed(best(comparison, MANY), reward, comparison.baseline, _usual_kl(comparison), shown_of(comparison))
        shown = [axes for axes in panels.axes if axes.get_visible()]
        shown[0].axis()  # asked for, the limits that all panels share are computed: from here on they stay
        for place, axes in enumerate(shown):
            axes.autoscale(False)
            _draw_best_of_n(axes, comparison, reward, name=place == 0)
        return panels
    figure = Figure(figsize=(9, 5.6))
    axes = figure.add_axes((0.075, 0.1, 0.76, 0.76))
    heading(
        figure,
        f"{reward} against distance from the reference",
        "points: evaluations of all runs; lines: mean over seeds as far as all go, interpolated in \N{SQUARE ROOT}KL",
    )
    quiet_grid(axes)
    ends = []
    for look in looks(comparison):
        for run in look.group.runs:
            axes.plot(*points(run, reward, None), "o", color=look.colour, alpha=0.22, markersize=4, markeredgewidth=0)
        kl, values = mean_path([run.evaluations for run in look.group.runs], reward)
        if kl:
            axes.plot(kl, values, color=look.colour, linewidth=2.2, solid_capstyle="round", zorder=3)
            ends.append((kl[-1], values[-1], look.label or "", look.colour))
    axes.set_xlim(left=0)
    axes.autoscale(False)
    _draw_ideal(axes, comparison, reward)
    _draw_best_of_n(axes, comparison, reward, name=True)
    axes.set_xlabel("KL(policy || reference), nats per completion")
    name_ends(axes, ends, gap=0.05)
    return figure


def _usual_kl(comparison: Comparison) -> float | None:
    """Where the axis ends if a few runs went much further than the others, so that those can be seen."""
    ends = sorted(kl for run in comparison.runs if (kl := run.value("kl")) is not None)
    usual = ends[int(0.9 * (len(ends) - 1))]
    return 1.3 * usual if ends[-1] > 2 * usual > 0 else None


def _draw_best_of_n(axes: Axes, comparison: Comparison, reward: str, name: bool) -> None:
    """Mean over the runs: they differ only in the samples that it was estimated from."""
    found: dict[int, list[tuple[float, float]]] = {}
    for run in comparison.runs:
        for row in run.summary.get("best_of_n") or []:
            height = row.get(reward.partition("/")[0])
            if height is not None and row.get("kl") is not None:
                found.setdefault(row["n"], []).append((row["kl"], height))
    if not found:
        return
    kl, heights = zip(*((statistics.fmean(x) for x in zip(*found[n], strict=True)) for n in sorted(found)), strict=True)
    axes.plot(kl, heights, "--", color=ORANGE, linewidth=1.4, zorder=4)
    if not name:
        return
    axes.plot(kl, heights, "D", color="white", markeredgecolor=ORANGE, markeredgewidth=1.5, markersize=5.5, zorder=4)
    title = best_of_n_title([row for run in comparison.runs for row in run.summary.get("best_of_n") or []])
    for n, x, y in zip(sorted(found), kl, heights, strict=True):
        text = title if n == max(found) else str(n)
        axes.annotate(
            text, (x, y), (7, -4), textcoords="offset points", color=ORANGE, va="top", fontsize=9, path_effects=halo()
        )


def _draw_ideal(axes: Axes, comparison: Comparison, reward: str) -> None:
    """The first run's: the most reward that any policy can have at a KL, by the scorer that labelled the pairs."""
    rows: list[dict[str, Any]] = next(
        (run.summary["ideal_frontier"] for run in comparison.runs if run.summary.get("ideal_frontier")), []
    )
    rows = [row for row in rows if None not in (row.get("kl"), row.get("proxy"))]
    if reward != "proxy/policy" or len(rows) < 3:
        return
    axes.plot([row["kl"] for row in rows], [row["proxy"] for row in rows], color=IDEAL, linewidth=1.2, linestyle=":")
    axes.annotate(
        "ideal",
        (rows[-1]["kl"], rows[-1]["proxy"]),
        (0, 4),
        textcoords="offset points",
        color=MUTED,
        va="bottom",
        fontsize=9,
        path_effects=halo(),
    )
    axes.plot([rows[0]["kl"]], [rows[0]["proxy"]], "s", color=INK, markersize=6, clip_on=False, zorder=5)
