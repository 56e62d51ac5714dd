"""`resume=RUN`: the configuration of the run to resume."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from dpo_lab.artifacts.fingerprint import describe_values
from dpo_lab.pipeline.study_config import config_from_file


def config_of_run(config: DictConfig, words: Sequence[str]) -> DictConfig:
    """The configuration of the run that `config.resume` names, put where that run is.

    Raises ValueError where it names no run, or `words` give the run other settings than it has.
    """
    run = Path(config.resume).expanduser()
    if not (run / "config.yaml").is_file() or not (run / "run.json").is_file():
        raise ValueError(f"resume: {run} is no run directory: give one of {config.runs}/, or resume=auto")
    saved = config_from_file(run / "config.yaml")
    own = {"resume": config.resume, "runs": str(run.absolute().parents[len(str(saved.name).split("/"))])}
    own["store"] = config.store if any(word.startswith("store=") for word in words) else saved.store
    before, asked = ({**_plain(settings), **own} for settings in (saved, config))
    changed = describe_values(before, asked)
    if changed and any(word.partition("=")[0] not in {*own, "user_modules"} for word in words):
        more = f"; and {len(changed) - 4} more" if len(changed) > 4 else ""
        raise ValueError(f"resume: {run.name} has other settings ({'; '.join(changed[:4])}{more}): give resume=RUN alone")
    for name, value in own.items():
        OmegaConf.update(saved, name, value)
    return saved


def _plain(config: DictConfig) -> dict[str, Any]:
    settings = OmegaConf.to_container(config, resolve=True, enum_to_str=True)
    assert isinstance(settings, dict)
    return {str(name): value for name, value in settings.items()}
