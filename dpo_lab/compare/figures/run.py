"""One picture of one run: what it found on the left, how it got there on the right."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from dpo_lab.compare.figures.curves import draw_run_curves, run_curves
from dpo_lab.compare.figures.run_frontier import draw_run_frontier, run_path
from dpo_lab.compare.figures.theme import INK, MUTED, STYLE
from dpo_lab.compare.formatting import known, measured, percent
from dpo_lab.tracking.reading import read_metrics, read_summary


def draw_run(run_dir: Path) -> Path:
    """figure.png of the run, and figure.svg beside it. Raises ValueError if the run has logged nothing that can be drawn."""
    with mpl.rc_context(STYLE):
        figure = compose(run_dir)
        figure.savefig(run_dir / "figure.svg", metadata={"Date": None})
        figure.savefig(run_dir / "figure.png")
    return run_dir / "figure.png"


def compose(run_dir: Path) -> Figure:
    """The picture, not yet drawn, from metrics.jsonl and summary.json; what they lack is left out."""
    rows, summary = read_metrics(run_dir), read_summary(run_dir)
    with_frontier, training = len(run_path(rows, summary)) > 0, run_curves(rows)
    if not with_frontier and not training:
        raise ValueError(f"{run_dir}: nothing to draw; metrics.jsonl and summary.json hold none of the metrics of the picture")
    height = 6.8 if with_frontier or len(training) > 3 else 4.8
    figure = Figure(figsize=(13, height), dpi=130, facecolor="white")
    FigureCanvasAgg(figure)  # which knows how large text is
    title, subtitle = finding(rows, summary), _subtitle(run_dir, rows, summary)
    figure.text(0.04, 1 - 0.37 / height, title, fontsize=18, fontweight="bold", color=INK, va="center")
    figure.text(0.04, 1 - 0.71 / height, subtitle, fontsize=10.5, color=MUTED, va="center")
    top, bottom = 1 - 1.19 / height, 0.65 / height
    if with_frontier:
        grid = figure.add_gridspec(1, 1, left=0.065, right=0.575 if training else 0.975, top=top, bottom=bottom)
        draw_run_frontier(figure.add_subplot(grid[0, 0]), rows, summary)
    if training:
        draw_run_curves(figure, training, left=0.645 if with_frontier else 0.065, top=top, bottom=bottom)
    return figure


def finding(rows: list[dict[str, Any]], summary: Mapping[str, Any]) -> str:
    """What the run shows, in one line, from its final numbers: as much as they allow to say."""
    positive, kl = known(summary, "positive/policy"), known(summary, "kl")
    share = measured(summary, "ideal_share", share=True)
    reward = known(summary, "proxy/policy")
    at = "" if kl is None else f" at {kl:.1f} nats"
    if positive is not None:
        text = f"{measured(summary, 'positive/policy', share=True)} positive{at}"
        if share:
            return f"{text}: {share}{'*' if summary.get('ideal_extrapolated') else ''} of the ideal gain in reward"
        start = measured(summary, "positive/reference", share=True)
        return f"{text}, from {start} for the reference" if start else text
    if reward is not None:
        start = measured(summary, "proxy/reference")
        return f"Reward {measured(summary, 'proxy/policy')}{at}" + (f", from {start} for the reference" if start else "")
    for split, which in (("eval", "held-out"), ("train", "training")):
        accuracies = [row["rewards/accuracies"] for row in rows if row["split"] == split and "rewards/accuracies" in row]
        if accuracies:
            return f"{percent(accuracies[-1])} of the {which} pairs ranked right"
    losses = [row["loss"] for row in rows if "loss" in row]
    return f"Loss {losses[0]:.3f} to {losses[-1]:.3f}" if losses else "What the run logged"


def _subtitle(run_dir: Path, rows: list[dict[str, Any]], summary: Mapping[str, Any]) -> str:
    steps = max((row["step"] for row in rows), default=0)
    win_rate = measured(summary, "win_rate", share=True)
    parts = [
        f"{run_dir.resolve().parent.name} / {run_dir.resolve().name}",
        f"{steps:,} steps" if steps else "",
        f"preferred to the reference {win_rate} of the time" if win_rate else "",
    ]
    return "   ·   ".join(part for part in parts if part).replace("$", r"\$")
