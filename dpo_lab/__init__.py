"""A small, fast, exactly tested laboratory for preference optimisation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dpo_lab.training.dpo import DPO

__all__ = ["DPO"]


def __getattr__(name: str) -> Any:
    # Imported on demand: the command line must not pay for torch to print its help.
    if name == "DPO":
        from dpo_lab.training.dpo import DPO

        return DPO
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
