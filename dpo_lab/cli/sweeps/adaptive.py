"""A search for the best values of settings, by Optuna's sampler over trials that are kept in a file."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from filelock import FileLock, Timeout
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep, Sweep
from hydra.plugins.launcher import Launcher
from omegaconf import OmegaConf
from optuna.trial import Trial, TrialState

from dpo_lab.artifacts.digests import digest
from dpo_lab.cli.grammar import parsed
from dpo_lab.cli.sweeps.grid import launch
from dpo_lab.cli.sweeps.ledger import Entry, JobState, Ledger
from dpo_lab.cli.sweeps.task import Task
from dpo_lab.cli.validation import validated
from dpo_lab.pipeline.study_config import to_study
from dpo_lab.pipeline.study_keys import config_key
from dpo_lab.seeding import number
from dpo_lab.tracking import Console, read_summary

OVER = (TrialState.COMPLETE, TrialState.PRUNED)


@dataclass
class Goal:
    """The metric to optimise, its bounds, and the number of trials."""

    metric: str
    maximize: bool
    max_kl: float | None
    num_trials: int
    seed: int


class Search:
    """One search: its trials, those of earlier commands included."""

    def __init__(self, task: Task, launcher: Launcher, goal: Goal, words: Sequence[str], folder: Path) -> None:
        overrides = parsed(words, task.composer)
        self.task, self.launcher, self.goal, self.console, self.ledger = task, launcher, goal, Console(), Ledger()
        self.swept = [override for override in overrides if override.is_sweep_override()]
        self.fixed = [str(override.input_line) for override in overrides if not override.is_sweep_override()]
        self.defaults = task.job(self.fixed).config
        space = sorted(str(override.input_line) for override in self.swept)
        asked = f"{self.defaults.name}-{digest([self.fixed, space, goal.metric, goal.max_kl])}"
        self.name = f"{asked}-{digest(self._keys())}"
        folder.mkdir(parents=True, exist_ok=True)
        self.lock = FileLock(folder / f"{self.name}.lock")
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        storage = f"sqlite:///{folder / 'optuna.db'}"
        others = [name for name in optuna.get_all_study_names(storage) if name == asked or name.startswith(f"{asked}-")]
        if others and self.name not in others:
            self.console.note("search: started anew, as the known trials are of other code, library versions or files")
        self.study = optuna.create_study(
            storage=storage,
            study_name=self.name,
            load_if_exists=True,
            direction="maximize" if goal.maximize else "minimize",
        )

    def _keys(self) -> list[str]:
        """Keys of the studies with each of the choices searched: they stand for the code and the files behind all trials."""
        choices = [override for override in self.swept if override.is_choice_sweep()]
        words = [f"{choice.get_key_element()}={value}" for choice in choices for value in choice.sweep_string_iterator()]
        keys = []
        for more in ([], *([word] for word in words)):
            with suppress(ValueError):  # it may make sense beside other values only
                keys.append(config_key(to_study(self.task.job([*self.fixed, *more]).config)))
        return keys

    def run(self) -> None:
        """Run trials until the search has as many as it was given."""
        try:
            with self.lock.acquire(timeout=0):
                self._run()
        except Timeout:
            print(f"error: another process is at this search ({self.name})", file=sys.stderr)
            raise SystemExit(2) from None

    def _run(self) -> None:
        for trial in self.study.get_trials(states=(TrialState.RUNNING,)):  # from a search that was killed
            self.study.tell(trial.number, state=TrialState.FAIL)
            self.study.enqueue_trial(trial.params)
        known = len(self.study.get_trials(states=OVER))
        if known:
            self.console.note(f"search {self.name}: {known} of {self.goal.num_trials} trials are known")
        at_once = int(getattr(self.launcher, "n_jobs", 1))
        for first in range(known, self.goal.num_trials, at_once):
            # With the seed alone a continued search would propose what it proposed when it began.
            seed = number(self.goal.seed, "search", first) % 2**32
            self.study.sampler = optuna.samplers.TPESampler(seed=seed, constant_liar=at_once > 1)
            self._batch([self.study.ask() for _ in range(min(at_once, self.goal.num_trials - first))], first)
        self._report_best()

    def _batch(self, trials: Sequence[Trial], first: int) -> None:
        entries = []
        for trial in trials:
            words = [*self.fixed, *(self._word(trial, override) for override in self.swept)]
            entries.append(self.ledger.add(words, validated(self.task.job(words).config, words)))
        launch(self.ledger, self.launcher, [entry.words for entry in entries if entry.state is JobState.waiting], first)
        for trial, entry in zip(trials, entries, strict=True):
            self._report(trial, entry)

    def _report(self, trial: Trial, entry: Entry) -> None:
        """Report a trial's result to the sampler. A diverged run is pruned: it counts as bad, without a number."""
        summary = read_summary(entry.run) if entry.run is not None else {}
        shown = " ".join(f"{key}={_short(value)}" for key, value in trial.params.items())
        if entry.state in (JobState.done, JobState.reused) and entry.run is not None:
            for name in (self.goal.metric, *(["kl"] if self.goal.max_kl is not None else [])):
                if not isinstance(summary.get(name), int | float):
                    known = sorted(key for key, value in summary.items() if isinstance(value, int | float))
                    self.study.tell(trial, state=TrialState.FAIL)
                    print(
                        f"error: hydra.sweeper.metric: no number '{name}' in {entry.run}/summary.json; there are: "
                        f"{', '.join(known)}",
                        file=sys.stderr,
                    )
                    raise SystemExit(2)
            trial.set_user_attr("kl", summary.get("kl"))
            trial.set_user_attr("error", summary.get(f"{self.goal.metric}_se"))
            if self.goal.max_kl is not None:
                trial.set_constraint("kl", summary["kl"] - self.goal.max_kl)
            trial.set_user_attr("run", str(entry.run))
            self.study.tell(trial, summary[self.goal.metric])
            self.console.note(f"trial {trial.number}: {shown}  {self._result(summary[self.goal.metric], trial.user_attrs)}")
        else:
            self.study.tell(trial, state=TrialState.PRUNED if entry.state is JobState.diverged else TrialState.FAIL)
            self.console.note(f"trial {trial.number}: {shown}  {entry.state}")

    def _result(self, value: float, of_run: dict[str, Any]) -> str:
        """A trial's number with its standard error, and its KL."""
        kl, error = of_run["kl"], of_run.get("error")  # searches that have begun before errors were kept have none
        text = f"{self.goal.metric} {value:.4g}" + (f" \N{PLUS-MINUS SIGN} {error:.2g}" if error is not None else "")
        return text + (f", kl {kl:.3g}" if kl is not None else "") + (" (too far)" if self._too_far(kl) else "")

    def _too_far(self, kl: float | None) -> bool:
        return self.goal.max_kl is not None and kl is not None and kl > self.goal.max_kl

    def _report_best(self) -> None:
        ended = self.study.get_trials(states=(TrialState.COMPLETE,))
        within = [trial for trial in ended if not self._too_far(trial.user_attrs["kl"])]
        if not within:
            self.console.warn(self._why_none(len(ended)))
            self.task.code = 1
            return
        best = max(within, key=lambda trial: (1 if self.goal.maximize else -1) * float(trial.value or 0))
        shown = " ".join(f"{key}={_short(value)}" for key, value in best.params.items())
        result = self._result(float(best.value or 0), best.user_attrs)
        self.console.note(f"best of {len(ended)} trials: {shown}  {result}, in {best.user_attrs['run']}")

    def _why_none(self, num_ended: int) -> str:
        """Why there is no best trial: how the trials ended, those of earlier commands included."""
        diverged = len(self.study.get_trials(states=(TrialState.PRUNED,)))
        failed = len([entry for entry in self.ledger.bad if entry.state is not JobState.diverged])
        bad = [f"{count} {what}" for count, what in ((diverged, "diverged"), (failed, "failed")) if count]
        if num_ended:
            others = f" ({', '.join(bad)})" if bad else ""
            return f"no trial of {num_ended} is within hydra.sweeper.max_kl={self.goal.max_kl}{others}"
        settings = ", ".join(override.get_key_element() for override in self.swept)
        what = f"all {diverged} trials diverged" if diverged and not failed else f"no trial has a result: {', '.join(bad)}"
        return f"{what}; search other values of {settings}" if diverged else what

    def _word(self, trial: Trial, override: Override) -> str:
        """A setting with the value that the sampler proposes for it."""
        key, values = override.get_key_element(), override.value()
        if override.is_choice_sweep():  # a pattern, too
            return f"{key}={trial.suggest_categorical(key, list(override.sweep_string_iterator()))}"
        assert isinstance(values, Sweep)
        whole = isinstance(OmegaConf.select(self.defaults, key.lstrip("+")), int)
        log = "log" in values.tags
        if isinstance(values, IntervalSweep):
            assert values.start is not None
            assert values.end is not None
            if whole:
                return f"{key}={trial.suggest_int(key, int(values.start), int(values.end), log=log)}"
            return f"{key}={_short(trial.suggest_float(key, float(values.start), float(values.end), log=log))}"
        if isinstance(values, RangeSweep) and whole:
            steps = list(values.range())
            return f"{key}={trial.suggest_int(key, int(steps[0]), int(steps[-1]), step=int(values.step or 1))}"
        return f"{key}={trial.suggest_categorical(key, list(override.sweep_string_iterator()))}"


def _short(value: Any) -> str:
    """A number with four digits: no more are meaningful of one that a sampler has drawn."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
