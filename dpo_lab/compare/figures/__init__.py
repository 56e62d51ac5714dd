"""Comparisons as pictures, each from run directories alone; one that the runs have nothing for is left out."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from dpo_lab.compare.comparison import Comparison
from dpo_lab.compare.figures import curves, displacement, frontier, lengths, parallel, sweep
from dpo_lab.compare.figures.theme import STYLE

PICTURES = {
    "frontier": (frontier.draw, "Reward against KL from the reference"),
    "curves": (curves.draw, "Training curves"),
    "sweep": (sweep.draw, "Final numbers against the swept setting"),
    "parallel": (parallel.draw, "All settings and final numbers as parallel coordinates"),
    "displacement": (displacement.draw, "Change of the log-probability of chosen and rejected completions"),
    "lengths": (lengths.draw, "Reward against length"),
}


def figures(comparison: Comparison) -> Iterator[tuple[str, str, Figure]]:
    """Name, description and figure of each picture that there is something for."""
    with mpl.rc_context(STYLE):
        for name, (draw, description) in PICTURES.items():
            figure = draw(comparison)
            if figure is not None:
                FigureCanvasAgg(figure)
                yield name, description, figure


def save_figures(comparison: Comparison, folder: Path) -> list[Path]:
    """PNG and SVG of each; returns the PNGs."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, _, figure in figures(comparison):
        figure.savefig(folder / f"{name}.svg", metadata={"Date": None})
        figure.savefig(folder / f"{name}.png", dpi=160)
        paths.append(folder / f"{name}.png")
    return paths


def to_svg(figure: Figure) -> str:
    """For a page: on no ground of its own, with text as text."""
    file = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none"}):
        figure.savefig(file, format="svg", metadata={"Date": None}, transparent=True)
    return file.getvalue()
