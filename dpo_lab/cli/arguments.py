"""The words and options of a command line."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from omegaconf import ListConfig, OmegaConf

from dpo_lab.cli import CONF
from dpo_lab.cli.grammar import key_of, parsed, renamed
from dpo_lab.cli.quoting import as_written

INFO = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")


@dataclass
class CommandLine:
    """A parsed command line."""

    written: list[str]
    """As it was typed."""
    options: argparse.Namespace
    words: list[str]
    """Override words, with settings under the names that the schema has."""
    folders: list[Path]
    """Folders with the user's own YAML files."""
    user_modules: list[str]

    @property
    def only_shows(self) -> bool:
        """Something is to be shown, and nothing to be run."""
        return bool(self.options.looking or self.options.cfg or self.options.info)


class _Parser(argparse.ArgumentParser):
    """A parser that raises ValueError."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message}; --help lists what there is")


def parse_arguments(arguments: Sequence[str]) -> CommandLine:
    """The command line's options, which are Hydra's, and its words. Raises ValueError for anything else."""
    parser = _Parser(prog="dpo-lab", add_help=False, allow_abbrev=False)
    parser.add_argument("--config-dir", "-cd", type=Path)
    parser.add_argument("--multirun", "-m", action="store_true")
    parser.add_argument("--cfg", "-c", choices=("job", "hydra", "all"))
    parser.add_argument("--package", "-p")
    parser.add_argument("--resolve", action="store_true")
    parser.add_argument("--info", "-i", nargs="?", const="all", choices=INFO)
    for flags in (("--help", "-h"), ("--hydra-help",), ("--version",), ("--shell-completion", "-sc")):
        parser.add_argument(*flags, dest="looking", action="store_true")
    options, words = parser.parse_known_args(_info_alone(arguments))
    words = [as_written(renamed(word), options.multirun) for word in words]
    folders = [options.config_dir] if options.config_dir else []
    if options.multirun and (options.looking or options.cfg or options.info):
        raise ValueError("--multirun runs a sweep; leave it out to look at one configuration")
    for folder in folders:
        if not folder.is_dir():
            raise ValueError(f"--config-dir: there is no directory {folder}")
    for word in words:
        if word.startswith("-"):
            raise ValueError(f"there is no option {word}; --help lists what there is")
        if not key_of(word) or not ("=" in word or word.startswith("~")):
            raise ValueError(f"'{word}' is no setting: write key=value, such as loss.beta=0.1")
    return CommandLine(list(arguments), options, words, folders, _user_modules(words, folders))


def _info_alone(arguments: Sequence[str]) -> list[str]:
    """The arguments, with what --info shows said where a setting follows it, which is no answer to that."""
    followed = zip(arguments, [*arguments[1:], ""], strict=False)
    return ["--info=all" if one in ("--info", "-i") and "=" in after else one for one, after in followed]


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
            named = _strings(parsed([f"user_modules={value}"])[0].value())
    return named


def _strings(value: Any) -> list[str]:
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list | ListConfig) or not all(isinstance(name, str) and name for name in names):
        raise ValueError(f"user_modules must be a list of module names, such as [my_lab.losses], got {value!r}")
    return [str(name) for name in names]
