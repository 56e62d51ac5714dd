"""Runners: what one run does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from dpo_lab.registry import Registry

if TYPE_CHECKING:
    from dpo_lab.pipeline.context import Context
    from dpo_lab.pipeline.study import Study
    from dpo_lab.tracking import Console


class DivergedError(Exception):
    """Training stopped because a number was no longer finite."""


@dataclass
class RunnerSpec:
    """One kind of run."""

    name: str

    leaves_run: ClassVar[bool] = True
    """What it does is a run, with a directory of its own; else `tend` does it."""

    trains: ClassVar[bool] = True
    """Its runs are trainings, which TensorBoard shows side by side. Of others run.json and the files with results are left."""

    reads: ClassVar[tuple[str, ...] | None] = None
    """How the settings begin that it reads, beside where things lie and how it computes; None: it may read any."""

    def check(self, study: Study) -> None:
        """Raise ValueError, before any work, for a study that this runner cannot do."""

    def reads_of(self, study: Study) -> Study | None:
        """The study of an earlier run whose settings hold instead, if it is such a one; its code is that of this one, too."""
        return None

    def run(self, context: Context) -> dict[str, Any]:
        """Do it. What it returns is the run's summary."""
        raise NotImplementedError

    def tend(self, study: Study, console: Console) -> int:
        """Do it at once; the exit status."""
        raise NotImplementedError


RUNNERS: Registry[RunnerSpec] = Registry("runner", "dpo_lab.pipeline.runners")
