"""Compares run directories: a table with intervals over seeds, tests against a baseline, figures, one HTML page.

    comparison = compare_runs(["runs/loss_shootout"], by=["loss.name"], baseline="dpo")
    print(to_markdown(comparison))
    rows = to_rows(comparison)          # dictionaries: settings, metric, mean, low, high, n, ...

`python -m dpo_lab.compare` does the same on the command line.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dpo_lab.compare.comparison import Comparison, compare_runs
    from dpo_lab.compare.exports import to_csv, to_json, to_latex, to_markdown, to_rows
    from dpo_lab.compare.figures import save_figures
    from dpo_lab.compare.figures.run import draw_run
    from dpo_lab.compare.page import to_html

__all__ = [
    "Comparison",
    "compare_runs",
    "draw_run",
    "save_figures",
    "to_csv",
    "to_html",
    "to_json",
    "to_latex",
    "to_markdown",
    "to_rows",
]

_MODULES = {
    "comparison": ("Comparison", "compare_runs"),
    "exports": ("to_csv", "to_json", "to_latex", "to_markdown", "to_rows"),
    "figures": ("save_figures",),
    "figures.run": ("draw_run",),
    "page": ("to_html",),
}
"""Where each public name is defined: imported on demand, so that no table waits for matplotlib."""


def __getattr__(name: str) -> Any:
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
