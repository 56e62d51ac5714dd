"""A comparison as tables of text."""

from __future__ import annotations

from collections.abc import Sequence

from dpo_lab.compare.contrasts import Contrast
from dpo_lab.compare.footnotes import estimate_marks, marks
from dpo_lab.compare.groups import Group
from dpo_lab.compare.intervals import Estimate

CELL = len("[-12.345, -12.345]")
UNKNOWN = "\u2013"


def results_table(
    groups: Sequence[Group], metrics: Sequence[str], baseline: Group | None = None, between: str = " "
) -> tuple[list[str], list[list[str]]]:
    """Columns and rows of the results: settings, number of seeds (and of runs, if more), each metric with its interval.

    With a baseline, each metric is followed by the mean difference from it over common seeds. `between` stands before an
    interval.
    """
    several = any(len(group.runs) > len(group.by_seeds) for group in groups)
    columns = [*groups[0].settings, "seeds", *(["runs"] if several else [])]
    for metric in metrics:
        columns += [metric] if baseline is None else [metric, "difference"]
    rows = []
    for group in groups:
        row = [*(str(value) for value in group.settings.values()), str(len(group.by_seeds))]
        row += [str(len(group.runs))] if several else []
        for metric in metrics:
            row.append(between.join(filter(None, [estimate_text(group, metric), interval_text(group.estimate(metric))])))
            if baseline is not None:
                row.append("" if group is baseline else difference_text(group.difference(baseline, metric)[2]))
        rows.append(row)
    return columns, rows


def fit_columns(groups: Sequence[Group], metrics: Sequence[str], width: int) -> list[list[str]]:
    """Split the metrics into tables that fit a width in characters beside the settings, at least one metric each."""
    settings = groups[0].settings
    used = 12 + sum(3 + max(len(key), *(len(str(group.settings[key])) for group in groups)) for key in settings)
    parts: list[list[str]] = [[]]
    for metric in metrics:
        if parts[-1] and used + sum(3 + max(len(name), CELL) for name in [*parts[-1], metric]) > width:
            parts.append([])
        parts[-1].append(metric)
    return parts


def differences_table(contrasts: Sequence[Contrast]) -> tuple[list[str], list[list[str]]]:
    """Columns and rows of the differences from the baseline: mean, 95 % interval, p-values, and these after Holm."""
    columns = ["", "pairs", "difference", "95 % interval", "p", "Holm", "p (t test)", "Holm"]
    rows = []
    for contrast in contrasts:
        difference = contrast.difference
        reach = f"{interval_text(difference, '+.3f')} {estimate_marks(difference)}".strip() or UNKNOWN
        p_values = [p_text(p) for p in (contrast.p, contrast.p_holm, contrast.p_t, contrast.p_t_holm)]
        rows.append([contrast.group.label, str(difference.n), f"{difference.mean:+.3f}", reach, *p_values])
    return columns, rows


def p_text(p: float | None) -> str:
    """A p-value to three places, never 0; a dash for none."""
    return UNKNOWN if p is None else "<.001" if p < 0.001 else f"{p:.3f}"


def interval_text(estimate: Estimate, form: str = ".3f") -> str:
    """'[low, high]', or nothing if there is no interval."""
    return "" if estimate.low is None or estimate.high is None else f"[{estimate.low:{form}}, {estimate.high:{form}}]"


def estimate_text(group: Group, metric: str) -> str:
    """Mean, standard deviation over seeds, footnote marks, and n if not every seed has the metric."""
    estimate, every = group.estimate(metric), len(group.by_seeds)
    if estimate.mean is None:
        return ""
    text = f"{estimate.mean:.3f}" if estimate.sd is None else f"{estimate.mean:.3f} \u00b1 {estimate.sd:.3f}"
    short = f"(n={estimate.n} of {every})" if estimate.n < every else ""
    return " ".join(filter(None, [text, marks(group, metric), short]))


def difference_text(difference: Estimate) -> str:
    """A mean difference with its interval, or with the number of pairs if they are too few for one."""
    if difference.mean is None:
        return ""
    reach = interval_text(difference, "+.3f") or f"({difference.n} pair{'s'[: difference.n - 1]})"
    return " ".join(filter(None, [f"{difference.mean:+.3f}", estimate_marks(difference), reach]))


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]], notes: Sequence[str] = ()) -> str:
    """A table in Markdown, with `notes` as a list below it."""
    cells = [[_escaped(cell) for cell in row] for row in [columns, ["---"] * len(columns), *rows]]
    table = "\n".join("| " + " | ".join(row) + " |" for row in cells)
    below = "\n".join(f"- {_escaped(note)}" for note in notes).replace("*", r"\*")
    return f"{table}\n\n{below}\n" if notes else f"{table}\n"


def _escaped(cell: str) -> str:
    """Text that ends neither its cell nor the table, and is no markup."""
    return " ".join(cell.split()).replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|")
