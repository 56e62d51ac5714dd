"""Reward against KL of a comparison: every evaluation of every run, each setting's path, best-of-n and the ideal."""

from __future__ import annotations

import statistics

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from dpo_lab.compare.at_kl import mean_path
from dpo_lab.compare.comparison import Comparison
from dpo_lab.compare.figures.labels import Labels
from dpo_lab.compare.figures.looks import FEW, MANY, best, looks, reward_of, shown_of
from dpo_lab.compare.figures.paths import draw_paths, points
from dpo_lab.compare.figures.plane import X_LABEL, best_of_n, draw_best_of_n, draw_ideal, draw_reference, name_best_of_n
from dpo_lab.compare.figures.theme import heading, name_ends, quiet_grid
from dpo_lab.compare.formatting import known

IDEAL = "#7b8794"


def draw(comparison: Comparison) -> Figure | None:
    """One plane for few settings, a panel for each of many."""
    reward = reward_of(comparison)
    if reward is None or not any(points(run, reward)[0] for run in comparison.runs):
        return None
    return _one_plane(comparison, reward) if len(comparison.groups) <= FEW else _a_panel_each(comparison, reward)


def _one_plane(comparison: Comparison, reward: str) -> Figure:
    scorer, summaries = reward.partition("/")[0], [run.summary for run in comparison.runs]
    figure = Figure(figsize=(9, 5.6))
    FigureCanvasAgg(figure)  # which knows how large text is
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
            axes.plot(*points(run, reward), "o", color=look.colour, alpha=0.22, markersize=4, markeredgewidth=0)
        kl, values = mean_path([run.evaluations for run in look.group.runs], reward)
        if kl:
            axes.plot(kl, values, color=look.colour, linewidth=2.2, solid_capstyle="round", zorder=3)
            ends.append((kl[-1], values[-1], look.label or "", look.colour))
    axes.set_xlim(left=0)
    axes.autoscale(False)
    with_frontier = [summary for summary in summaries if summary.get("ideal_frontier")]
    if scorer == "proxy" and with_frontier:  # the first run's: all have the scorer that labelled the pairs
        draw_ideal(axes, with_frontier[0], axes.get_xlim()[1], colour=IDEAL)
    labels, bests = Labels(axes), best_of_n(summaries, scorer)
    for line in axes.lines:
        if line.get_linestyle() == "-":
            labels.avoid(line.get_xdata(), line.get_ydata())
    draw_best_of_n(axes, bests, labels)
    references = [value for summary in summaries if (value := known(summary, f"{scorer}/reference")) is not None]
    if references:
        draw_reference(axes, statistics.fmean(references), labels)
    name_best_of_n(bests, summaries, labels)
    axes.set_xlabel(X_LABEL)
    name_ends(axes, ends, gap=0.05)
    return figure


def _a_panel_each(comparison: Comparison, reward: str) -> Figure:
    figure = draw_paths(best(comparison, MANY), reward, comparison.baseline, _usual_kl(comparison), shown_of(comparison))
    shown = [axes for axes in figure.axes if axes.get_visible()]
    shown[0].axis()  # asked for, the limits that all panels share are computed: from here on they stay
    bests = best_of_n([run.summary for run in comparison.runs], reward.partition("/")[0])
    for axes in shown:
        axes.autoscale(False)
        draw_best_of_n(axes, bests)
    if bests:
        heading_of = figure.texts[1]
        heading_of.set_text(f"{heading_of.get_text()}; dashed: best of n, up to {bests[-1].n}")
    return figure


def _usual_kl(comparison: Comparison) -> float | None:
    """Where the axis ends if a few runs went much further than the others, so that those can be seen."""
    ends = sorted(kl for run in comparison.runs if (kl := run.value("kl")) is not None)
    usual = ends[int(0.9 * (len(ends) - 1))]
    return 1.3 * usual if ends[-1] > 2 * usual > 0 else None
