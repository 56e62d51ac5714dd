"""The checks of a study before its work starts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig

from dpo_lab.cli.composing import composed
from dpo_lab.cli.grammar import key_of
from dpo_lab.pipeline.base import RunnerSpec, runner_of
from dpo_lab.pipeline.study import Study
from dpo_lab.pipeline.study_config import to_study

READ_BY_ALL = ("runner", "compute", "name", "runs", "store", "resume", "user_modules", "experiment", "hydra")


def validate(words: Sequence[str], folders: Sequence[Path] = ()) -> Study:
    """The study that the override words describe, ready to run. Raises ValueError with one sentence where that fails."""
    return validated(composed(words, folders), words)


def validated(config: DictConfig, words: Sequence[str]) -> Study:
    """The study that a configuration describes, made of these words, as `validate` has it."""
    study = to_study(config)
    refuse_unread(runner_of(study), words)
    study.data.fingerprint()  # its files must be there before any work starts
    study.model.weights()
    study.reference.weights()
    runner_of(study).check(study)
    return study


def refuse_unread(runner: RunnerSpec, words: Sequence[str]) -> None:
    """Raises ValueError for a word that sets what the runner does not look at."""
    if runner.reads is None:
        return
    for word in words:
        key = key_of(word).rpartition("@")[2]
        if not any(key == known or key.startswith((f"{known}.", f"{known}/")) for known in (*runner.reads, *READ_BY_ALL)):
            raise ValueError(f"{key}: runner={runner.name} does not look at it, so it would change nothing: leave it out")
