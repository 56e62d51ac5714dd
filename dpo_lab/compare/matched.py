"""Runs at the same distance from the reference: the only fair way to compare rewards that are bought with KL."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any


def at_kl(evaluations: Sequence[Mapping[str, Any]], metric: str, kl: float) -> float | None:
    """The metric where the path of the evaluations first crosses `kl`, between two of them on a straight line.

    None where it never does.
    """
    points = [(row["kl"], row[metric]) for row in evaluations if _finite(row, "kl") and _finite(row, metric)]
    for (kl_before, before), (kl_after, after) in pairwise(points):
        if kl_before <= kl <= kl_after and kl_after > kl_before:
            share = (kl - kl_before) / (kl_after - kl_before)
            return float(before + share * (after - before))
    return None


def mean_path(paths: Sequence[Sequence[Mapping[str, Any]]], metric: str, steps: int = 60) -> tuple[list[float], list[float]]:
    """KLs and the mean over the paths of the metric where each first crosses them, as far as every path goes."""
    paths = [[row for row in path if _finite(row, "kl") and _finite(row, metric)] for path in paths]
    end = min((max((row["kl"] for row in path), default=0.0) for path in paths), default=0.0)
    kls, values = [], []
    for step in range(steps + 1):
        kl = end * step / steps
        crossings = [at_kl(path, metric, kl) for path in paths]
        found = [value for value in crossings if value is not None]
        if found and len(found) == len(paths):
            kls.append(kl)
            values.append(statistics.fmean(found))
    return kls, values


def _finite(row: Mapping[str, Any], key: str) -> bool:
    value = row.get(key)
    return isinstance(value, int | float) and math.isfinite(value)


def paired(values: Mapping[Any, float], baseline: Mapping[Any, float]) -> list[float]:
    """value - baseline, for each of the seeds that both have."""
    return [values[seed] - baseline[seed] for seed in values if seed in baseline]


def paired_difference(values: Mapping[Any, float], baseline: Mapping[Any, float]) -> tuple[float, float | None, int]:
    """Mean and standard error of value - baseline over the seeds that both have, and how many those are.

    No standard error for fewer than two.
    """
    found = paired(values, baseline)
    error = statistics.stdev(found) / len(found) ** 0.5 if len(found) > 1 else None
    return (statistics.fmean(found) if found else float("nan")), error, len(found)
