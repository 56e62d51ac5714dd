"""Compares finished runs: rows of settings with the mean of each metric over seeds, and differences from a baseline."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from dpo_lab.artifacts.fingerprint import decisive, is_seed
from dpo_lab.compare.at_kl import AT
from dpo_lab.compare.contrasts import Contrast, compare_with_baseline, verdict
from dpo_lab.compare.footnotes import footnotes
from dpo_lab.compare.grouping import grouped
from dpo_lab.compare.groups import Group
from dpo_lab.compare.provenance import warnings_between_rows, warnings_of_runs
from dpo_lab.compare.reading import find_runs
from dpo_lab.compare.runs import FinishedRun, known_metrics, logged_name
from dpo_lab.compare.settings import describe_settings
from dpo_lab.registry import suggestion

METRICS = ("kl", "proxy/policy", "reward/policy", "positive/policy", "win_rate", "ideal_share", "eval/rewards/accuracies")
TASK = ("data.", "reward.", "tokenizer.")


@dataclass
class Comparison:
    """Runs in groups (a row of the table each), the metrics to show, and the group that the others are compared with.

    `left_out` says which runs are not compared, `splits` which runs of equal settings stand in rows of their own, and why.
    """

    runs: list[FinishedRun]
    groups: list[Group]
    metrics: list[str]
    baseline: Group | None
    left_out: list[str]
    splits: list[str] = field(default_factory=list)

    @cached_property
    def varied_settings(self) -> list[str]:
        """A line for each setting that varies; what the seeds vary stands in `notes`."""
        shown = [group.settings for group in self.groups for _ in group.runs]
        own = [decisive(run.settings) for group in self.groups for run in group.runs]
        return describe_settings([a | b for a, b in zip(own, shown, strict=True)], list(self.groups[0].settings))

    @cached_property
    def warnings(self) -> list[str]:
        """What makes the runs hard to compare."""
        tasks = sorted({key for run in self.runs for key in run.settings if key.startswith(TASK) and not is_seed(key)})
        moved = [key for key in tasks if len({str(run.settings.get(key)) for run in self.runs}) > 1]
        scale = f"the runs differ in {', '.join(moved)}: their rewards and log-probabilities are not on one scale"
        rows = [group.runs for group in self.groups]
        return [*self.splits, *([scale] if moved else []), *warnings_between_rows(rows), *warnings_of_runs(self.runs)]

    @cached_property
    def notes(self) -> list[str]:
        """Footnotes: what the intervals allow for, what the marks in the tables mean, and what a seed varies."""
        differences = [contrast.difference for contrasts in self.contrasts.values() for contrast in contrasts]
        return footnotes(self.groups, self.metrics, differences)

    @cached_property
    def contrasts(self) -> dict[str, list[Contrast]]:
        """By metric, the differences from the baseline; none without a baseline."""
        if self.baseline is None:
            return {}
        return {metric: compare_with_baseline(self.groups, metric, self.baseline) for metric in self.metrics}

    def contrast(self, group: Group, metric: str) -> Contrast | None:
        """The group's difference from the baseline, None where there is none."""
        return next((contrast for contrast in self.contrasts.get(metric, []) if contrast.group is group), None)

    @cached_property
    def verdicts(self) -> dict[str, list[str]]:
        """By metric, in plain words, what differs from the baseline and what cannot be said.

        What holds for every metric is said once, under 'every metric'.
        """
        if self.baseline is None:
            return {}
        lines = {metric: verdict(contrasts, self.baseline.label) for metric, contrasts in self.contrasts.items() if contrasts}
        first = next(iter(lines.values()), [])
        shared = [line for line in first if len(lines) > 1 and all(line in others for others in lines.values())]
        rest = {metric: [line for line in those if line not in shared] for metric, those in lines.items()}
        return ({"every metric": shared} if shared else {}) | rest


def compare_runs(
    paths: Sequence[Path | str],
    by: Sequence[str] = (),
    metrics: Sequence[str] = (),
    at_kl: Sequence[float] = (),
    baseline: str | None = None,
    max_gap: float | None = None,
) -> Comparison:
    """Compare the finished runs at or below the given paths.

    `by` names settings: the table has a row for each combination of their values; without any, for each combination of all
    settings but the seeds. `metrics` are the columns (a few usual ones without any), read off at the KLs `at_kl` if given.
    `baseline` is the value of a setting: the other rows are tested against the row that has it. `max_gap` is the widest gap
    in KL that `at_kl` interpolates across. Raises ValueError if there is nothing to compare, or no such setting, metric, KL
    or baseline.

        from dpo_lab.compare import compare_runs, to_rows
        comparison = compare_runs(["runs/loss_shootout"], by=["loss.name"], metrics=["proxy/policy"], baseline="dpo")
        for row in to_rows(comparison):
            print(row["loss.name"], row["mean"], row["low"], row["high"], row["n"], row["p_holm"])
    """
    runs, left_out = find_runs([Path(path) for path in paths])
    if not runs:
        more = f" (and {len(left_out) - 1} more)" if len(left_out) > 1 else ""
        raise ValueError(f"there is no finished run to compare: {left_out[0][:250]}{more}; name run directories")
    if max_gap is not None and not max_gap > 0:
        raise ValueError(f"--max-gap must be > 0, got {max_gap:g}")
    shown = _metrics(runs, metrics, at_kl)
    for run in runs:
        run.max_gap = max_gap
    grouping = grouped(runs, by)
    groups = grouping.groups
    against = None if baseline is None else _baseline(groups, baseline)
    if at_kl:
        groups.sort(key=lambda group: -statistics.fmean(group.values(shown[0]) or [-math.inf]))  # best first
    return Comparison(runs, groups, shown, against, left_out, grouping.warnings)


def _metrics(runs: Sequence[FinishedRun], wanted: Sequence[str], kls: Sequence[float]) -> list[str]:
    """What the table shows. Raises ValueError for a metric that no run has, and for a KL that is none."""
    known = known_metrics(runs)
    for metric in wanted:
        if metric not in known:
            raise ValueError(f"--metric: no run has '{metric}'.{suggestion(metric, known)}")
    for kl in kls:
        if not 0 <= kl < math.inf:
            raise ValueError(f"--at-kl must be >= 0 and finite, got {kl:g}")
    usual = list(METRICS)
    if kls:
        measured = {name for run in runs for row in run.evaluations for name in row}
        for metric in wanted:
            if logged_name(metric) not in measured:
                raise ValueError(f"--at-kl: '{metric}' is not measured at evaluations on the way, but at the end only")
        usual = [metric for metric in METRICS if metric != "kl" and logged_name(metric) in measured]
    shown = list(wanted) or [metric for metric in usual if metric in known]
    if not shown:
        raise ValueError(f"no run has any of {', '.join(METRICS)}: say which --metric. Known: {', '.join(sorted(known))}")
    return [f"{metric}{AT}{kl:g}" for metric in shown for kl in kls] or shown


def _baseline(groups: Sequence[Group], wanted: str) -> Group:
    matching = [group for group in groups if group.label == wanted]
    matching = matching or [group for group in groups if wanted in (str(value) for value in group.settings.values())]
    if len(matching) == 1:
        return matching[0]
    labels = "; ".join(f"'{group.label}'" for group in (matching or groups)[:4])
    if matching:
        raise ValueError(
            f"--baseline: '{wanted}' is in {len(matching)} rows; name one of them ({labels}), or tell runs apart --by it"
        )
    raise ValueError(f"--baseline: no row has '{wanted}' among its settings ({', '.join(groups[0].settings)}): {labels}")
