"""Standard errors of means over prompts, where several items may belong to one prompt."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from dpo_lab.records import CandidateBatch


def prompt_clusters(*batches: CandidateBatch) -> list[Int[Tensor, " _"]]:
    """For each batch the cluster of every row: rows with equal prompt tokens, in whichever batch, have equal numbers."""
    numbers: dict[tuple[int, ...], int] = {}
    clusters = []
    for batch in batches:
        tokens = batch.prompt[batch.prompt_mask].cpu().split(batch.prompt_mask.sum(dim=1).tolist())
        clusters.append(
            torch.tensor([numbers.setdefault(tuple(row.tolist()), len(numbers)) for row in tokens], dtype=torch.long)
        )
    return clusters


def standard_error(
    deviations: Float[Tensor, " n"], clusters: Int[Tensor, " n"], num_clusters: int | None = None
) -> float | None:
    """Cluster-robust standard error of an estimate, from each item's deviation (its share of the error); None for one cluster.

    Items of one cluster (one prompt) may depend on each other, clusters do not: sqrt(G / (G - 1) * sum over clusters of the
    squared sum of their deviations), for G clusters (Liang and Zeger 1986, with the usual factor for few clusters). The
    estimate is of prompts like these, not of these prompts alone. `num_clusters` replaces G.
    """
    names, place = clusters.cpu().unique(return_inverse=True)
    count = len(names) if num_clusters is None else num_clusters
    if count < 2:
        return None
    sums = torch.zeros(len(names), dtype=torch.float64).index_add_(0, place, deviations.cpu().double())
    return math.sqrt(count / (count - 1) * float((sums**2).sum()))


def deviations(
    values: Shaped[Tensor, "*s b"], weights: Shaped[Tensor, "*s b"] | None = None
) -> tuple[float, Float[Tensor, " b"]]:
    """The weighted mean, and each of b prompts' deviation: its share of the mean's error (linearised ratio of two sums)."""
    values = values.cpu().double()
    weights = torch.ones_like(values) if weights is None else weights.cpu().double()
    total = weights.sum()
    mean = (values * weights).sum() / total
    return float(mean), (weights * (values - mean) / total).reshape(-1, values.shape[-1]).sum(dim=0)


def mean_error(
    values: Shaped[Tensor, "*s b"], clusters: Int[Tensor, " b"], weights: Shaped[Tensor, "*s b"] | None = None
) -> float | None:
    """Standard error of the (weighted) mean of several values of each of b prompts; for one value each, s / sqrt(b)."""
    return standard_error(deviations(values, weights)[1], clusters)


def with_errors(values: Mapping[str, float], errors: Mapping[str, float | None]) -> dict[str, float]:
    """The values, each followed by its standard error as NAME_se where it has one."""
    metrics = {}
    for name, value in values.items():
        metrics[name] = value
        error = errors.get(name)
        if error is not None:
            metrics[f"{name}_se"] = error
    return metrics
