"""One run of a command, wherever it is done: in this process, in another, or on another machine."""

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

from dpo_lab.cli.composing import composed
from dpo_lab.cli.sweeps.ledger import Ledger, lock_file
from dpo_lab.pipeline.execute import execute
from dpo_lab.pipeline.resume import config_key, finished_run
from dpo_lab.pipeline.study import Study, to_study
from dpo_lab.registry import load_user_modules
from dpo_lab.tracking import Console


@dataclass
class Task:
    """What a launcher calls, with a job's configuration, and may send to other processes."""

    arguments: list[str]
    """The command line."""
    multirun: bool = False
    folders: list[Path] = field(default_factory=list)
    """Of YAML files of the user's."""
    user_modules: list[str] = field(default_factory=list)
    ledger: Ledger | None = None
    """Of a sweep. It stays in the process that has started the sweep."""
    known: dict[tuple[str, ...], DictConfig] = field(default_factory=dict)
    """Configurations of words that have been composed already, in the process that has done it."""
    code: int = 0
    """Exit status of a single run."""

    def __call__(self, config: DictConfig) -> int:
        """Run Hydra's present job. Only its words are taken from Hydra: the configuration is composed by our rules."""
        return self.run([str(word) for word in HydraConfig.get().overrides.task])

    def run(self, words: Sequence[str]) -> int:
        """The exit status of the run that the words describe.

        It goes on where it stopped. As a job of a sweep it is not run if it has finished before or another process is at it.
        """
        self.prepare()
        config = self.known.get(tuple(words)) or composed(words, self.folders)
        study = to_study(config)
        command = f"python -m dpo_lab {shlex.join(self.arguments)}"
        if not study.runner.leaves_run:
            return self._tended(study)
        with alone_with(study) as alone:
            if not self.multirun:
                self.code = execute(study, config, words, command, alone)
                return self.code
            if not alone:
                Console().note(f"{' '.join(words)}: another process is at it")
            elif not finished_run(study, Console().note):
                return execute(study, config, words, command)
        return 0

    def _tended(self, study: Study) -> int:
        try:
            self.code = study.runner.tend(study, Console())
        except ValueError as error:
            print(f"error: {error}", file=sys.stderr)
            self.code = 2
        return self.code

    def prepare(self) -> None:
        """Make the user's own components known to this process."""
        load_user_modules(self.user_modules)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "ledger": None, "known": {}}


@contextmanager
def alone_with(study: Study) -> Iterator[bool]:
    """Holds the study's lock, so that a sweep does not go on with a run that is under way; false if another process has it."""
    lock = FileLock(lock_file(study, config_key(study)))
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
