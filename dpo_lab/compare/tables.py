"""Comparisons as tables: printed, and kept with a study."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

from dpo_lab.compare.contrasts import Contrast
from dpo_lab.compare.matched import paired_difference
from dpo_lab.compare.runs import FinishedRun, Group
from dpo_lab.compare.statistics import Estimate, estimate
from dpo_lab.tracking.json_files import to_line, write_atomically
from dpo_lab.tracking.study_folder import place_table

CELL = len("[-12.345, -12.345]")


def rows_of(
    groups: Sequence[Group], metrics: Sequence[str], baseline: Group | None = None
) -> tuple[list[str], list[list[str]]]:
    """A table: differing settings, number of seeds (and of runs, where that is more), mean and standard deviation of metrics.

    With a baseline, behind each metric the mean difference from it over common seeds, with its standard error.
    """
    several = any(len(group.runs) > len(group.seeds) for group in groups)
    columns = [*groups[0].settings, "seeds", *(["runs"] if several else [])]
    for metric in metrics:
        columns += [metric] if baseline is None else [metric, "difference"]
    rows = []
    for group in groups:
        row = [*(str(value) for value in group.settings.values()), str(len(group.seeds))]
        row += [str(len(group.runs))] if several else []
        for metric in metrics:
            row.append(spread(group.values(metric)))
            if baseline is not None:
                row.append(difference(group, baseline, metric))
        rows.append(row)
    return columns, rows


def overview(groups: Sequence[Group], metrics: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """Settings and seeds, then of each metric the mean and standard deviation over them the 95 % interval of the mean."""
    columns, rows = rows_of(groups, metrics)
    first = len(columns) - len(metrics)
    for row, group in zip(rows, groups, strict=True):
        for place, metric in enumerate(metrics, start=first):
            row[place] = "\n".join(filter(None, [row[place], interval(estimate(group.values(metric)))]))
    return columns, rows


def side_by_side(groups: Sequence[Group], metrics: Sequence[str], width: int) -> list[list[str]]:
    """The metrics in lists of as many as fit beside the settings into so many characters, at least one each."""
    settings = groups[0].settings
    used = 12 + sum(3 + max(len(key), *(len(str(group.settings[key])) for group in groups)) for key in settings)
    parts: list[list[str]] = [[]]
    for metric in metrics:
        if parts[-1] and used + sum(3 + max(len(name), CELL) for name in [*parts[-1], metric]) > width:
            parts.append([])
        parts[-1].append(metric)
    return parts


def contrast_rows(found: Sequence[Contrast]) -> tuple[list[str], list[list[str]]]:
    """Differences from the baseline: mean, 95 % interval, p-values and what Holm's correction leaves of them."""
    columns = ["", "pairs", "difference", "95 % interval", "p", "Holm", "p (t test)", "Holm"]
    rows = []
    for each in found:
        p_values = ["" if p is None else f"{p:.3f}" for p in (each.p, each.p_holm, each.p_t, each.p_t_holm)]
        numbers = [str(each.difference.n), f"{each.difference.mean:+.3f}", interval(each.difference, "+.3f")]
        rows.append([each.group.label, *numbers, *p_values])
    return columns, rows


def interval(found: Estimate, form: str = ".3f") -> str:
    """[low, high], nothing where one value gives none."""
    return "" if found.low is None or found.high is None else f"[{found.low:{form}}, {found.high:{form}}]"


def spread(values: Sequence[float]) -> str:
    """Mean and, for two and more, standard deviation."""
    if not values:
        return ""
    mean = f"{statistics.fmean(values):.3f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.3f}"


def difference(group: Group, baseline: Group, metric: str) -> str:
    """From the baseline, over the seeds of both, with the standard error of the mean."""
    if group is baseline:
        return ""
    mean, error, count = paired_difference(group.by_seed(metric), baseline.by_seed(metric))
    if not count:
        return ""
    return f"{mean:+.3f}" if error is None else f"{mean:+.3f} ± {error:.3f}"


def save(
    runs: Sequence[FinishedRun],
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    folder: Path,
    settings: Sequence[str] = (),
    metrics: Sequence[str] = (),
) -> None:
    """results.jsonl (one line a run, with the given settings and metrics at a KL), and the table in README.md.

    The table stands between the file's two markers. Raises ValueError where it has none.
    """
    lines = [
        to_line(
            {
                "command": run.facts.get("command"),
                "seed": run.facts.get("seed"),
                "git": run.facts.get("git"),
                "hardware": run.facts.get("hardware"),
                "threads": run.facts.get("threads"),
                "run_wall_s": run.facts.get("wall_s"),
                **{key: run.settings.get(key) for key in settings},
                **{key: value for key, value in run.summary.items() if key != "ideal_frontier"},
                **{metric: run.value(metric) for metric in metrics if " at KL " in metric},
            }
        )
        for run in runs
    ]
    place_table(folder, columns, rows)
    write_atomically(folder / "results.jsonl", "".join(lines))
