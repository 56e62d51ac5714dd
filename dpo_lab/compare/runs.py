"""What run directories say, and which runs belong together."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from dpo_lab.compare.matched import at_kl
from dpo_lab.compare.settings import differing, telling
from dpo_lab.registry import suggestion


@dataclass
class FinishedRun:
    """What a run directory says of itself."""

    path: Path
    settings: dict[str, Any]
    facts: dict[str, Any]
    summary: dict[str, Any]

    metrics: list[dict[str, Any]] = field(default_factory=list)
    """The lines of metrics.jsonl."""

    @cached_property
    def evaluations(self) -> list[dict[str, Any]]:
        """The metrics of each evaluation on the way, in the order of training."""
        return [row for row in self.metrics if row.get("split") == "eval"]

    def value(self, metric: str) -> float | None:
        """A final number, or the last evaluation's; of 'METRIC at KL x' the one where the run's path first crosses that KL.

        None if it has none.
        """
        name, found, kl = metric.partition(" at KL ")
        if found:
            return at_kl(self.evaluations, name, float(kl))
        value = self.summary.get(metric, self.evaluations[-1].get(metric) if self.evaluations else None)
        return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


@dataclass
class Group:
    """The runs that differ in their seed only (or in what they are not grouped by); `label` tells it from the others."""

    settings: dict[str, Any]
    label: str = "all runs"
    runs: list[FinishedRun] = field(default_factory=list)
    _by_seed: dict[str, dict[Any, float]] = field(default_factory=dict, repr=False)

    def values(self, metric: str) -> list[float]:
        """One number a seed."""
        return list(self.by_seed(metric).values())

    @property
    def seeds(self) -> set[Any]:
        return {run.facts.get("seed") for run in self.runs}

    def by_seed(self, metric: str) -> dict[Any, float]:
        """The metric for each seed: the mean over its runs, where they differ in what is not grouped by."""
        if metric not in self._by_seed:
            found: dict[Any, list[float]] = {}
            for run in self.runs:
                if (value := run.value(metric)) is not None:
                    found.setdefault(run.facts.get("seed"), []).append(value)
            self._by_seed[metric] = {seed: statistics.fmean(values) for seed, values in found.items()}
        return self._by_seed[metric]


def grouped(runs: Sequence[FinishedRun], by: Sequence[str] = ()) -> list[Group]:
    """Runs that agree in the settings `by`; without any, in all their settings but the seed.

    The settings of a group are those that tell it from the others; of one that is the same everywhere, or moves along with
    these, nothing is said. Raises ValueError for a setting that no run has.
    """
    keys = {key for run in runs for key in run.settings}
    for key in by:
        if key not in keys:
            raise ValueError(f"--by: no run has a setting '{key}'.{suggestion(key, keys)}")
    settings = [run.settings for run in runs]
    shown = list(by) or telling(settings, differing(settings))
    groups: dict[str, Group] = {}
    for run in runs:
        own = {key: run.settings.get(key) for key in shown}
        label = " ".join(str(value) for value in own.values()) or "all runs"
        groups.setdefault(json.dumps(own), Group(own, label)).runs.append(run)
    return sorted(groups.values(), key=lambda group: [_sortable(value) for value in group.settings.values()])


def known_metrics(runs: Sequence[FinishedRun]) -> set[str]:
    """Every number that any run has, at its end or on the way."""
    rows = [run.summary for run in runs] + [row for run in runs for row in run.evaluations[-1:]]
    return {name for row in rows for name, value in row.items() if isinstance(value, int | float)}


def _sortable(value: Any) -> tuple[int, float, str]:
    return (0, float(value), "") if isinstance(value, int | float) else (1, 0.0, str(value))
