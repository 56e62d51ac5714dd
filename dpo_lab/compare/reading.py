"""Finds and reads the finished runs below some folders, and says why others are left out."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from dpo_lab.artifacts.fingerprint import decisive, scalar_settings
from dpo_lab.compare.runs import FinishedRun
from dpo_lab.tracking.reading import read_metrics, read_run, read_summary

PREFERENCE = "preference"
"""The runner whose runs are compared where there are any."""

# OmegaConf's own loader takes 20 times as long (1,000 runs: 20 s), for the sake of what a resolved file does not hold.
LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def find_runs(paths: Sequence[Path]) -> tuple[list[FinishedRun], list[str]]:
    """The finished runs at or below the given paths, and a line for each that is left out, with the reason."""
    runs, others = [], []
    folders: dict[Path, Path] = {}  # a run that is reached twice counts once
    for path in paths:
        below = list(_run_directories(path))
        folders |= {folder.resolve(): folder for folder in below}
        if not below:
            others.append(f"{path}: no run here")
    for folder in sorted(folders.values()):
        try:
            runs.append(_read(folder))
        except (ValueError, yaml.YAMLError, OSError) as error:
            others.append(f"{folder}: {' '.join(str(error).split())}, left out")
    kinds = Counter(run.settings.get("runner.name") for run in runs)
    usual = PREFERENCE if PREFERENCE in kinds else max(kinds, key=lambda kind: kinds[kind], default=None)
    for run in runs:
        if run.settings.get("runner.name") != usual:
            others.append(f"{run.path}: runner={run.settings.get('runner.name')}, those of {usual} are compared, left out")
    return [run for run in runs if run.settings.get("runner.name") == usual], others


def _run_directories(path: Path) -> Iterator[Path]:
    """Every directory at or below `path` with a run.json; of a run's own directory, nothing below is looked at."""
    for folder, below, files in os.walk(path):
        if "run.json" in files:
            below.clear()
            yield Path(folder)


def _read(folder: Path) -> FinishedRun:
    """Raises ValueError, YAMLError or OSError for a run that is not finished or cannot be read."""
    facts = read_run(folder)
    if facts.get("status") != "done":
        reason = f" ({facts['reason']})" if facts.get("reason") else ""
        raise ValueError(f"{facts.get('status', 'no status')}{reason}")
    with (folder / "config.yaml").open("rb") as file:
        config = yaml.load(file, Loader=LOADER)
    summary = read_summary(folder)
    if not isinstance(config, dict):
        raise ValueError("config.yaml holds no settings")
    if not any(isinstance(value, int | float) for value in summary.values()):
        raise ValueError("done, but summary.json has no number to compare")
    flat = scalar_settings(config)
    settings = decisive(flat, seeds=True)
    others = {key: value for key, value in flat.items() if key not in settings}
    return FinishedRun(folder, settings, facts, summary, read_metrics(folder), others)
