"""The style of every figure: light, few lines, colours of Okabe and Ito (2008) that the colour-blind tell apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

INK = "#1f2933"
MUTED = "#5f6c7b"
OTHERS = "#c3cad2"  # what stands behind
BLUE = "#0072b2"
ORANGE = "#d98200"
GREEN = "#00825e"
VERMILION = "#d55e00"

ROUND = [1, 2, 2.5, 5, 10]  # ticks at round numbers only

STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": "#9aa5b1",
    "axes.labelcolor": MUTED,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlecolor": INK,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "xtick.major.size": 3,
    "ytick.major.size": 0,
    "svg.hashsalt": "dpo_lab",  # the same run gives the same file
}


def quiet_grid(axes: Axes) -> None:
    """Faint horizontal lines, behind everything."""
    axes.grid(axis="y", color="#e8ebef", linewidth=0.8)
    axes.set_axisbelow(True)


def halo() -> list[withStroke]:
    """Path effects that keep a label readable where a line passes behind it."""
    return [withStroke(linewidth=3, foreground="white")]


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


def small_multiples(figure: Figure, titles: Sequence[str], columns: int, xlabel: str) -> list[Axes]:
    """A panel for each title, all on the same scales, below a heading; the lowest of each column names its x axis."""
    height = figure.get_figheight()
    rows = -(-len(titles) // columns)
    grid = figure.add_gridspec(rows, columns, left=0.07, right=0.98, bottom=0.5 / height, top=1 - 1.0 / height)
    grid.update(hspace=0.42, wspace=0.1)
    panels = list(grid.subplots(sharex=True, sharey=True, squeeze=False).flat)
    for place, (panel, title) in enumerate(zip(panels, titles, strict=False)):
        panel.set_title(title.replace("$", r"\$"), loc="left", pad=4)
        quiet_grid(panel)
        if place + columns >= len(titles):
            panel.tick_params(labelbottom=True)
            panel.set_xlabel(xlabel)
    for panel in panels[len(titles) :]:
        panel.set_visible(False)
    return panels[: len(titles)]
