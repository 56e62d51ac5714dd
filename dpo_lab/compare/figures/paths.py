"""The paths of runs through KL and reward, a small panel for each setting."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from dpo_lab.compare.figures.theme import BLUE, OTHERS, STYLE, heading, small_multiples
from dpo_lab.compare.groups import Group
from dpo_lab.compare.runs import FinishedRun

COLUMNS = 5


def save_paths(groups: Sequence[Group], metric: str, baseline: Group | None, path: Path, most_kl: float | None = None) -> Path:
    """Draw the panels of all settings to a PNG file, up to `most_kl`; returns its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context(STYLE):
        FigureCanvasAgg(draw_paths(groups, metric, baseline, most_kl)).print_png(str(path))
    return path


def draw_paths(groups: Sequence[Group], metric: str, baseline: Group | None, most_kl: float | None, more: str = "") -> Figure:
    """One panel a setting: each run's evaluations as a line of KL against the metric; the baseline's runs in grey behind.

    Axes are shared; `most_kl` is where they end, `more` ends the title.
    """
    rows, columns = math.ceil(len(groups) / COLUMNS), min(COLUMNS, len(groups))
    figure = Figure(figsize=(max(6.5, 2.2 * columns), 1.75 * rows + 1.5))
    behind = "" if baseline is None else f"; in grey {baseline.label}".replace("$", r"\$")
    heading(figure, f"{metric} against KL", f"one line a run{behind}{more}")
    panels = small_multiples(figure, [group.label for group in groups], columns, "KL, nats")
    for panel, group in zip(panels, groups, strict=True):
        for runs, colour, width in ((baseline.runs if baseline else [], OTHERS, 1.0), (group.runs, BLUE, 1.3)):
            for run in runs:
                panel.plot(*points(run, metric, most_kl), color=colour, linewidth=width, solid_capstyle="round")
    return figure


def points(run: FinishedRun, metric: str, most_kl: float | None = None) -> tuple[list[float], list[float]]:
    """KL and metric of each evaluation that has both, up to the first beyond `most_kl`."""
    kl, values = [], []
    for row in run.evaluations:
        if row.get("kl") is None or row.get(metric) is None or not math.isfinite(row["kl"] + row[metric]):
            continue
        if most_kl is not None and row["kl"] > most_kl:
            break
        kl.append(row["kl"])
        values.append(row[metric])
    return kl, values
