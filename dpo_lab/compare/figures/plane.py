"""The plane of reward against KL: what best-of-n of the reference reaches there, and what no policy can exceed."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from dpo_lab.compare.figures.labels import Labels
from dpo_lab.compare.figures.theme import GREEN, INK, ORANGE, halo
from dpo_lab.compare.formatting import known, percent

X_LABEL = "KL(policy || reference), nats per completion"
Row = Mapping[str, Any]


@dataclass
class BestOfN:
    """Reward and KL of the best of n samples of the reference; the error is the reward's, of one run (else 0)."""

    n: int
    kl: float
    reward: float
    error: float


def best_of_n(summaries: Sequence[Row], scorer: str) -> list[BestOfN]:
    """The mean over runs, by KL: they differ only in the samples that it was estimated from."""
    rows: dict[int, list[Row]] = {}
    for row in (row for summary in summaries for row in summary.get("best_of_n") or []):
        if known(row, "kl") is not None and known(row, scorer) is not None:
            rows.setdefault(row["n"], []).append(row)
    means = [
        BestOfN(
            n,
            statistics.fmean(row["kl"] for row in alike),
            statistics.fmean(row[scorer] for row in alike),
            (known(alike[0], f"{scorer}_se") or 0.0) if len(alike) == 1 else 0.0,
        )
        for n, alike in rows.items()
    ]
    return sorted(means, key=lambda best: best.kl)


def draw_best_of_n(axes: Axes, bests: Sequence[BestOfN], labels: Labels | None = None) -> None:
    """A dashed line, with a diamond and a standard error for each n unless it only stands behind (without `labels`)."""
    kl, reward = [best.kl for best in bests], [best.reward for best in bests]
    axes.plot(kl, reward, color=ORANGE, linewidth=1.5, linestyle=(0, (4, 2)), zorder=3.2)
    if labels is not None:
        draw_errors(axes, kl, reward, [best.error for best in bests], labels, colors=ORANGE, zorder=2.6)
        axes.plot(kl, reward, "D", color="white", markeredgecolor=ORANGE, markeredgewidth=1.5, markersize=5.5, zorder=4)
        labels.avoid(kl, reward)


def name_best_of_n(bests: Sequence[BestOfN], summaries: Sequence[Row], labels: Labels) -> None:
    """n beside each diamond, and at the last what it is; its KL is known to be less than the bound only where rewards tie."""
    rows = [row for summary in summaries for row in summary.get("best_of_n") or [] if known(row, "kl") is not None]
    less = all("kl_se" in row and row["kl"] < 0.99 * row["kl_bound"] for row in rows if row["n"] > 1)
    title = f"best of {bests[-1].n if bests else 0}" + ("" if less else "\n(KL at most)")
    for best in reversed(bests):
        if best.kl > 0:
            text = title if best is bests[-1] else str(best.n)
            labels.annotate(text, (best.kl, best.reward), gap=6, first=(-1, 1), color=ORANGE, path_effects=halo())


def draw_ideal(axes: Axes, summary: Row, right: float, run_kl: float = 0.0, colour: str = GREEN) -> list[float]:
    """The ideal frontier up to `right`, and dashed on to the run's KL where it ends before; returns the heights it covers."""
    rows = summary.get("ideal_frontier") or []
    frontier = [(row["kl"], row["proxy"]) for row in rows if None not in (row.get("kl"), row.get("proxy"))]
    if len(frontier) < 2:
        return []
    kl, proxy = np.array(sorted(frontier), dtype=float).T
    inside = np.append(kl[kl < right], min(right, kl[-1]))
    height = np.interp(inside, kl, proxy)
    if kl[-1] >= right:
        axes.fill_between(inside, height, height.max() + 10 * (np.ptp(height) + 1), color="#f3f5f7", linewidth=0, zorder=0.5)
    axes.plot(inside, height, color=colour, linewidth=2, zorder=2)
    style: dict[str, Any] = {"textcoords": "offset points", "ha": "right", "va": "bottom", "color": colour}
    axes.annotate("ideal frontier", (inside[-1], height[-1]), (-6, 6), fontweight="bold", **style)
    if not run_kl > kl[-1] > 0:
        return [height.min(), height.max()]
    further = np.linspace(kl[-1], run_kl, 40)
    extrapolated = proxy[0] + (proxy[-1] - proxy[0]) * np.sqrt(further / kl[-1])
    axes.plot(further, extrapolated, color=colour, linewidth=1.4, linestyle=(0, (4, 3)), zorder=2)
    axes.annotate("* extrapolated as \N{SQUARE ROOT}KL", (further[-1], extrapolated[-1]), (-6, 6), fontsize=9, **style)
    return [height.min(), height.max(), extrapolated[-1]]


def draw_reference(axes: Axes, reward: float, labels: Labels, positive: float | None = None) -> None:
    """The reference policy, at KL 0, with its share of positive completions where that is known."""
    axes.plot([0], [reward], "s", color=INK, markersize=8, markeredgecolor="white", zorder=6, clip_on=False)
    text = "reference" if positive is None else f"reference\n{percent(positive)} positive"
    labels.annotate(text, (0, reward), gap=9, first=(1, -1), color=INK, linespacing=1.35, path_effects=halo())


def draw_errors(
    axes: Axes,
    x: Sequence[float],
    y: Sequence[float],
    errors: Sequence[float],
    labels: Labels,
    upright: bool = True,
    **style: Any,
) -> None:
    """A standard error to both sides of each point, in reward (upright) or in KL."""
    along, across = (y, x) if upright else (x, y)
    low, high = [a - e for a, e in zip(along, errors, strict=True)], [a + e for a, e in zip(along, errors, strict=True)]
    (axes.vlines if upright else axes.hlines)(across, low, high, linewidth=1.3, **style)
    for level, ends in zip(across, zip(low, high, strict=True), strict=True):
        labels.avoid(*(((level, level), ends) if upright else (ends, (level, level))))
