"""Runners: what one run does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dpo_lab.pipeline.context import Context
from dpo_lab.pipeline.runner_settings import RunnerSettings
from dpo_lab.pipeline.study import Study
from dpo_lab.registry import Registry
from dpo_lab.tracking import Console


class DivergedError(Exception):
    """A guard ended the training: a number was not finite, or went beyond a bound."""


@dataclass
class RunnerSpec(RunnerSettings):
    """One kind of run."""

    def check(self, study: Study) -> None:
        """Raise ValueError, before any work, for a study that this runner cannot do."""

    def earlier_study(self, study: Study) -> Study | None:
        """The study of the finished run whose policy it evaluates, if it does that; its code is part of this study's, too."""
        return None

    def run(self, context: Context) -> dict[str, Any]:
        """Do it. What it returns is the run's summary."""
        raise NotImplementedError

    def run_without_directory(self, study: Study, console: Console) -> int:
        """Do what leaves no run; the exit status."""
        raise NotImplementedError


RUNNERS: Registry[RunnerSpec] = Registry("runner", "dpo_lab.pipeline.runners")


def runner_of(study: Study) -> RunnerSpec:
    """The study's runner, as what it can do."""
    assert isinstance(study.runner, RunnerSpec)
    return study.runner
