"""Comparisons as tables: printed, and kept with a study."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dpo_lab.artifacts.json_files import to_line, write_atomically
from dpo_lab.compare.contrasts import Contrast
from dpo_lab.compare.intervals import Estimate
from dpo_lab.compare.matched import AT
from dpo_lab.compare.notes import marks, marks_of
from dpo_lab.compare.runs import Group
from dpo_lab.compare.study_folder import place_table

if TYPE_CHECKING:
    from dpo_lab.compare.comparison import Comparison

CELL = len("[-12.345, -12.345]")
UNKNOWN = "\u2013"


def rows_of(
    groups: Sequence[Group], metrics: Sequence[str], baseline: Group | None = None, between: str = " "
) -> tuple[list[str], list[list[str]]]:
    """A table: differing settings, number of seeds (and of runs, where that is more), each metric with its interval.

    With a baseline, behind each metric the mean difference from it over common seeds, with its interval. `between` stands
    before an interval.
    """
    several = any(len(group.runs) > len(group.by_repetition) for group in groups)
    columns = [*groups[0].settings, "seeds", *(["runs"] if several else [])]
    for metric in metrics:
        columns += [metric] if baseline is None else [metric, "difference"]
    rows = []
    for group in groups:
        row = [*(str(value) for value in group.settings.values()), str(len(group.by_repetition))]
        row += [str(len(group.runs))] if several else []
        for metric in metrics:
            row.append(between.join(filter(None, [spread(group, metric), interval(group.estimate(metric))])))
            if baseline is not None:
                row.append("" if group is baseline else difference(group.difference(baseline, metric)[2]))
        rows.append(row)
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
        p_values = [in_words(p) for p in (each.p, each.p_holm, each.p_t, each.p_t_holm)]
        reach = f"{interval(each.difference, '+.3f')} {marks_of(each.difference)}".strip()
        rows.append([each.group.label, str(each.difference.n), f"{each.difference.mean:+.3f}", reach or UNKNOWN, *p_values])
    return columns, rows


def in_words(p: float | None) -> str:
    """To three places, never 0; a dash where there is none."""
    return UNKNOWN if p is None else "<.001" if p < 0.001 else f"{p:.3f}"


def interval(found: Estimate, form: str = ".3f") -> str:
    """[low, high], nothing where one value gives none."""
    return "" if found.low is None or found.high is None else f"[{found.low:{form}}, {found.high:{form}}]"


def spread(group: Group, metric: str) -> str:
    """Mean and, for two and more, standard deviation; the marks of `notes`; n where not every seed has the metric."""
    found, every = group.estimate(metric), len(group.by_repetition)
    if found.mean is None:
        return ""
    text = f"{found.mean:.3f}" if found.sd is None else f"{found.mean:.3f} \u00b1 {found.sd:.3f}"
    short = f"(n={found.n} of {every})" if found.n < every else ""
    return " ".join(filter(None, [text, marks(group, metric), short]))


def difference(found: Estimate) -> str:
    """Over the seeds of both, with its interval, or how few pairs there are for one."""
    if found.mean is None:
        return ""
    return " ".join(
        filter(
            None, [f"{found.mean:+.3f}", marks_of(found), interval(found, "+.3f") or f"({found.n} pair{'s'[: found.n - 1]})"]
        )
    )


def save(comparison: Comparison, folder: Path) -> None:
    """results.jsonl (one line a run, with settings that differ and metrics at a KL), and the table with notes in README.md.

    The table stands between the file's two markers. Raises ValueError where it has none.
    """
    settings = {run.path: group.settings for group in comparison.groups for run in group.runs}
    lines = [
        to_line(
            {
                "command": run.facts.get("command"),
                "seed": run.facts.get("seed"),
                **{name: run.facts.get(name) for name in ("git", "hardware", "threads")},
                "run_wall_s": run.facts.get("wall_s"),
                **settings[run.path],
                **{key: value for key, value in run.summary.items() if key != "ideal_frontier"},
                **{metric: run.value(metric) for metric in comparison.metrics if AT in metric},
            }
        )
        for run in comparison.runs
    ]
    place_table(folder, *rows_of(comparison.groups, comparison.metrics, comparison.baseline), comparison.notes)
    write_atomically(folder / "results.jsonl", "".join(lines))
