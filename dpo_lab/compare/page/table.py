"""The table of results on the page: the text of each cell, and the value that it is sorted by."""

from __future__ import annotations

from typing import Any

from dpo_lab.compare.comparison import Comparison
from dpo_lab.compare.contrasts import Contrast
from dpo_lab.compare.groups import Group
from dpo_lab.compare.tables import difference_text, estimate_text, interval_text, p_text


def results(comparison: Comparison) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Columns and rows: settings, seeds, and each metric with its difference from the baseline where there is one."""
    columns = [{"title": key, "numeric": False} for key in comparison.groups[0].settings]
    columns.append({"title": "seeds", "numeric": True})
    for metric in comparison.metrics:
        columns.append({"title": metric, "numeric": True})
        if comparison.baseline is not None:
            columns.append({"title": f"difference in {metric}", "numeric": True})
    rows = []
    for group in comparison.groups:
        cells = [_cell(str(value), value, numeric=False) for value in group.settings.values()]
        cells.append(_cell(str(len(group.by_seeds)), len(group.by_seeds)))
        for metric in comparison.metrics:
            cells.append(_estimate(group, metric))
            if comparison.baseline is not None:
                cells.append(_difference(comparison.contrast(group, metric)))
        rows.append({"cells": cells, "baseline": group is comparison.baseline})
    return columns, rows


def _estimate(group: Group, metric: str) -> dict[str, Any]:
    estimate = group.estimate(metric)
    return _cell(estimate_text(group, metric), estimate.mean, interval_text(estimate))


def _difference(contrast: Contrast | None) -> dict[str, Any]:
    if contrast is None:
        return _cell("", None)
    number, _, small = difference_text(contrast.difference).partition(" ")
    if contrast.p is not None and contrast.p_holm is not None:
        small += f"\np {p_text(contrast.p)} ({p_text(contrast.p_holm)})"
    return _cell(number, contrast.difference.mean, small)


def _cell(text: str, value: Any, small: str = "", numeric: bool = True) -> dict[str, Any]:
    return {"text": text, "value": "" if value is None else value, "small": small, "numeric": numeric}
