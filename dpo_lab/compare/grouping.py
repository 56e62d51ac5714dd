"""Groups runs into rows: those that agree in every setting that decides a number, and in their provenance."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dpo_lab.artifacts.fingerprint import decisive
from dpo_lab.compare.groups import Group
from dpo_lab.compare.provenance import conflicts, provenance_key, provenance_label
from dpo_lab.compare.runs import FinishedRun
from dpo_lab.compare.settings import distinguishing, varying
from dpo_lab.registry import suggestion

MADE_WITH = "made with"
"""The column that tells apart rows of equal settings and different provenance."""
NAMED = 4


@dataclass
class Grouping:
    """The rows, and a warning for each that was split because its runs differ in provenance."""

    groups: list[Group]
    warnings: list[str]


def grouped(runs: Sequence[FinishedRun], by: Sequence[str] = ()) -> Grouping:
    """Group runs by the settings `by`; without any, by all that decide a number but the seeds. No row mixes provenances.

    The settings of a group are those that tell it from the others; one that is the same everywhere, or moves along with these,
    is left out. Raises ValueError for a setting that no run has.
    """
    keys = {key for run in runs for key in (*run.settings, *run.others)}
    for key in by:
        if key not in keys:
            raise ValueError(f"--by: no run has a setting '{key}'.{suggestion(key, keys)}")
    settings = [decisive(run.settings) for run in runs]
    shown = list(by) or distinguishing(settings, [key for key in varying(settings) if key not in _newer(runs)])
    rows: dict[str, tuple[dict[str, Any], list[FinishedRun]]] = {}
    for run in runs:
        own = {key: run.settings.get(key, run.others.get(key)) for key in shown}
        rows.setdefault(json.dumps(own), (own, []))[1].append(run)
    ordered = sorted(rows.values(), key=lambda row: [_sortable(value) for value in row[0].values()])
    parts = [(own, _parts(alike)) for own, alike in ordered]
    if all(len(members) == 1 for _, members in parts):
        return Grouping([_group(own, alike) for own, (alike,) in parts], [])
    groups, warnings = [], []
    for own, members in parts:
        labels = _labels(members)
        split = [_group({**own, MADE_WITH: label}, part) for label, part in zip(labels, members, strict=True)]
        groups += split
        if len(members) > 1:
            warnings.append(_split_warning(_label(own), members, labels))
    return Grouping(groups, warnings)


def _newer(runs: Sequence[FinishedRun]) -> set[str]:
    """The settings that runs of an older version of this package lack, and in which all others agree."""
    known = {key for run in runs if run.is_older for key in run.settings}
    others = [run for run in runs if not run.is_older]
    if not known:
        return set()
    return {key for run in others for key in run.settings if key not in known} - set(varying([run.settings for run in others]))


def _group(settings: dict[str, Any], runs: list[FinishedRun]) -> Group:
    return Group(settings, _label(settings), runs)


def _label(settings: dict[str, Any]) -> str:
    return " ".join(filter(None, (str(value) for value in settings.values()))) or "all runs"


def _parts(runs: Sequence[FinishedRun]) -> list[list[FinishedRun]]:
    """The runs in parts without conflicting provenance: each run joins the first part that it fits."""
    parts: list[dict[str, list[FinishedRun]]] = []  # by provenance: of a thousand equal runs, one is looked at
    for run in runs:
        for part in parts:
            if not any(conflicts(run, others[0]) for others in part.values()):
                part.setdefault(provenance_key(run), []).append(run)
                break
        else:
            parts.append({provenance_key(run): [run]})
    return [[run for others in part.values() for run in others] for part in parts]


def _labels(parts: Sequence[Sequence[FinishedRun]]) -> list[str]:
    """Short labels that tell the parts apart; an empty one for a row of one part."""
    if len(parts) == 1:
        return [""]
    labels = [provenance_label(part, parts, _conflicts(parts)) for part in parts]
    return [f"{label} ({labels[: i + 1].count(label)})" if labels.count(label) > 1 else label for i, label in enumerate(labels)]


def _conflicts(parts: Sequence[Sequence[FinishedRun]]) -> dict[str, str]:
    """The conflicts between runs of different parts, by kind, in words."""
    of_parts = [list({provenance_key(run): run for run in part}.values()) for part in parts]
    phrases: dict[str, str] = {}
    for i, part in enumerate(of_parts):
        for a, b in ((a, b) for other in of_parts[:i] for a in part for b in other):
            phrases |= conflicts(a, b)
    return phrases


def _split_warning(row: str, parts: Sequence[Sequence[FinishedRun]], labels: Sequence[str]) -> str:
    phrases = _conflicts(parts)
    names = "; ".join(f"{label}: {_names(part)}" for label, part in zip(labels, parts, strict=True))
    return f"{row}: split, for its runs differ in {' and in '.join(phrases.values())} ({names})"


def _names(runs: Sequence[FinishedRun]) -> str:
    names = [run.path.name for run in runs[:NAMED]]
    return " ".join(names) + (f" and {len(runs) - NAMED} more" if len(runs) > NAMED else "")


def _sortable(value: Any) -> tuple[int, float, str]:
    return (0, float(value), "") if isinstance(value, int | float) else (1, 0.0, str(value))
