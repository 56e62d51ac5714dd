"""What a study says of the kind of run that it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


@dataclass
class RunnerSettings:
    """The settings of a kind of run. What it does is in `dpo_lab.pipeline.base.RunnerSpec`, which knows of studies."""

    name: str

    leaves_run: ClassVar[bool] = True
    """What it does is a run, with a directory of its own."""

    trains: ClassVar[bool] = True
    """Its runs are trainings, which TensorBoard shows side by side. Of others run.json and the files with results are left."""

    reads: ClassVar[tuple[str, ...] | None] = None
    """How the settings begin that it reads, beside where things lie and how it computes; None: it may read any."""
