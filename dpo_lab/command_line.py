"""From the words on the command line to runs."""

from __future__ import annotations

import argparse
import re
import shlex
import signal
import sys
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import hydra
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from dpo_lab.registry import Registry, load_user_modules, suggestion
from dpo_lab.runners.execute import execute
from dpo_lab.runners.study import to_study

VERSION_BASE = "1.3"
PACKAGE = Path(__file__).parent
CONF = PACKAGE / "conf" if (PACKAGE / "conf").is_dir() else PACKAGE.parent / "conf"  # in a wheel, or beside the sources
INFO = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")


def run_command(arguments: Sequence[str]) -> int:
    """The exit status of a whole command; see `__main__`."""
    codes: list[int] = []

    def job(config: DictConfig) -> int:
        task = [str(word) for word in HydraConfig.get().overrides.task]
        codes.append(execute(to_study(config), config, task, command=f"python -m dpo_lab {shlex.join(arguments)}"))
        return codes[-1]

    signal.signal(signal.SIGTERM, _interrupt)
    try:
        given = _parse(arguments)
        load_user_modules(_user_modules(given.words, given.folders))
        _offer_without_yaml(given.folders)
        if given.cfg:
            composed(given.words, given.folders)
        elif not given.looking:
            for words in _jobs(given.words, given.multirun):
                validate(words, given.folders)
    except (ValueError, YAMLError) as error:
        print("error:", " ".join(str(error).split()), file=sys.stderr)
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
    if isinstance(error, OverrideParseException):
        return _unreadable(error)
    if raised := re.match(r"In '(.+)': \w+ raised while composing", str(error)):
        named = re.search("full_key: (.+)", str(error))
        where = f"{raised[1]}.yaml cannot set {named[1] if named else 'a value'}"
        return f"{where}: {str(error).splitlines()[1]}; keep its choices, or change a copy in a --config-dir"
    for word in words:
        others = [other for other in words if other != word]
        key = word.lstrip("+~").partition("=")[0]
        if not isinstance(error, ConfigCompositionException) or f"'{word}'" in str(error) or f"'{key}'" in str(error):
            node: Any = compose("config", overrides=others)
            for name in key.split("."):
                if not isinstance(node, DictConfig):
                    break
                if name not in node:
                    known = [str(known) for known in node] + ["+experiment"] * (node._get_parent() is None)
                    return f"there is no setting '{key}'.{suggestion(name, known)}"
                node = node[name]
    cause = error.__cause__
    first = str(cause or error).strip().splitlines()[0]
    word = next((word for word in words if word in str(error)), "")
    return f"{word}: {first}" if word and cause is not None else first


def _unreadable(error: OverrideParseException) -> str:
    """What is wrong with the grammar of an override word."""
    why = next((line for line in error.message.splitlines() if "Error parsing override" not in line), error.message)
    return f"cannot read '{error.override}': {why}; write key=value, with quotes around a value that holds ( [ {{ , or spaces"


class _Parser(argparse.ArgumentParser):
    """Its complaints are a ValueError, as every other mistake is."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message}; --help lists what there is")


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Override `words`, the user's configuration `folders`, `multirun`, and whether the user is only `looking`.

    The options are Hydra's, which reads them again; here they are only told apart from the words.
    """
    parser = _Parser(prog="dpo-lab", add_help=False, allow_abbrev=False)
    parser.add_argument("--config-dir", "-cd", type=Path)
    parser.add_argument("--multirun", "-m", action="store_true")
    parser.add_argument("--cfg", "-c", choices=("job", "hydra", "all"))
    parser.add_argument("--package", "-p")
    parser.add_argument("--resolve", action="store_true")
    parser.add_argument("--info", "-i", nargs="?", const="all", choices=INFO)
    for flags in (("--help", "-h"), ("--hydra-help",), ("--version",), ("--shell-completion", "-sc")):
        parser.add_argument(*flags, dest="looking", action="store_true")
    given, words = parser.parse_known_args(list(arguments))
    given.words = words
    given.looking = given.looking or bool(given.cfg or given.info)
    given.folders = [given.config_dir] if given.config_dir else []
    if given.multirun and given.looking:
        raise ValueError("--multirun runs a sweep; leave it out to look at one configuration")
    for folder in given.folders:
        if not folder.is_dir():
            raise ValueError(f"--config-dir: there is no directory {folder}")
    for word in given.words:
        if word.startswith("-"):
            raise ValueError(f"there is no option {word}; --help lists what there is")
        key, equals, _ = word.lstrip("+~").partition("=")
        if not key or not (equals or word.startswith("~")):
            raise ValueError(f"'{word}' is no setting: write key=value, such as loss.beta=0.1")
    return given


def _jobs(words: Sequence[str], multirun: bool) -> list[list[str]]:
    """The override words of each job. Raises ValueError for several values of one setting without --multirun."""
    parsed = _parsed(words)
    for override in parsed:
        if override.is_sweep_override() and not multirun:
            raise ValueError(
                f"{override.input_line} gives several values: add -m to run each, or brackets for a list, "
                f"{override.get_key_element()}=[...]"
            )
    choices = [
        [f"{override.get_key_element()}={value}" for value in override.sweep_string_iterator()]
        if override.is_sweep_override()
        else [override.input_line]
        for override in parsed
    ]
    return [[str(word) for word in job] for job in product(*choices)]


def _parsed(words: Sequence[str]) -> list[Override]:
    try:
        return OverridesParser.create().parse_overrides(list(words))
    except OverrideParseException as error:
        raise ValueError(_unreadable(error)) from error


def _user_modules(words: Sequence[str], folders: Sequence[Path]) -> list[str]:
    """Modules named by `user_modules=...` on the command line, or else by the experiments' files."""
    settings = [word.lstrip("+").partition("=") for word in words]
    named: list[Any] = []
    for name in (name for key, _, value in settings if key == "experiment" for name in value.split(",")):
        for file in (folder / "experiment" / f"{name}.yaml" for folder in [CONF, *folders]):
            if file.is_file():
                named += _strings(OmegaConf.select(OmegaConf.load(file), "user_modules", default=[]))
    for key, _, value in settings:
        if key == "user_modules":
            named = _strings(_parsed([f"user_modules={value}"])[0].value())
    return named


def _strings(value: Any) -> list[str]:
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list | ListConfig) or not all(isinstance(name, str) and name for name in names):
        raise ValueError(f"user_modules must be a list of module names, such as [my_lab.losses], got {value!r}")
    return [str(name) for name in names]


def _offer_without_yaml(folders: Sequence[Path]) -> None:
    """Make every component that has no YAML file (a user's, mostly) an option of its group all the same."""
    for kind, registry in Registry.all.items():
        for name, cls in registry.items():
            if not any((folder / kind / f"{name}.yaml").is_file() for folder in [CONF, *folders]):
                ConfigStore.instance().store(group=kind, name=name, node=cls)


def _interrupt(number: int, frame: FrameType | None) -> None:
    """A terminated run leaves as an interrupted one does: its files are closed and say so."""
    raise KeyboardInterrupt
