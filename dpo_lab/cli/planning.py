"""From the words of a command to the jobs that it stands for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from hydra.core.override_parser.types import IntervalSweep, Override

from dpo_lab.cli.composing import hydras_own
from dpo_lab.cli.grammar import parsed


@dataclass
class Plan:
    """The override words of each job; of a search, which finds its values as it goes, of jobs that try each value once."""

    jobs: list[list[str]]
    search: bool = False


def planned(words: Sequence[str], multirun: bool, folders: Sequence[Path] = ()) -> Plan:
    """The jobs, an experiment's own sweep included.

    Raises ValueError for several values of one setting, or an experiment that is a sweep, without --multirun.
    """
    overrides = parsed(words)
    for override in overrides:
        if override.is_sweep_override() and not multirun:
            raise ValueError(
                f"{override.input_line} gives several values: add -m to run each, or brackets for a list, "
                f"{override.get_key_element()}=[...]"
            )
    own, search = _of_experiment(words, folders)
    swept = parsed(own)
    choices = [_choices(override, search) for override in [*swept, *overrides] if not of_hydra(str(override.input_line))]
    if search:
        first = [values[0] for values in choices]
        others = [[*first[:i], value, *first[i + 1 :]] for i, values in enumerate(choices) for value in values[1:]]
        return Plan([first, *others], search=True)
    found = [list(job) for job in product(*choices)]
    if swept and not multirun:
        keys = ", ".join(override.get_key_element() for override in swept)
        raise ValueError(
            f"this experiment is a sweep over {keys}: add -m to run its {len(found)} jobs, or give a value for each"
        )
    return Plan(found)


def of_hydra(word: str) -> bool:
    """The word says how jobs are run, not what a job is."""
    return word.lstrip("+~").startswith(("hydra.", "hydra/"))


def _choices(override: Override, search: bool) -> list[str]:
    """A word for each value; of an interval for its ends."""
    key, value = override.get_key_element(), override.value()
    if not override.is_sweep_override():
        return [str(override.input_line)]
    if isinstance(value, IntervalSweep):
        if not search:
            raise ValueError(f"{override.input_line} is an interval to search: add hydra/sweeper=optuna, or give values")
        return [f"{key}={end:g}" for end in (value.start, value.end) if end is not None]
    return [f"{key}={text}" for text in override.sweep_string_iterator()]


def _of_experiment(words: Sequence[str], folders: Sequence[Path]) -> tuple[list[str], bool]:
    """The words by which an experiment's file sweeps what `words` do not give (hydra.sweeper.params), and is it a search?"""
    by_key = [(word.lstrip("+~").partition("=")[0], word) for word in words]
    read = [word for key, word in by_key if (key == "experiment" and "," not in word) or of_hydra(word)]
    if not read:
        return [], False
    sweeper = hydras_own(read, folders).sweeper
    given = {key for key, _ in by_key}
    own = [f"{key}={value}" for key, value in (sweeper.get("params") or {}).items() if key not in given]
    return own, "metric" in sweeper
