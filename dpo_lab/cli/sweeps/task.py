"""Running one job of a command: in this process, in another, or on another machine."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from dpo_lab.cli.composing import Composer
from dpo_lab.cli.sweeps.ledger import Ledger, job_lock
from dpo_lab.pipeline.base import runner_of
from dpo_lab.pipeline.execute import execute
from dpo_lab.pipeline.resume import finished_run
from dpo_lab.pipeline.study import Study
from dpo_lab.pipeline.study_config import to_study
from dpo_lab.pipeline.study_keys import config_key
from dpo_lab.tracking import Console


@dataclass
class Job:
    """One run of a command: its override words, and the settings that they compose to."""

    words: list[str]
    config: DictConfig


@dataclass
class Task:
    """How a command's jobs are run. Hydra and its launchers call it with a job's configuration, and may send it elsewhere."""

    arguments: list[str]
    """The command line."""
    composer: Composer = field(default_factory=Composer)
    hydra_words: list[str] = field(default_factory=list)
    """Words of the command that say how jobs are run."""
    multirun: bool = False
    ledger: Ledger | None = None
    """Of a sweep. It stays in the process that has started the sweep."""
    code: int = 0
    """Exit status of a single run."""

    def __call__(self, config: DictConfig) -> int:
        """Run the job that Hydra has started."""
        return self.run(Job([str(word) for word in HydraConfig.get().overrides.task], config))

    def job(self, words: Sequence[str]) -> Job:
        """The job that the words describe. Raises ValueError where they describe none."""
        return Job(list(words), self.composer.settings([*self.hydra_words, *words]))

    def run(self, job: Job) -> int:
        """The exit status of the job's run.

        An interrupted run is resumed. A job of a sweep is not run if it has finished before or another process runs it.
        """
        study = to_study(job.config)
        command = f"python -m dpo_lab {shlex.join(self.arguments)}"
        if not study.runner.leaves_run:
            return self._run_without_directory(study)
        with alone_with(study) as alone:
            if not self.multirun:
                self.code = execute(study, job.config, job.words, command, alone)
                return self.code
            if not alone:
                Console().note(f"{' '.join(job.words)}: another process is at it")
            elif not finished_run(study, Console().note):
                return execute(study, job.config, job.words, command)
        return 0

    def _run_without_directory(self, study: Study) -> int:
        try:
            self.code = runner_of(study).run_without_directory(study, Console())
        except ValueError as error:
            print(f"error: {error}", file=sys.stderr)
            self.code = 2
        return self.code

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "ledger": None}


@contextmanager
def alone_with(study: Study) -> Iterator[bool]:
    """Holds the study's lock, so that a sweep does not resume a run that is under way; false if another process holds it."""
    lock = FileLock(job_lock(study, config_key(study)))
    try:
        Path(lock.lock_file).parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        yield False
        return
    except OSError:  # there can be no such directory, as the run itself will say
        yield True
        return
    try:
        yield True
    finally:
        lock.release()
