"""A comparison for other programs: CSV with a row for each setting and metric, JSON with all of it, LaTeX to be printed."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from dpo_lab.compare.comparison import Comparison
from dpo_lab.compare.contrasts import ALPHA, Contrast
from dpo_lab.compare.runs import Group
from dpo_lab.compare.statistics import estimate
from dpo_lab.tracking.json_files import to_text

DIFFERENCE = ["pairs", "difference", "difference_low", "difference_high", "p", "p_holm", "p_t", "p_t_holm"]
SPECIAL = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"} | {c: f"\\{c}" for c in "&%$#_{}"}


def records(comparison: Comparison) -> list[dict[str, Any]]:
    """A flat row for each setting and metric; without a baseline, nothing of differences."""
    rows = []
    for group in comparison.groups:
        for metric in comparison.metrics:
            found = asdict(estimate(group.values(metric)))
            row = {**group.settings, "metric": metric, "seeds": found.pop("n"), **found}
            if comparison.baseline is not None:
                row |= dict.fromkeys(DIFFERENCE) | _differences(comparison.contrast(group, metric))
            rows.append(row)
    return rows


def _differences(contrast: Contrast | None) -> dict[str, Any]:
    if contrast is None:
        return {}
    found = contrast.difference
    values = [found.n, found.mean, found.low, found.high, contrast.p, contrast.p_holm, contrast.p_t, contrast.p_t_holm]
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
    """A booktabs table: mean and half the width of its 95 % interval; a star where Holm's p against the baseline is <= .05."""
    settings = list(comparison.groups[0].settings)
    head = [*map(escaped, settings), "$n$", *map(escaped, comparison.metrics)]
    lines = [
        r"% \usepackage{booktabs}; mean and 95\,\% interval (Student) over seeds",
        rf"\begin{{tabular}}{{{'l' * len(settings)}{'r' * (len(comparison.metrics) + 1)}}}",
        r"\toprule",
        " & ".join(head) + r" \\",
        r"\midrule",
    ]
    for group in comparison.groups:
        cells = [*(escaped(str(value)) for value in group.settings.values()), str(len(group.seeds))]
        cells += [_cell(group, comparison.contrast(group, metric), group.values(metric)) for metric in comparison.metrics]
        lines.append(" & ".join(cells) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def _cell(group: Group, contrast: Contrast | None, values: Sequence[float]) -> str:
    found = estimate(values)
    if found.mean is None:
        return "--"
    star = r"^{*}" if contrast is not None and contrast.p_holm is not None and contrast.p_holm <= ALPHA else ""
    spread = "" if found.high is None else rf" \pm {found.high - found.mean:.3f}"
    return f"${found.mean:.3f}{spread}{star}$"


def escaped(text: str) -> str:
    """`text` as LaTeX prints it, on one line."""
    return "".join(SPECIAL.get(character, character) for character in " ".join(text.split()))
