"""The measurements as a picture: for each case, how long a pair takes and how much memory a step takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dpo_lab.compare.figures.theme import BLUE, INK, MUTED, STYLE

OURS = ("cached", "live", "compiled")
OTHERS = "#aab4bf"


def draw(rows: Sequence[Mapping[str, Any]], title: str, path: Path) -> Path:
    """Bars of each contender, a panel for each case; written as PNG and SVG. The path of the PNG."""
    cases = list(dict.fromkeys(row["case"] for row in rows))
    with_memory = any(row["memory_mb"] is not None for row in rows)
    columns = 2 if with_memory else 1
    counts = [sum(row["case"] == case for row in rows) for case in cases]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(5.4 * columns, 0.9 + sum(0.75 + 0.24 * count for count in counts)), layout="constrained")
        grid = figure.subplots(len(cases), columns, squeeze=False, height_ratios=[count + 1.5 for count in counts])
        for line, case in zip(grid, cases, strict=True):
            of_case = [row for row in rows if row["case"] == case]
            _bars(line[0], of_case, [1000 * row["s_per_pair"] for row in of_case], "ms a pair", names=True)
            line[0].set_title(described(of_case[0]))
            if with_memory:
                _bars(line[1], of_case, [row["memory_mb"] or 0.0 for row in of_case], "MB above the models", names=False)
        figure.suptitle(title, x=0.01, ha="left", color=INK, fontsize=12, fontweight="bold")
        for kind in ("png", "svg"):
            figure.savefig(path.with_suffix(f".{kind}"), dpi=150, metadata={"Date": None} if kind == "svg" else None)
    return path.with_suffix(".png")


def described(row: Mapping[str, Any]) -> str:
    """A case in words."""
    return (
        f"{row['case']}: prompts of {row['prompt']}, completions of {row['completion']} tokens, "
        f"vocabulary {row['vocab']:,}, {row['pairs']} pairs"
    )


def _bars(axes: Axes, rows: Sequence[Mapping[str, Any]], values: Sequence[float], unit: str, names: bool) -> None:
    colours = [BLUE if row["contender"] in OURS else OTHERS for row in rows]
    places = range(len(rows), 0, -1)
    axes.barh(places, values, height=0.72, color=colours)
    axes.set_yticks(places, [row["contender"].replace("_", " ") for row in rows] if names else ["" for _ in rows])
    for place, value in zip(places, values, strict=True):
        axes.annotate(f"{value:,.0f}" if value >= 10 else f"{value:.2g}", (value, place), (4, 0), va="center", fontsize=8.5,
                      textcoords="offset points", color=INK)  # fmt: skip
    axes.set_xlim(0, 1.14 * max([*values, 1e-9]))
    axes.set_xticks([])
    axes.spines["bottom"].set_visible(False)
    axes.set_xlabel(unit, color=MUTED, fontsize=8.5, loc="left")
