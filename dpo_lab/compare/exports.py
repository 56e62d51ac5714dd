"""A comparison for other programs: CSV with a row for each setting and metric, JSON with all of it, LaTeX to be printed."""

from __future__ import annotations

import csv
import io
from dataclasses import asdict
from typing import Any

from dpo_lab.artifacts.json_files import to_text
from dpo_lab.compare.comparison import Comparison
from dpo_lab.compare.contrasts import ALPHA, Contrast
from dpo_lab.compare.intervals import Estimate
from dpo_lab.compare.notes import marks
from dpo_lab.compare.runs import Group

DIFFERENCE = ["pairs", "difference", "difference_low", "difference_high", "difference_covers", "p", "p_holm", "p_t", "p_t_holm"]
SPECIAL = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"} | {c: f"\\{c}" for c in "&%$#_{}"}

MARKS = {"*": "*", "~": r"\sim", "\u2020": r"\dagger", "\u2021": r"\ddagger", "\u00a7": r"\S"}
"""The marks of `notes` in LaTeX's mathematics."""


def records(comparison: Comparison) -> list[dict[str, Any]]:
    """A flat row for each setting and metric; without a baseline, nothing of differences.

    `n` of the `seeds` have the metric; `covers` is what the interval allows for, `marks` are those below the printed table.
    """
    rows = []
    for group in comparison.groups:
        for metric in comparison.metrics:
            row = {**group.settings, "metric": metric, "seeds": len(group.by_repetition), **_numbers(group.estimate(metric))}
            row["marks"] = marks(group, metric)
            if comparison.baseline is not None:
                row |= dict.fromkeys(DIFFERENCE) | _differences(comparison.contrast(group, metric))
            rows.append(row)
    return rows


def _numbers(found: Estimate) -> dict[str, Any]:
    own = asdict(found)
    return {name: own[name] for name in ("n", "mean", "sd", "low", "high", "se", "covers")}


def _differences(contrast: Contrast | None) -> dict[str, Any]:
    if contrast is None:
        return {}
    found = contrast.difference
    values = [found.n, found.mean, found.low, found.high, found.covers]
    values += [contrast.p, contrast.p_holm, contrast.p_t, contrast.p_t_holm]
    return dict(zip(DIFFERENCE, values, strict=True))


def to_csv(comparison: Comparison) -> str:
    """An empty cell where a number is not defined."""
    rows, file = records(comparison), io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(map(_inert, rows[0]))
    writer.writerows(map(_inert, row.values()) for row in rows)
    return file.getvalue()


def _inert(cell: Any) -> Any:
    """Text on one line; what a spreadsheet would take for a formula stands behind the apostrophe that makes it text there."""
    if not isinstance(cell, str):
        return cell
    text = " ".join(cell.split())
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text


def to_json(comparison: Comparison) -> str:
    """Also what differs, the sentences, every run's own numbers, and what was left out with the reason."""
    return to_text(
        {
            "settings": comparison.differences,
            "baseline": None if comparison.baseline is None else comparison.baseline.settings,
            "results": records(comparison),
            "verdict": comparison.sentences,
            "warnings": comparison.remarks,
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


def to_latex(comparison: Comparison) -> str:
    """A booktabs table: mean and 95 % interval, with the marks of the printed one; bold where Holm's p is at most .05."""
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
        cells = [*(escaped(str(value)) for value in group.settings.values()), str(len(group.by_repetition))]
        cells += [_cell(group, comparison.contrast(group, metric), metric) for metric in comparison.metrics]
        lines.append(" & ".join(cells) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def _cell(group: Group, contrast: Contrast | None, metric: str) -> str:
    """With half the interval's width where it is symmetric, else both ends; n where not every seed has the metric."""
    found, every = group.estimate(metric), len(group.by_repetition)
    if found.mean is None:
        return "--"
    sure = contrast is not None and contrast.p_holm is not None and contrast.p_holm <= ALPHA
    text = rf"\mathbf{{{found.mean:.3f}}}" if sure else f"{found.mean:.3f}"
    if found.low is not None and found.high is not None:
        above, below = found.high - found.mean, found.mean - found.low
        even = abs(above - below) < 5e-4
        text += rf" \pm {above:.3f}" if even else rf"\;[{found.low:.3f}, {found.high:.3f}]"
    signs = "".join(MARKS[sign] for sign in marks(group, metric)) + (rf",n={found.n}" if found.n < every else "")
    return f"${text}^{{{signs.lstrip(',')}}}$" if signs else f"${text}$"


def escaped(text: str) -> str:
    """`text` as LaTeX prints it, on one line."""
    return "".join(SPECIAL.get(character, character) for character in " ".join(text.split()))
