"""Metrics at a given KL: rewards that cost KL can only be compared fairly at the same distance from the reference."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

AT = " at KL "
"""Between a metric's name and a KL: the metric where a run's path crosses it."""
SMALLEST_BOUND = 0.5


@dataclass
class Crossing:
    """The metric where a path first crosses a KL, and its standard error from the evaluations; None if unknown.

    `between`: interpolated between two evaluations. `gap`: the KLs of two evaluations too far apart to interpolate.
    """

    value: float | None = None
    error: float | None = None
    between: bool = False
    gap: tuple[float, float] | None = None


def at_kl(evaluations: Sequence[Mapping[str, Any]], metric: str, kl: float, max_gap: float | None = None) -> Crossing:
    """The metric where the path of the evaluations first crosses `kl`, interpolated on a line in the square root of KL.

    Rewards rise with that root where they are bought well (Gao et al. 2023, arXiv:2210.10760); a line in KL itself lies below
    the path. Two evaluations further apart than `max_gap` nats (None: half a nat, or half the KL where that is more) give none.
    """
    points = [row for row in evaluations if _finite(row, "kl") and _finite(row, metric)]
    for before, after in pairwise(points):
        low, high = float(before["kl"]), float(after["kl"])
        if not (low <= kl <= high and high > low):
            continue
        for end in (before, after):
            if end["kl"] == kl:
                return Crossing(float(end[metric]), _error(end, metric))
        if high - low > (max(SMALLEST_BOUND, kl / 2) if max_gap is None else max_gap):
            return Crossing(gap=(low, high))
        roots = [math.sqrt(max(each, 0.0)) for each in (low, kl, high)]
        share = (roots[1] - roots[0]) / (roots[2] - roots[0])
        value = before[metric] + share * (after[metric] - before[metric])
        slope = (after[metric] - before[metric]) / (roots[2] - roots[0]) / (2 * roots[1]) if roots[1] else 0.0
        return Crossing(float(value), _error_between(before, after, metric, share, slope), between=True)
    return Crossing()


def _error(row: Mapping[str, Any], metric: str) -> float | None:
    return float(row[f"{metric}_se"]) if _finite(row, f"{metric}_se") else None


def _error_between(
    before: Mapping[str, Any], after: Mapping[str, Any], metric: str, share: float, slope: float
) -> float | None:
    """The evaluations' errors of the metric and, through the slope, of KL.

    An upper bound: both evaluations' errors count as one, and samples with more reward are mostly further away too.
    """
    first, second = _error(before, metric), _error(after, metric)
    if first is None or second is None:
        return None
    place = (1 - share) * (_error(before, "kl") or 0.0) + share * (_error(after, "kl") or 0.0)
    return math.hypot((1 - share) * first + share * second, slope * place)


def mean_path(paths: Sequence[Sequence[Mapping[str, Any]]], metric: str, steps: int = 60) -> tuple[list[float], list[float]]:
    """KLs and the mean over the paths of the metric where each first crosses them, as far as every path goes.

    A line to look at, across gaps of any width.
    """
    paths = [[row for row in path if _finite(row, "kl") and _finite(row, metric)] for path in paths]
    end = min((max((row["kl"] for row in path), default=0.0) for path in paths), default=0.0)
    kls, values = [], []
    for step in range(steps + 1):
        kl = end * step / steps
        crossings = [at_kl(path, metric, kl, math.inf).value for path in paths]
        reached = [value for value in crossings if value is not None]
        if reached and len(reached) == len(paths):
            kls.append(kl)
            values.append(statistics.fmean(reached))
    return kls, values


def _finite(row: Mapping[str, Any], key: str) -> bool:
    value = row.get(key)
    return isinstance(value, int | float) and math.isfinite(value)
