"""A comparison as rows, Markdown, CSV, JSON and LaTeX."""

from __future__ import annotations

import csv
import io
from dataclasses import asdict
from typing import Any

from dpo_lab.artifacts.json_files import to_text
from dpo_lab.compare.comparison import Comparison
from dpo_lab.compare.contrasts import ALPHA, Contrast
from dpo_lab.compare.footnotes import marks
from dpo_lab.compare.groups import Group
from dpo_lab.compare.intervals import Estimate
from dpo_lab.compare.tables import markdown_table, results_table

DIFFERENCE = ["pairs", "difference", "difference_low", "difference_high", "difference_covers", "p", "p_holm", "p_t", "p_t_holm"]
SPECIAL = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"} | {c: f"\\{c}" for c in "&%$#_{}"}

MARKS = {"*": "*", "~": r"\sim", "\u2020": r"\dagger", "\u2021": r"\ddagger", "\u00a7": r"\S"}
"""The footnote marks in LaTeX's mathematics."""


def to_rows(comparison: Comparison) -> list[dict[str, Any]]:
    """A flat dictionary for each row of the table and metric.

    It holds the row's settings; `metric`; `mean` and `sd` over the `n` (of `seeds`) seeds that have it; `low` and `high`, the
    95 % interval of the mean, and its standard error `se`; what the interval `covers` ("seeds", "evaluation" or both); the
    footnote `marks`. With a baseline also `difference` from it over `pairs` of seeds, with its interval and p-values (sign
    flips `p`, paired t test `p_t`, each corrected after Holm).
    """
    rows = []
    for group in comparison.groups:
        for metric in comparison.metrics:
            row = {**group.settings, "metric": metric, "seeds": len(group.by_seeds), **_numbers(group.estimate(metric))}
            row["marks"] = marks(group, metric)
            if comparison.baseline is not None:
                row |= dict.fromkeys(DIFFERENCE) | _differences(comparison.contrast(group, metric))
            rows.append(row)
    return rows


def _numbers(estimate: Estimate) -> dict[str, Any]:
    own = asdict(estimate)
    return {name: own[name] for name in ("n", "mean", "sd", "low", "high", "se", "covers")}


def _differences(contrast: Contrast | None) -> dict[str, Any]:
    if contrast is None:
        return {}
    difference = contrast.difference
    values = [difference.n, difference.mean, difference.low, difference.high, difference.covers]
    values += [contrast.p, contrast.p_holm, contrast.p_t, contrast.p_t_holm]
    return dict(zip(DIFFERENCE, values, strict=True))


def to_csv(comparison: Comparison) -> str:
    """The rows of `to_rows` as CSV, with an empty cell for a number that is not defined."""
    rows, file = to_rows(comparison), io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(map(_inert, rows[0]))
    writer.writerows(map(_inert, row.values()) for row in rows)
    return file.getvalue()


def _inert(cell: Any) -> Any:
    """Text on one line, with an apostrophe before what a spreadsheet would take for a formula."""
    if not isinstance(cell, str):
        return cell
    text = " ".join(cell.split())
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text


def to_json(comparison: Comparison) -> str:
    """The rows as JSON, with the settings that vary, the verdicts, every run's numbers, and why runs were left out."""
    return to_text(
        {
            "settings": comparison.varied_settings,
            "baseline": None if comparison.baseline is None else comparison.baseline.settings,
            "results": to_rows(comparison),
            "verdict": comparison.verdicts,
            "warnings": comparison.warnings,
            "notes": comparison.notes,
            "runs": [
                {"path": str(run.path), "seed": run.facts.get("seed"), "command": run.facts.get("command"), **group.settings}
                | {metric: run.value(metric) for metric in comparison.metrics}
                for group in comparison.groups
                for run in group.runs
            ],
            "left_out": comparison.left_out,
        }
    )


def to_markdown(comparison: Comparison) -> str:
    """The table of results with its footnotes in Markdown, to be printed or shown in a notebook."""
    return markdown_table(*results_table(comparison.groups, comparison.metrics, comparison.baseline), comparison.notes)


def to_latex(comparison: Comparison) -> str:
    """A booktabs table: mean and 95 % interval, with footnote marks; bold where Holm's p is at most .05."""
    settings = list(comparison.groups[0].settings)
    head = [*map(escaped, settings), "seeds", *map(escaped, comparison.metrics)]
    lines = [
        r"% \usepackage{booktabs}; mean and 95\,\% interval; bold: Holm's p against the baseline is at most .05",
        *(f"% {note}" for note in comparison.notes),
        rf"\begin{{tabular}}{{{'l' * len(settings)}{'r' * (len(comparison.metrics) + 1)}}}",
        r"\toprule",
        " & ".join(head) + r" \\",
        r"\midrule",
    ]
    for group in comparison.groups:
        cells = [*(escaped(str(value)) for value in group.settings.values()), str(len(group.by_seeds))]
        cells += [_cell(group, comparison.contrast(group, metric), metric) for metric in comparison.metrics]
        lines.append(" & ".join(cells) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def _cell(group: Group, contrast: Contrast | None, metric: str) -> str:
    """With half the interval's width where it is symmetric, else both ends; n where not every seed has the metric."""
    estimate, every = group.estimate(metric), len(group.by_seeds)
    if estimate.mean is None:
        return "--"
    sure = contrast is not None and contrast.p_holm is not None and contrast.p_holm <= ALPHA
    text = rf"\mathbf{{{estimate.mean:.3f}}}" if sure else f"{estimate.mean:.3f}"
    if estimate.low is not None and estimate.high is not None:
        above, below = estimate.high - estimate.mean, estimate.mean - estimate.low
        even = abs(above - below) < 5e-4
        text += rf" \pm {above:.3f}" if even else rf"\;[{estimate.low:.3f}, {estimate.high:.3f}]"
    signs = "".join(MARKS[sign] for sign in marks(group, metric)) + (rf",n={estimate.n}" if estimate.n < every else "")
    return f"${text}^{{{signs.lstrip(',')}}}$" if signs else f"${text}$"


def escaped(text: str) -> str:
    """`text` as LaTeX prints it, on one line."""
    return "".join(SPECIAL.get(character, character) for character in " ".join(text.split()))
