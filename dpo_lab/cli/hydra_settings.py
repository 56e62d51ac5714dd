"""Hydra's own settings say how jobs are run. They must not say what code is run: configurations name registered components."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from omegaconf import DictConfig, OmegaConf

TARGETS = ("hydra_plugins.", "hydra._internal.")
"""Packages that hold launchers and sweepers, whose `_target_` comes with their choice."""
STREAMS = ("ext://sys.stdout", "ext://sys.stderr")


def refuse_code(hydra: DictConfig) -> None:
    """Raises ValueError for a setting of Hydra's by which a configuration could run what it likes."""
    settings: Any = OmegaConf.to_container(hydra, resolve=False)
    if settings.get("callbacks"):
        raise ValueError("hydra.callbacks would run code that a configuration names: register a runner instead")
    for path, value in _leaves({key: settings.get(key) for key in ("launcher", "sweeper")}, "hydra"):
        if path.endswith("._target_") and not str(value).startswith(TARGETS):
            raise ValueError(f"{path}={value} names code: choose a launcher or sweeper by name, such as hydra/launcher=local")
    for path, value in _leaves({key: settings.get(key) for key in ("job_logging", "hydra_logging")}, "hydra"):
        last, text = path.rpartition(".")[2], str(value)
        foreign = last == "class" and not text.startswith("logging.")
        if last == "()" or foreign or "${" in text or (text.startswith(("ext://", "cfg://")) and text not in STREAMS):
            raise ValueError(f"{path}={value} names code: choose hydra/job_logging=none, stdout or default")
    run_dir, chdir = settings["run"]["dir"], settings["job"].get("chdir")
    if run_dir != "." or chdir:
        setting = f"hydra.run.dir={run_dir}" if run_dir != "." else f"hydra.job.chdir={chdir}"
        raise ValueError(f"{setting} moves nothing here: runs=DIRECTORY and name=NAME say where a run's files go")


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _leaves(item, f"{path}.{key}")
    elif isinstance(value, list):
        for item in value:
            yield from _leaves(item, path)
    else:
        yield path, value
