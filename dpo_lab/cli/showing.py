"""What --help, --cfg, --info, --hydra-help and --shell-completion print."""

from __future__ import annotations

import sys
from typing import Any

from hydra._internal.hydra import Hydra
from hydra._internal.utils import get_args_parser
from omegaconf import DictConfig, ListConfig, OmegaConf

from dpo_lab.cli.arguments import CommandLine
from dpo_lab.cli.composing import PRIMARY, Composer
from dpo_lab.cli.grammar import spelled_out
from dpo_lab.cli.help_text import help_text
from dpo_lab.pipeline.study_config import refuse_unknown_keys


def show(command: CommandLine, composer: Composer, hydra: Hydra) -> None:
    """Print what the command asks for."""
    options, words = command.options, spelled_out(command.words)
    if options.cfg:
        settings = composer.settings(command.words)
        refuse_unknown_keys(settings)
        if options.cfg == "job":
            print(OmegaConf.to_yaml(_part_of(settings, options.package), resolve=options.resolve), end="")
        else:
            hydra.show_cfg(PRIMARY, words, options.cfg, options.package, options.resolve)
    elif options.info:
        hydra.show_info(options.info, PRIMARY, words)
    else:
        _show_with_hydras_parser(command, composer, hydra, words)


def _show_with_hydras_parser(command: CommandLine, composer: Composer, hydra: Hydra, words: list[str]) -> None:
    sys.argv = ["dpo-lab", *command.written]  # the program's name in what Hydra prints
    parser = get_args_parser()
    asked = parser.parse_intermixed_args(command.written)  # flags stand before, between and after settings
    if asked.help:
        print(help_text(command.user_modules))
        if words:
            print(f"THE CONFIGURATION OF {' '.join(words)}\n\n{OmegaConf.to_yaml(composer.settings(command.words))}", end="")
    elif asked.hydra_help:
        hydra.hydra_help(PRIMARY, parser, asked)
    elif asked.shell_completion:
        hydra.shell_completion(PRIMARY, words)


def _part_of(config: DictConfig, package: str | None) -> Any:
    """The setting or group at a dotted path; all of it without one."""
    part = config if package is None else OmegaConf.select(config, package)
    if part is None:
        raise ValueError(f"--package: there is no setting '{package}'")
    return part if isinstance(part, DictConfig | ListConfig) else OmegaConf.create({str(package).rpartition(".")[2]: part})
