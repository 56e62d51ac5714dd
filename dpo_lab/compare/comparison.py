"""A comparison: what was asked of which runs, and the answer that every table, picture and page shows."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from dpo_lab.artifacts.fingerprint import decisive, is_seed
from dpo_lab.compare.contrasts import Contrast, contrasts, verdict
from dpo_lab.compare.grouping import grouped
from dpo_lab.compare.matched import AT
from dpo_lab.compare.notes import footnotes
from dpo_lab.compare.origins import between_rows, untold
from dpo_lab.compare.reading import find_runs
from dpo_lab.compare.runs import FinishedRun, Group, known_metrics, on_the_way
from dpo_lab.compare.settings import described
from dpo_lab.registry import suggestion

METRICS = ("kl", "proxy/policy", "reward/policy", "positive/policy", "win_rate", "ideal_share", "eval/rewards/accuracies")
TASK = ("data.", "reward.", "tokenizer.")


@dataclass
class Comparison:
    """Runs in groups, the metrics asked for, the group that others are measured against, and what was left out.

    `splits` says which runs of equal settings make rows of their own, and why.
    """

    runs: list[FinishedRun]
    groups: list[Group]
    metrics: list[str]
    baseline: Group | None
    left_out: list[str]
    splits: list[str] = field(default_factory=list)

    @cached_property
    def differences(self) -> list[str]:
        """Which settings differ, a line each; of seeds, `notes` say what they vary."""
        shown = [group.settings for group in self.groups for _ in group.runs]
        own = [decisive(run.settings) for group in self.groups for run in group.runs]
        return described([a | b for a, b in zip(own, shown, strict=True)], list(self.groups[0].settings))

    @cached_property
    def remarks(self) -> list[str]:
        """What makes the runs hard to compare."""
        found = list(self.splits)
        tasks = sorted({key for run in self.runs for key in run.settings if key.startswith(TASK) and not is_seed(key)})
        moved = [key for key in tasks if len({str(run.settings.get(key)) for run in self.runs}) > 1]
        if moved:
            found.append(f"the runs differ in {', '.join(moved)}: their rewards and log-probabilities are not on one scale")
        return found + between_rows([group.runs for group in self.groups]) + untold(self.runs)

    @cached_property
    def notes(self) -> list[str]:
        """What the intervals allow for, what the marks in the tables mean, and what a seed varies."""
        return footnotes(self.groups, self.metrics, [each.difference for some in self.contrasts.values() for each in some])

    @cached_property
    def contrasts(self) -> dict[str, list[Contrast]]:
        """Of each metric the differences from the baseline, none without one."""
        if self.baseline is None:
            return {}
        return {metric: contrasts(self.groups, metric, self.baseline) for metric in self.metrics}

    def contrast(self, group: Group, metric: str) -> Contrast | None:
        """The group's difference from the baseline, None where there is none."""
        return next((each for each in self.contrasts.get(metric, []) if each.group is group), None)

    @cached_property
    def sentences(self) -> dict[str, list[str]]:
        """Of each metric, in plain words, what differs from the baseline and what cannot be said.

        What holds for every metric is said once, under that name.
        """
        if self.baseline is None:
            return {}
        found = {metric: verdict(each, self.baseline.label) for metric, each in self.contrasts.items() if each}
        shared = [
            line for line in next(iter(found.values()), []) if len(found) > 1 and all(line in each for each in found.values())
        ]
        rest = {metric: [line for line in lines if line not in shared] for metric, lines in found.items()}
        return ({"every metric": shared} if shared else {}) | rest


def compared(
    paths: Sequence[Path],
    by: Sequence[str] = (),
    metrics: Sequence[str] = (),
    kls: Sequence[float] = (),
    baseline: str | None = None,
    max_gap: float | None = None,
) -> Comparison:
    """Raises ValueError where there is nothing to compare, and for a setting, metric, KL or baseline that there is not."""
    runs, left_out = find_runs(paths)
    if not runs:
        more = f" (and {len(left_out) - 1} more)" if len(left_out) > 1 else ""
        raise ValueError(f"there is no finished run to compare: {left_out[0][:250]}{more}; name run directories")
    if max_gap is not None and not max_gap > 0:
        raise ValueError(f"--max-gap must be > 0, got {max_gap:g}")
    shown = _metrics(runs, metrics, kls)
    for run in runs:
        run.max_gap = max_gap
    found = grouped(runs, by)
    groups = found.groups
    against = None if baseline is None else _baseline(groups, baseline)
    if kls:
        groups.sort(key=lambda group: -statistics.fmean(group.values(shown[0]) or [-math.inf]))  # best first
    return Comparison(runs, groups, shown, against, left_out, found.warnings)


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
            if on_the_way(metric) not in measured:
                raise ValueError(f"--at-kl: '{metric}' is not measured at evaluations on the way, but at the end only")
        usual = [metric for metric in METRICS if metric != "kl" and on_the_way(metric) in measured]
    shown = list(wanted) or [metric for metric in usual if metric in known]
    if not shown:
        raise ValueError(f"no run has any of {', '.join(METRICS)}: say which --metric. Known: {', '.join(sorted(known))}")
    return [f"{metric}{AT}{kl:g}" for metric in shown for kl in kls] or shown


def _baseline(groups: Sequence[Group], wanted: str) -> Group:
    found = [group for group in groups if group.label == wanted]
    found = found or [group for group in groups if wanted in (str(value) for value in group.settings.values())]
    if len(found) == 1:
        return found[0]
    labels = "; ".join(f"'{group.label}'" for group in (found or groups)[:4])
    if found:
        raise ValueError(
            f"--baseline: '{wanted}' is in {len(found)} rows; name one of them ({labels}), or tell runs apart --by it"
        )
    raise ValueError(f"--baseline: no row has '{wanted}' among its settings ({', '.join(groups[0].settings)}): {labels}")
