"""A finished run as its directory describes it: settings, facts, numbers, samples."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from dpo_lab.artifacts.fingerprint import decisive, is_seed
from dpo_lab.compare.at_kl import AT, Crossing, at_kl
from dpo_lab.compare.influence import Influence, influence, read_samples


@dataclass
class FinishedRun:
    """A finished run. `settings` are those that decide its numbers, seeds included; `others` are the rest."""

    path: Path
    settings: dict[str, Any]
    facts: dict[str, Any]
    summary: dict[str, Any]

    metrics: list[dict[str, Any]] = field(default_factory=list)
    """The lines of metrics.jsonl."""
    others: dict[str, Any] = field(default_factory=dict)
    max_gap: float | None = None
    """The widest gap in KL that is interpolated across: see `at_kl`."""
    _influences: dict[str, Influence | None] = field(default_factory=dict, repr=False)

    @cached_property
    def evaluations(self) -> list[dict[str, Any]]:
        """The metrics of each evaluation on the way, in the order of training."""
        return [row for row in self.metrics if row.get("split") == "eval"]

    @cached_property
    def _last_evaluation(self) -> dict[str, Any]:
        """The last evaluation of the weights that were kept: with trainer.policy=best, training went on after the best step."""
        kept = self.summary.get("step", math.inf)
        return next((row for row in reversed(self.evaluations) if row.get("step", 0) <= kept), {})

    @cached_property
    def seeds(self) -> dict[str, Any]:
        return {key: value for key, value in self.settings.items() if is_seed(key)}

    @property
    def is_older(self) -> bool:
        """Whether the run is from before metrics had standard errors, when run.json held one digest for all code."""
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
        """A final number, or that of the last evaluation of the weights that were kept; None if the run has neither.

        'METRIC at KL x' is the metric where the run's path first crosses that KL.
        """
        if AT in metric:
            return self.crossing(metric).value
        value = self.summary.get(metric, self._last_evaluation.get(metric))
        return float(value) if isinstance(value, int | float) and math.isfinite(value) else None

    def crossing(self, metric: str) -> Crossing:
        """The metric of a 'METRIC at KL x' where the run's path crosses that KL."""
        name, _, kl = metric.partition(AT)
        return at_kl(self.evaluations, logged_name(name), float(kl), self.max_gap)

    def error(self, metric: str) -> float | None:
        """The standard error of `value` from the evaluation alone, if the run logged one."""
        return self.crossing(metric).error if AT in metric else self.value(f"{metric}_se")

    def influence(self, metric: str) -> Influence | None:
        """The influence of each held-out prompt on a final number; None where samples.jsonl does not hold it."""
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
        """Whether the number is no plain measurement: interpolated, or a share beyond the frontier's end."""
        if AT in metric:
            return self.crossing(metric).between
        return metric == "ideal_share" and bool(self.summary.get("ideal_extrapolated"))


def logged_name(metric: str) -> str:
    """A metric's name in metrics.jsonl, where 'eval/' is not part of the name but a field."""
    return metric.removeprefix("eval/")


def known_metrics(runs: Sequence[FinishedRun]) -> set[str]:
    """The names of all numbers that any run has, in its summary or its last evaluation."""
    rows = [run.summary for run in runs] + [row for run in runs for row in run.evaluations[-1:]]
    return {name for row in rows for name, value in row.items() if isinstance(value, int | float)}
