"""The jobs of a command: one, or every combination of a sweep's values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

from hydra.core.override_parser.types import IntervalSweep, Override

from dpo_lab.cli.composing import Composer, of_sweep
from dpo_lab.cli.grammar import key_of, of_hydra, parsed


@dataclass
class CommandJobs:
    """The jobs of a command, each as its override words."""

    jobs: list[list[str]]
    multirun: bool = False
    """A sweep, by -m or `hydra.mode`."""
    search: bool = False
    """A sweep that chooses its values as it proceeds: `jobs` then try each value once."""


def jobs_of_command(words: Sequence[str], multirun: bool, composer: Composer) -> CommandJobs:
    """The jobs, an experiment's own sweep (`hydra.sweeper.params`) included.

    Raises ValueError for several values of one setting, or an experiment that is a sweep, without --multirun.
    """
    overrides = parsed(words, composer)
    for override in overrides:
        if override.is_sweep_override() and not multirun:
            raise ValueError(
                f"{override.input_line} gives several values: add -m to run each, or brackets for a list, "
                f"{override.get_key_element()}=[...]"
            )
    # A single job is composed here, as it will be run; of a sweep what its jobs have in common.
    hydra = composer.compose(in_order(words if not multirun else [word for word in words if of_sweep(word)])).hydra
    multirun = multirun or str(getattr(hydra.mode, "name", hydra.mode)) == "MULTIRUN"
    search = "metric" in hydra.sweeper
    given = {key_of(word) for word in words}
    params = {} if search and not multirun else hydra.sweeper.get("params") or {}
    swept = parsed([f"{key}={value}" for key, value in params.items() if key not in given], composer)
    choices = [_choices(override, search) for override in [*swept, *overrides] if not of_hydra(str(override.input_line))]
    if search and multirun:
        first = [values[0] for values in choices]
        others = [[*first[:i], value, *first[i + 1 :]] for i, values in enumerate(choices) for value in values[1:]]
        return CommandJobs([first, *others], multirun, search=True)
    jobs = [list(job) for job in product(*choices)]
    if swept and not multirun:
        keys = ", ".join(override.get_key_element() for override in swept)
        raise ValueError(
            f"this experiment is a sweep over {keys}: add -m to run its {len(jobs)} jobs, or give a value for each"
        )
    return CommandJobs(jobs, multirun)


def in_order(words: Sequence[str]) -> list[str]:
    """Hydra's own words first: so a job's words are the same whether a command has one job or many."""
    return sorted(words, key=lambda word: not of_hydra(word))


def _choices(override: Override, search: bool) -> list[str]:
    """A word for each value; of an interval for its ends."""
    key, value = override.get_key_element(), override.value()
    if not override.is_sweep_override():
        return [str(override.input_line)]
    if isinstance(value, IntervalSweep):
        if not search:
            raise ValueError(f"{override.input_line} is an interval to search: add hydra/sweeper=optuna, or give values")
        return [f"{key}={end:g}" for end in (value.start, value.end) if end is not None]
    values = list(override.sweep_string_iterator())
    if not values:
        raise ValueError(f"{override.input_line} gives no value: there is no such {key}")
    return [f"{key}={text}" for text in values]
