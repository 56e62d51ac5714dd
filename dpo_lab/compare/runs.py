"""What run directories say, and the runs that make one row."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from dpo_lab.artifacts.fingerprint import decisive, is_seed
from dpo_lab.compare.influences import Influence, average, influence, minus, read_samples, shared_error
from dpo_lab.compare.intervals import Estimate, SharedError, bounds_of, bounds_of_difference, estimate
from dpo_lab.compare.matched import AT, Crossing, at_kl

Repetition = tuple[tuple[str, Any], ...]
"""The seeds that tell a run from the others of its row."""


@dataclass
class FinishedRun:
    """What a run directory says of itself. `settings` are those that decide its numbers, with seeds; `others` the rest."""

    path: Path
    settings: dict[str, Any]
    facts: dict[str, Any]
    summary: dict[str, Any]

    metrics: list[dict[str, Any]] = field(default_factory=list)
    """The lines of metrics.jsonl."""
    others: dict[str, Any] = field(default_factory=dict)
    max_gap: float | None = None
    """Of KL, between two evaluations: see `at_kl`."""
    _influences: dict[str, Influence | None] = field(default_factory=dict, repr=False)

    @cached_property
    def evaluations(self) -> list[dict[str, Any]]:
        """The metrics of each evaluation on the way, in the order of training."""
        return [row for row in self.metrics if row.get("split") == "eval"]

    @cached_property
    def _last_evaluation(self) -> dict[str, Any]:
        """With trainer.policy=best, those after the best step are of other weights."""
        kept = self.summary.get("step", math.inf)
        return next((row for row in reversed(self.evaluations) if row.get("step", 0) <= kept), {})

    @cached_property
    def seeds(self) -> dict[str, Any]:
        return {key: value for key, value in self.settings.items() if is_seed(key)}

    @property
    def is_older(self) -> bool:
        """Whether it was made before metrics had standard errors: run.json then held one digest for all code."""
        return isinstance(self.facts.get("code"), str)

    @cached_property
    def decided(self) -> str:
        """Equal for repetitions of one experiment."""
        return json.dumps(decisive(self.settings), sort_keys=True, default=str)

    @cached_property
    def evaluated_on(self) -> str:
        """Equal for runs that are judged on the same held-out prompts."""
        return str(sorted((key, str(self.settings[key])) for key in self.settings if key.startswith(("data.", "evaluation."))))

    def value(self, metric: str) -> float | None:
        """A final number, or that of the last evaluation up to the step whose weights were kept; of 'METRIC at KL x' the one
        where the run's path first crosses that KL.

        None if it has none.
        """
        if AT in metric:
            return self.crossing(metric).value
        value = self.summary.get(metric, self._last_evaluation.get(metric))
        return float(value) if isinstance(value, int | float) and math.isfinite(value) else None

    def crossing(self, metric: str) -> Crossing:
        """What there is to say of a 'METRIC at KL x'."""
        name, _, kl = metric.partition(AT)
        return at_kl(self.evaluations, on_the_way(name), float(kl), self.max_gap)

    def error(self, metric: str) -> float | None:
        """The standard error of `value` by the evaluation alone, as the run states it; None where it does not."""
        return self.crossing(metric).error if AT in metric else self.value(f"{metric}_se")

    def influence(self, metric: str) -> Influence | None:
        """What each held-out prompt contributes to a final number, None where samples.jsonl does not say."""
        if metric not in self._influences:
            made_from = self.facts.get("made_from") or {}
            pairs = f"{made_from.get('base')} {made_from.get('pairs')}"
            self._influences[metric] = influence(self.samples, metric, self.summary, pairs)
        return self._influences[metric]

    @cached_property
    def samples(self) -> list[dict[str, Any]]:
        """The lines of samples.jsonl."""
        return read_samples(self.path / "samples.jsonl")

    def is_marked(self, metric: str) -> bool:
        """Whether the number is no plain measurement: between two evaluations, or a share beyond the frontier's end."""
        if AT in metric:
            return self.crossing(metric).between
        return metric == "ideal_share" and bool(self.summary.get("ideal_extrapolated"))


@dataclass
class Group:
    """The runs that differ in their seeds only (or in what they are not grouped by); `label` tells it from the others."""

    settings: dict[str, Any]
    label: str = "all runs"
    runs: list[FinishedRun] = field(default_factory=list)
    _found: dict[str, Estimate] = field(default_factory=dict, repr=False)

    @cached_property
    def by_repetition(self) -> dict[Repetition, list[FinishedRun]]:
        """The runs of each combination of seeds: several where they differ in what is not grouped by."""
        found: dict[Repetition, list[FinishedRun]] = {}
        for run in self.runs:
            seeds = tuple((key, run.seeds[key]) for key in sorted(run.seeds) if key not in self.settings)
            found.setdefault(seeds, []).append(run)
        return found

    def values(self, metric: str) -> list[float]:
        """One number a repetition that has the metric."""
        return [value for value in (_mean(runs, metric) for runs in self.by_repetition.values()) if value is not None]

    def estimate(self, metric: str) -> Estimate:
        """Over seeds, with the evaluation's error."""
        if metric not in self._found:
            repetitions = self.by_repetition.values()
            measured = [some for runs in repetitions if (some := [run for run in runs if run.value(metric) is not None])]
            self._found[metric] = estimate(self.values(metric), _shared(measured, metric), bounds_of(metric))
        return self._found[metric]

    def is_marked(self, metric: str) -> bool:
        return any(run.is_marked(metric) for run in self.runs)

    def paired(self, other: Group, metric: str) -> tuple[list[float], SharedError | None]:
        """Own minus the other's number for each combination of seeds that both have, and what the evaluation adds to its error.

        Seeds that only one of the two has (of candidates, say) are not asked to agree.
        """
        keys = sorted(set.intersection(*({*run.seeds} for run in [*self.runs, *other.runs])) - self.settings.keys())
        own, others = _of_seeds(self, keys, metric), _of_seeds(other, keys, metric)
        pairs = [(own[seeds], others[seeds]) for seeds in own if seeds in others]
        differences = [(_mean(a, metric) or 0.0) - (_mean(b, metric) or 0.0) for a, b in pairs]
        influences = [(_influence(a, metric), _influence(b, metric)) for a, b in pairs]
        if not pairs or any(a is None or b is None for a, b in influences):
            return differences, None
        return differences, shared_error([minus(a, b) for a, b in influences if a is not None and b is not None])

    def difference(self, other: Group, metric: str) -> tuple[list[float], SharedError | None, Estimate]:
        """The paired differences, the evaluation's share of their error, and the estimate of their mean."""
        differences, shared = self.paired(other, metric)
        return differences, shared, estimate(differences, shared, bounds_of_difference(metric))


def _of_seeds(group: Group, keys: Sequence[str], metric: str) -> dict[Repetition, list[FinishedRun]]:
    found: dict[Repetition, list[FinishedRun]] = {}
    for run in group.runs:
        if run.value(metric) is not None:
            found.setdefault(tuple((key, run.seeds.get(key)) for key in keys), []).append(run)
    return found


def _mean(runs: Sequence[FinishedRun], metric: str) -> float | None:
    values = [value for run in runs if (value := run.value(metric)) is not None]
    return statistics.fmean(values) if values else None


def _influence(runs: Sequence[FinishedRun], metric: str) -> Influence | None:
    found = [run.influence(metric) for run in runs if run.value(metric) is not None]
    known = [each for each in found if each is not None]
    return average(known) if known and len(known) == len(found) else None


def _shared(measured: Sequence[Sequence[FinishedRun]], metric: str) -> SharedError | None:
    """The evaluation's error that the repetitions share, by prompts where runs hold them.

    Else no more than the mean of their variances, of those that are judged on the same prompts; None where nothing is known.
    """
    found = [_influence(runs, metric) for runs in measured]
    known = [each for each in found if each is not None]
    if known and len(known) == len(found):
        return shared_error(known)
    errors = [run.error(metric) for runs in measured for run in runs]
    squares = [error**2 for error in errors if error is not None]
    if not squares or len(squares) < len(errors):
        return None
    places = [run.evaluated_on for runs in measured for run in runs]
    n = len(places)
    alike = 1.0 if n == 1 else sum(places.count(place) - 1 for place in places) / (n * (n - 1))
    return SharedError(alike * statistics.fmean(squares), bound=n > 1)


def on_the_way(metric: str) -> str:
    """A metric's name in the lines of metrics.jsonl, which say in a field of their own that they are of held-out prompts."""
    return metric.removeprefix("eval/")


def known_metrics(runs: Sequence[FinishedRun]) -> set[str]:
    """Every number that any run has, at its end or on the way."""
    rows = [run.summary for run in runs] + [row for run in runs for row in run.evaluations[-1:]]
    return {name for row in rows for name, value in row.items() if isinstance(value, int | float)}
