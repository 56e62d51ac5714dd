"""A small, fast, exactly tested laboratory for preference optimisation.

What a training loop of one's own needs is imported from here, on demand: `import dpo_lab` itself loads no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dpo_lab import compare
    from dpo_lab.losses import LOSSES, Laws, PairLoss, PreferenceLoss
    from dpo_lab.preferences.batches import from_rows
    from dpo_lab.records import Aggregate, CandidateBatch, Logps
    from dpo_lab.scoring.layouts import Layout
    from dpo_lab.scoring.logps import Scoring, score
    from dpo_lab.training.dpo import DPO

__all__ = [
    "DPO",
    "LOSSES",
    "Aggregate",
    "CandidateBatch",
    "Laws",
    "Layout",
    "Logps",
    "PairLoss",
    "PreferenceLoss",
    "Scoring",
    "compare",
    "from_rows",
    "score",
]

_MODULES = {
    "dpo_lab.losses": ("LOSSES", "Laws", "PairLoss", "PreferenceLoss"),
    "dpo_lab.preferences.batches": ("from_rows",),
    "dpo_lab.records": ("Aggregate", "CandidateBatch", "Logps"),
    "dpo_lab.scoring.layouts": ("Layout",),
    "dpo_lab.scoring.logps": ("Scoring", "score"),
    "dpo_lab.training.dpo": ("DPO",),
}
"""Where each public name is defined. The command line must not pay for torch to print its help."""


def __getattr__(name: str) -> Any:
    if name == "compare":
        return import_module("dpo_lab.compare")
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(module), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
