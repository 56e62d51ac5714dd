"""From the words on the command line to runs."""

from __future__ import annotations

import argparse
import shlex
import signal
import sys
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from types import FrameType
from typing import Any

import hydra
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dpo_lab.registry import Registry, load_user_modules, suggestion
from dpo_lab.runners.execute import execute
from dpo_lab.runners.study import to_study

VERSION_BASE = "1.3"
PACKAGE = Path(__file__).parent
CONF = PACKAGE / "conf" if (PACKAGE / "conf").is_dir() else PACKAGE.parent / "conf"  # in a wheel, or beside the sources
LOOKING = ("--help", "-h", "--hydra-help", "--version", "--cfg", "-c", "--info", "-i", "--shell-completion", "-sc")


def run_command(arguments: Sequence[str]) -> int:
    """The exit status of a whole command; see `__main__`."""
    codes: list[int] = []

    def job(config: DictConfig) -> int:
        task = [str(word) for word in HydraConfig.get().overrides.task]
        codes.append(execute(to_study(config), config, task, command=f"python -m dpo_lab {shlex.join(arguments)}"))
        return codes[-1]

    signal.signal(signal.SIGTERM, _interrupt)
    try:
        words, folders, multirun = _parse(arguments)
        load_user_modules(_user_modules(words, folders))
        _offer_without_yaml(folders)
        if not any(word.split("=")[0] in LOOKING for word in arguments):
            for job_words in _jobs(words) if multirun else [words]:
                validate(job_words, folders)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    sys.argv = ["dpo-lab", *arguments]
    try:
        hydra.main(config_path=str(CONF), config_name="config", version_base=VERSION_BASE)(job)()
    except KeyboardInterrupt:
        return 130
    return max(codes, default=0)


def validate(words: Sequence[str], folders: Sequence[Path] = ()) -> None:
    """Compose and build the study that the override words describe. Raises ValueError with one sentence where that fails."""
    study = to_study(composed(words, folders))
    study.data.fingerprint()  # its files must be there before any work starts
    study.model.weights()


def composed(words: Sequence[str], folders: Sequence[Path] = ()) -> DictConfig:
    """The configuration that the override words describe; `folders` hold further YAML files of the user."""
    if folders:
        words = [*words, f"hydra.searchpath=[{','.join(f'file://{folder.absolute()}' for folder in folders)}]"]
    with initialize_config_dir(str(CONF), job_name="dpo_lab", version_base=VERSION_BASE):
        try:
            return compose("config", overrides=list(words))
        except MissingConfigException as error:
            group, _, name = (error.missing_cfg_file or "").rpartition("/")
            known = [option for option in error.options or [] if not option.startswith("schema")]
            raise ValueError(f"there is no {group} '{name}'.{suggestion(name, known)}") from error
        except (HydraException, OmegaConfBaseException) as error:
            raise ValueError(_explained(error, words)) from error


def _explained(error: Exception, words: Sequence[str]) -> str:
    """One sentence for what Hydra says in several, with a suggestion for a misspelt key."""
    for word in words:
        others = [other for other in words if other != word]
        key = word.lstrip("+~").partition("=")[0]
        if not isinstance(error, ConfigCompositionException) or f"'{word}'" in str(error) or f"'{key}'" in str(error):
            parent, _, name = key.rpartition(".")
            with_rest = compose("config", overrides=others)
            node = OmegaConf.select(with_rest, parent) if parent else with_rest
            if isinstance(node, DictConfig) and name not in node:
                return f"there is no setting '{key}'.{suggestion(name, [str(known) for known in node])}"
    cause = error.__cause__
    first = str(cause or error).strip().splitlines()[0]
    word = next((word for word in words if word in str(error)), "")
    return f"{word}: {first}" if word and cause is not None else first


def _parse(arguments: Sequence[str]) -> tuple[list[str], list[Path], bool]:
    """Override words, the user's configuration folders, and whether this is a sweep."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config-dir", "-cd", type=Path, action="append", default=[])
    parser.add_argument("--multirun", "-m", action="store_true")
    known, rest = parser.parse_known_args(list(arguments))
    for folder in known.config_dir:
        if not folder.is_dir():
            raise ValueError(f"--config-dir: there is no directory {folder}")
    return [word for word in rest if not word.startswith("-")], known.config_dir, known.multirun


def _jobs(words: Sequence[str]) -> list[list[str]]:
    """The override words of each job of a sweep."""
    try:
        parsed = OverridesParser.create().parse_overrides(list(words))
    except HydraException as error:
        raise ValueError(str(error).splitlines()[0]) from error
    choices = [
        [f"{override.get_key_element()}={value}" for value in override.sweep_string_iterator()]
        if override.is_sweep_override()
        else [override.input_line]
        for override in parsed
    ]
    return [[str(word) for word in job] for job in product(*choices)]


def _user_modules(words: Sequence[str], folders: Sequence[Path]) -> list[str]:
    """Modules named by `user_modules=...` on the command line, or else by the experiment's file."""
    named: Any = []
    for word in words:
        key, _, value = word.lstrip("+").partition("=")
        if key == "experiment":
            for folder in [CONF, *folders]:
                file = folder / "experiment" / f"{value}.yaml"
                if file.is_file():
                    named = OmegaConf.select(OmegaConf.load(file), "user_modules", default=named)
    for word in words:
        key, _, value = word.lstrip("+").partition("=")
        if key == "user_modules":
            named = OmegaConf.create(f"x: {value}").x
    return [named] if isinstance(named, str) else [str(name) for name in named]


def _offer_without_yaml(folders: Sequence[Path]) -> None:
    """Make every component that has no YAML file (a user's, mostly) an option of its group all the same."""
    for kind, registry in Registry.all.items():
        for name, cls in registry.items():
            if not any((folder / kind / f"{name}.yaml").is_file() for folder in [CONF, *folders]):
                ConfigStore.instance().store(group=kind, name=name, node=cls)


def _interrupt(number: int, frame: FrameType | None) -> None:
    """A terminated run leaves as an interrupted one does: its files are closed and say so."""
    raise KeyboardInterrupt
