"""The paths of runs through KL and reward, a small picture for each row of the table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dpo_lab.compare.runs import FinishedRun, Group

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = 5
GREY = "#b8c0c8"


def draw_paths(groups: Sequence[Group], metric: str, baseline: Group | None, path: Path, most_kl: float | None = None) -> Path:
    """One panel a row: each run's evaluations as a line of KL against the metric; the baseline's runs in grey behind.

    Axes are shared; `most_kl` is where they end. Returns the path of the picture.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    from dpo_lab.compare.figures.theme import STYLE

    path.parent.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context(STYLE):
        FigureCanvasAgg(composed(groups, metric, baseline, most_kl)).print_png(str(path))
    return path


def composed(groups: Sequence[Group], metric: str, baseline: Group | None, most_kl: float | None, remark: str = "") -> Figure:
    """The picture, not yet drawn; `remark` ends its title."""
    from matplotlib.figure import Figure

    from dpo_lab.compare.figures.theme import BLUE, INK, quiet_grid

    rows = math.ceil(len(groups) / COLUMNS)
    figure = Figure(figsize=(11, 1.75 * rows + 0.9), layout="constrained")
    panels = figure.subplots(rows, COLUMNS, sharex=True, sharey=True, squeeze=False)
    for panel, group in zip(panels.flat, groups, strict=False):
        for runs, colour, width in ((baseline.runs if baseline else [], GREY, 1.0), (group.runs, BLUE, 1.3)):
            for run in runs:
                kl, values = points(run, metric, most_kl)
                panel.plot(kl, values, color=colour, linewidth=width, solid_capstyle="round")
        panel.set_title(group.label.replace("$", r"\$"), loc="left")
        quiet_grid(panel)
    for panel in list(panels.flat)[len(groups) :]:
        panel.set_visible(False)
    for column in range(COLUMNS):  # the lowest panel of a column may stand above an empty place
        shown = [panels[row][column] for row in range(rows) if panels[row][column].get_visible()]
        if shown:
            shown[-1].tick_params(labelbottom=True)
            shown[-1].set_xlabel("KL, nats")
    behind = "" if baseline is None else f"; in grey {baseline.label}".replace("$", r"\$")
    figure.suptitle(f"{metric} against KL, one line a run{behind}{remark}", x=0.01, ha="left", fontsize=11, color=INK)
    return figure


def points(run: FinishedRun, metric: str, most_kl: float | None) -> tuple[list[float], list[float]]:
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
