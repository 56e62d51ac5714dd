"""The influence of each held-out prompt on a run's number: it gives the evaluation's error, and how much of it runs share."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

from dpo_lab.compare.intervals import SharedError

Row = Mapping[str, Any]
Influence = dict[str, float]
"""By prompt (or other source of error), how far it moves the number; the squares add up to the number's variance."""

ROUNDING = 1e-4
"""How far the mean of the prompts' values may be from the run's number: single precision, summed in another order."""
FRONTIER = "the ideal frontier of "

VALUES: dict[str, Callable[[Row], Any]] = {
    "positive/policy": lambda row: float(row["reward/policy"] > 0),
    "positive/reference": lambda row: float(row["reward/reference"] > 0),
    "win_rate": lambda row: (
        float(row["reward/policy"] > row["reward/reference"]) + 0.5 * (row["reward/policy"] == row["reward/reference"])
    ),
}
"""Metrics that follow from a line of samples.jsonl but are not written there under their name."""


def read_samples(path: Path) -> list[dict[str, Any]]:
    """The lines of samples.jsonl; none at all if one is torn or no sample, because a part of them has another mean."""
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError):
        return []
    return rows if all(isinstance(row, dict) and isinstance(row.get("prompt"), str) for row in rows) else []


def influence(rows: Sequence[Row], metric: str, summary: Mapping[str, Any], pairs: str = "") -> Influence | None:
    """The influence on a metric in summary.json, with prompts as clusters; None if the lines do not hold its values.

    `pairs` names the candidates whose scores gave the ideal frontier.
    """
    if metric == "ideal_share":
        return _ideal_share_influence(rows, summary, pairs)
    values = _values(rows, metric)
    mean = summary.get(metric)
    if values is None or not isinstance(mean, int | float):
        return None
    own = math.fsum(values) / len(values)
    if abs(own - mean) > ROUNDING * max(1.0, abs(mean)):
        return None
    return _clustered(rows, [value - own for value in values])


def _values(rows: Sequence[Row], metric: str) -> list[float] | None:
    try:
        values = [row[metric] if metric in row else VALUES[metric](row) for row in rows]
    except (KeyError, TypeError):
        return None
    numbers = all(isinstance(value, int | float) and math.isfinite(value) for value in values)
    return [float(value) for value in values] if values and numbers else None


def _clustered(rows: Sequence[Row], deviations: Sequence[float]) -> Influence | None:
    """Each prompt's part in the deviation of the mean; a prompt that occurs twice is one cluster. None for a single prompt."""
    totals: dict[str, float] = {}
    for row, deviation in zip(rows, deviations, strict=True):
        totals[row["prompt"]] = totals.get(row["prompt"], 0.0) + deviation
    if len(totals) < 2:
        return None
    scale = math.sqrt(len(totals) / (len(totals) - 1)) / len(rows)
    return {prompt: scale * total for prompt, total in totals.items()}


def _ideal_share_influence(rows: Sequence[Row], summary: Mapping[str, Any], pairs: str) -> Influence | None:
    """To first order, (gain in reward) / (frontier's gain at the run's KL) moves with both rewards and with KL.

    What `ideal_share_se` holds beside this is the frontier's own error; runs of the same candidates share it.
    """
    columns = [_values(rows, name) for name in ("proxy/policy", "proxy/reference", "kl")]
    ends = [summary.get(name) for name in ("proxy/policy", "proxy/reference", "kl", "ideal_share")]
    frontier = summary.get("ideal_frontier") or []
    if any(column is None for column in columns) or not all(isinstance(end, int | float) for end in ends) or len(frontier) < 2:
        return None
    policy, reference, kl, share = (float(end) for end in ends if isinstance(end, int | float))
    if not share or policy == reference:
        return None
    gain, slope = (policy - reference) / share, _slope(frontier, kl)
    means = [math.fsum(column) / len(column) for column in columns if column is not None]
    deviations = [
        ((ours - means[0]) - (theirs - means[1]) - share * slope * (far - means[2])) / gain
        for ours, theirs, far in zip(*columns, strict=True)
    ]
    influence = _clustered(rows, deviations)
    if influence is not None and isinstance(error := summary.get("ideal_share_se"), int | float):
        rest = error**2 - variance(influence)
        influence[FRONTIER + pairs] = math.sqrt(max(rest, 0.0))
    return influence


def _slope(frontier: Sequence[Mapping[str, float]], kl: float) -> float:
    """The slope of the frontier at a KL: between its points theirs, beyond its end that of the square root."""
    for low, high in pairwise(frontier):
        if low["kl"] <= kl <= high["kl"] and high["kl"] > low["kl"]:
            return float((high["proxy"] - low["proxy"]) / (high["kl"] - low["kl"]))
    start, end = frontier[0], frontier[-1]
    return float((end["proxy"] - start["proxy"]) / (2 * math.sqrt(end["kl"] * kl))) if kl > 0 < end["kl"] else 0.0


def variance(influence: Influence) -> float:
    """The variance of the number that comes from the evaluation."""
    return math.fsum(part**2 for part in influence.values())


def subtract(left: Influence, right: Influence) -> Influence:
    """The influence on the difference of two numbers."""
    return {key: left.get(key, 0.0) - right.get(key, 0.0) for key in left.keys() | right.keys()}


def average(influences: Sequence[Influence]) -> Influence:
    """The influence on the mean of several numbers."""
    keys = set().union(*influences)
    return {key: math.fsum(part.get(key, 0.0) for part in influences) / len(influences) for key in keys}


def shared_error(influences: Sequence[Influence]) -> SharedError:
    """The mean covariance of two runs' evaluation errors, which does not shrink with more seeds; of one run all its variance.

    With sd^2 / n over seeds, which holds each run's own part, it makes the variance of the mean.
    """
    freedom = float(max(len(set().union(*influences)) - 1, 1))
    if len(influences) == 1:
        return SharedError(variance(influences[0]), freedom)
    covariances = [_covariance(left, right) for left, right in combinations(influences, 2)]
    return SharedError(max(math.fsum(covariances) / len(covariances), 0.0), freedom)


def _covariance(left: Influence, right: Influence) -> float:
    return math.fsum(part * right[key] for key, part in left.items() if key in right)
