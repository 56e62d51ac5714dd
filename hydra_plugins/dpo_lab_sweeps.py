"""What Hydra finds by name: registered components, hydra/sweeper=grid and optuna, hydra/launcher=local.

The work of the last three is done in `dpo_lab.cli.sweeps`.

Hydra looks for plugins in this package only, and imports them in every program that uses Hydra: so nothing but Hydra is
imported here before a sweep starts.
"""

# No `from __future__ import annotations`: with it a dataclass looks for its module, which Hydra enters only after running it.

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.object_type import ObjectType
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.config_source import ConfigResult, ConfigSource
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf


class ComponentSource(ConfigSource):
    """Every registered component as the option KIND/NAME, and as schema/KIND/NAME for YAML files to start from.

    A YAML file of the same name is found first: it may say more.
    """

    @staticmethod
    def scheme() -> str:
        return "components"

    def load_config(self, config_path: str) -> ConfigResult:
        group, _, name = config_path.rpartition("/")
        schema = OmegaConf.structured(self._components(group)[name])
        # Open to unknown keys while composing: what is left over in the end is refused there, with a suggestion.
        OmegaConf.set_struct(schema, False)
        return ConfigResult(self.provider, self.path, schema, {"package": None})

    def available(self) -> bool:
        return True

    def is_group(self, config_path: str) -> bool:
        return config_path == "schema" or bool(self._components(config_path))

    def is_config(self, config_path: str) -> bool:
        group, _, name = config_path.rpartition("/")
        return name in self._components(group)

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        return [] if results_filter is ObjectType.GROUP else list(self._components(config_path))

    def _components(self, group: str) -> Mapping[str, type]:
        from dpo_lab.registry import Registry

        return Registry.all.get(group.removeprefix("schema/"), {})


@dataclass
class GridSweeperConf:
    """Every combination of the values, but for those that have finished before."""

    _target_: str = "hydra_plugins.dpo_lab_sweeps.GridSweeper"
    params: dict[str, str] | None = None
    """Values by setting, for an experiment's file: {loss.beta: "logspace(0.01,1,5)", seed: range(3)}."""


@dataclass
class OptunaSweeperConf:
    """A search for the best values. The same command again continues it. Needs `pip install 'dpo_lab[optuna]'`."""

    _target_: str = "hydra_plugins.dpo_lab_sweeps.OptunaSweeper"
    params: dict[str, str] | None = None
    """Values by setting: choices, range(...), interval(0.01,1), or in proportion tag(log,interval(0.01,1))."""
    metric: str = "reward/policy"
    """Number of summary.json that is to be large."""
    maximize: bool = True
    """False: that is to be small."""
    max_kl: float | None = None
    """A run that ends further than this from the reference, in nats, is no solution."""
    n_trials: int = 20
    """Of the search in all, the finished ones of earlier commands included."""
    seed: int = 0
    """Of the search."""


@dataclass
class LocalLauncherConf:
    """Jobs on this machine: one after the other in this process, or several at a time in processes of their own."""

    _target_: str = "hydra_plugins.dpo_lab_sweeps.LocalLauncher"
    n_jobs: int = 1
    """Jobs at a time. The threads of one process are divided between them."""


class GridSweeper(Sweeper):
    """See GridSweeperConf."""

    def __init__(self, params: dict[str, str] | None = None) -> None:
        self.params = params

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.task: Any = task_function
        self.launcher: Launcher = Plugins.instance().instantiate_launcher(hydra_context, task_function, config)

    def sweep(self, arguments: list[str]) -> None:
        """Run the jobs that the command line has read from the arguments, and checked."""
        from dpo_lab.cli.sweeps.grid import run_grid

        run_grid(self.task.ledger, self.launcher)


class OptunaSweeper(Sweeper):
    """See OptunaSweeperConf."""

    def __init__(
        self, params: dict[str, str] | None, metric: str, maximize: bool, max_kl: float | None, n_trials: int, seed: int
    ) -> None:
        self.params = params or {}
        self.goal: dict[str, Any] = {
            "metric": metric,
            "maximize": maximize,
            "max_kl": max_kl,
            "num_trials": n_trials,
            "seed": seed,
        }

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.task: Any = task_function
        self.folder = Path(config.hydra.sweep.dir)
        self.launcher: Launcher = Plugins.instance().instantiate_launcher(hydra_context, task_function, config)

    def sweep(self, arguments: list[str]) -> None:
        """Run one trial after the other, or as many at a time as the launcher has jobs."""
        try:
            from dpo_lab.cli.sweeps.adaptive import Goal, Search
        except ModuleNotFoundError as error:
            print(f"error: hydra/sweeper=optuna needs optuna ({error}): pip install 'dpo_lab[optuna]'", file=sys.stderr)
            raise SystemExit(2) from error

        given = {word.partition("=")[0] for word in arguments}
        words = [f"{key}={value}" for key, value in self.params.items() if key not in given]
        Search(self.task, self.launcher, Goal(**self.goal), [*words, *arguments], self.folder).run()


class LocalLauncher(Launcher):
    """See LocalLauncherConf."""

    def __init__(self, n_jobs: int = 1) -> None:
        if n_jobs < 1:
            print(f"error: hydra.launcher.n_jobs must be at least 1, got {n_jobs}", file=sys.stderr)
            raise SystemExit(2)  # of an exception Hydra makes a traceback
        self.n_jobs = n_jobs

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.task: Any = task_function
        self.folder = Path(config.hydra.sweep.dir)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        from dpo_lab.cli.sweeps.processes import run_in_processes

        jobs = [self.task.job(words) for words in job_overrides]
        if self.n_jobs == 1:
            codes = [self.task.run(job) for job in jobs]
        else:
            codes = run_in_processes(self.task, jobs, self.n_jobs, self.folder)
        return [
            JobReturn(job.words, status=JobStatus.COMPLETED, _return_value=code) for job, code in zip(jobs, codes, strict=True)
        ]


ConfigStore.instance().store(group="hydra/sweeper", name="grid", node=GridSweeperConf)
ConfigStore.instance().store(group="hydra/sweeper", name="optuna", node=OptunaSweeperConf)
ConfigStore.instance().store(group="hydra/launcher", name="local", node=LocalLauncherConf)
