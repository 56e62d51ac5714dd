"""The runs that make one row of the table, and the estimates over them."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from dpo_lab.compare.influence import Influence, average, shared_error, subtract
from dpo_lab.compare.intervals import Estimate, SharedError, bounds_of, bounds_of_difference, estimate
from dpo_lab.compare.runs import FinishedRun

Seeds = tuple[tuple[str, Any], ...]
"""The seeds that tell a run from the others of its row."""


@dataclass
class Group:
    """The runs of one row of the table: they differ in their seeds only, or in settings that the table is not grouped by.

    `settings` and `label` tell the row from the others.
    """

    settings: dict[str, Any]
    label: str = "all runs"
    runs: list[FinishedRun] = field(default_factory=list)
    _estimates: dict[str, Estimate] = field(default_factory=dict, repr=False)

    @cached_property
    def by_seeds(self) -> dict[Seeds, list[FinishedRun]]:
        """The runs of each combination of seeds: several if they differ in settings that the table is not grouped by."""
        by_seeds: dict[Seeds, list[FinishedRun]] = {}
        for run in self.runs:
            seeds = tuple((key, run.seeds[key]) for key in sorted(run.seeds) if key not in self.settings)
            by_seeds.setdefault(seeds, []).append(run)
        return by_seeds

    def values(self, metric: str) -> list[float]:
        """One number for each combination of seeds that has the metric."""
        return [value for value in (_mean(runs, metric) for runs in self.by_seeds.values()) if value is not None]

    def estimate(self, metric: str) -> Estimate:
        """The mean over seeds with its interval, which allows for the evaluation's error."""
        if metric not in self._estimates:
            measured = [[run for run in runs if run.value(metric) is not None] for runs in self.by_seeds.values()]
            shared = _shared([runs for runs in measured if runs], metric)
            self._estimates[metric] = estimate(self.values(metric), shared, bounds_of(metric))
        return self._estimates[metric]

    def is_marked(self, metric: str) -> bool:
        return any(run.is_marked(metric) for run in self.runs)

    def paired(self, other: Group, metric: str) -> tuple[list[float], SharedError | None]:
        """The differences to another row for each combination of seeds that both have, and the evaluation's shared error.

        Seeds that only one of the two has (of candidates, say) need not agree.
        """
        keys = sorted(set.intersection(*({*run.seeds} for run in [*self.runs, *other.runs])) - self.settings.keys())
        own, others = _of_seeds(self, keys, metric), _of_seeds(other, keys, metric)
        pairs = [(own[seeds], others[seeds]) for seeds in own if seeds in others]
        differences = [(_mean(a, metric) or 0.0) - (_mean(b, metric) or 0.0) for a, b in pairs]
        influences = [(_influence(a, metric), _influence(b, metric)) for a, b in pairs]
        if not pairs or any(a is None or b is None for a, b in influences):
            return differences, None
        return differences, shared_error([subtract(a, b) for a, b in influences if a is not None and b is not None])

    def difference(self, other: Group, metric: str) -> tuple[list[float], SharedError | None, Estimate]:
        """The paired differences, the evaluation's share of their error, and the estimate of their mean."""
        differences, shared = self.paired(other, metric)
        return differences, shared, estimate(differences, shared, bounds_of_difference(metric))


def _of_seeds(group: Group, keys: Sequence[str], metric: str) -> dict[Seeds, list[FinishedRun]]:
    runs: dict[Seeds, list[FinishedRun]] = {}
    for run in group.runs:
        if run.value(metric) is not None:
            runs.setdefault(tuple((key, run.seeds.get(key)) for key in keys), []).append(run)
    return runs


def _mean(runs: Sequence[FinishedRun], metric: str) -> float | None:
    values = [value for run in runs if (value := run.value(metric)) is not None]
    return statistics.fmean(values) if values else None


def _influence(runs: Sequence[FinishedRun], metric: str) -> Influence | None:
    influences = [run.influence(metric) for run in runs if run.value(metric) is not None]
    known = [influence for influence in influences if influence is not None]
    return average(known) if known and len(known) == len(influences) else None


def _shared(measured: Sequence[Sequence[FinishedRun]], metric: str) -> SharedError | None:
    """The part of the evaluation's error that all seeds share: exact if the runs hold each prompt's numbers.

    Else a bound, the mean variance of those that were evaluated on the same prompts; None if nothing is known.
    """
    influences = [_influence(runs, metric) for runs in measured]
    known = [influence for influence in influences if influence is not None]
    if known and len(known) == len(influences):
        return shared_error(known)
    errors = [run.error(metric) for runs in measured for run in runs]
    squares = [error**2 for error in errors if error is not None]
    if not squares or len(squares) < len(errors):
        return None
    places = [run.evaluated_on for runs in measured for run in runs]
    n = len(places)
    alike = 1.0 if n == 1 else sum(places.count(place) - 1 for place in places) / (n * (n - 1))
    return SharedError(alike * statistics.fmean(squares), bound=n > 1)
