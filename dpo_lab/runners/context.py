"""What a runner works with."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from dpo_lab.artifacts import Store
from dpo_lab.tracking import Console, RunDirectory

if TYPE_CHECKING:
    from dpo_lab.runners.study import Study


@dataclass
class Context:
    """One run: what to do, where its files go, and whom to tell."""

    study: Study
    console: Console
    run: RunDirectory
    store: Store
    stage_seconds: dict[str, float] = field(default_factory=dict)
    """Seconds that each stage took, in order."""
