"""What run directories say, and which runs belong together."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from dpo_lab.compare.matched import at_kl
from dpo_lab.registry import suggestion
from dpo_lab.tracking import read_metrics, read_run, read_summary
from dpo_lab.tracking.tensorboard import flatten

IRRELEVANT = ("seed", "runs", "store", "name", "compute.threads", "compute.layout", "compute.head_portion")


@dataclass
class FinishedRun:
    """What a run directory says of itself."""

    path: Path
    settings: dict[str, Any]
    facts: dict[str, Any]
    summary: dict[str, Any]

    @cached_property
    def evaluations(self) -> list[dict[str, Any]]:
        """The metrics of each evaluation on the way, in the order of training."""
        return [row for row in read_metrics(self.path) if row.get("split") == "eval"]

    def value(self, metric: str) -> float | None:
        """A final number; of 'METRIC at KL x' the one where the run's path first crosses that KL, None if it never does."""
        name, found, kl = metric.partition(" at KL ")
        if found:
            return at_kl(self.evaluations, name, float(kl))
        value = self.summary.get(metric)
        return float(value) if isinstance(value, int | float) else None


@dataclass
class Group:
    """The runs that differ in their seed only (or in what they are not grouped by)."""

    settings: dict[str, Any]
    runs: list[FinishedRun] = field(default_factory=list)

    def values(self, metric: str) -> list[float]:
        return [value for run in self.runs if (value := run.value(metric)) is not None]

    @property
    def seeds(self) -> set[Any]:
        return {run.facts.get("seed") for run in self.runs}

    def by_seed(self, metric: str) -> dict[Any, float]:
        """The metric for each seed: the mean over its runs, where they differ in what is not grouped by."""
        found: dict[Any, list[float]] = {}
        for run in self.runs:
            if (value := run.value(metric)) is not None:
                found.setdefault(run.facts.get("seed"), []).append(value)
        return {seed: statistics.fmean(values) for seed, values in found.items()}


def find_runs(paths: Sequence[Path]) -> tuple[list[FinishedRun], list[str]]:
    """The finished runs at or below the given paths, and a line for each that is not finished."""
    files = sorted({file for path in paths for file in [path / "run.json", *path.rglob("run.json")] if file.is_file()})
    runs, others = [], []
    for file in files:
        folder, facts = file.parent, read_run(file.parent)
        if facts.get("status") != "done" or not (folder / "config.yaml").is_file():
            others.append(f"{folder}: {facts.get('status', 'unreadable')}, left out")
            continue
        config: Any = OmegaConf.to_container(OmegaConf.load(folder / "config.yaml"))
        settings = {key: value for key, value in flatten(config).items() if key not in IRRELEVANT}
        runs.append(FinishedRun(folder, settings, facts, read_summary(folder)))
    return runs, others


def grouped(runs: Sequence[FinishedRun], by: Sequence[str] = ()) -> list[Group]:
    """Runs that agree in the settings `by`; without any, in all their settings but the seed.

    Of each setting that is the same everywhere, nothing is said. Raises ValueError for a setting that no run has.
    """
    keys = sorted({key for run in runs for key in run.settings})
    for key in by:
        if key not in keys:
            raise ValueError(f"--by: no run has a setting '{key}'.{suggestion(key, keys)}")
    differing = list(by) or [key for key in keys if len({json.dumps(run.settings.get(key)) for run in runs}) > 1]
    groups: dict[str, Group] = {}
    for run in runs:
        settings = {key: run.settings.get(key) for key in differing}
        groups.setdefault(json.dumps(settings), Group(settings)).runs.append(run)
    return sorted(groups.values(), key=lambda group: [_sortable(value) for value in group.settings.values()])


def known_metrics(runs: Sequence[FinishedRun]) -> set[str]:
    """Every number that any run has, at its end or on the way."""
    rows = [run.summary for run in runs] + [row for run in runs for row in run.evaluations[-1:]]
    return {name for row in rows for name, value in row.items() if isinstance(value, int | float)}


def _sortable(value: Any) -> tuple[int, float, str]:
    return (0, float(value), "") if isinstance(value, int | float) else (1, 0.0, str(value))
