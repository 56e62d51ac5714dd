"""From the words on the command line to runs."""

from __future__ import annotations

import argparse
import signal
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from hydra._internal.hydra import Hydra
from hydra._internal.utils import get_args_parser
from omegaconf import DictConfig, ListConfig, OmegaConf
from yaml import YAMLError

from dpo_lab.cli import CONF
from dpo_lab.cli.composing import PRIMARY, Composer
from dpo_lab.cli.grammar import of_hydra, parsed, renamed, spelled_out
from dpo_lab.cli.help_text import help_text
from dpo_lab.cli.planning import in_order, jobs_of_command
from dpo_lab.cli.sweeps import Ledger, Task
from dpo_lab.cli.sweeps.ledger import State
from dpo_lab.cli.sweeps.processes import interrupt
from dpo_lab.cli.validation import validated
from dpo_lab.pipeline.resume import AUTO, NEVER
from dpo_lab.pipeline.stopping import PreemptedError
from dpo_lab.pipeline.study_config import refuse_unknown_keys
from dpo_lab.tracking import Console

INFO = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")


def run_command(arguments: Sequence[str]) -> int:
    """The exit status of a whole command; see `__main__`."""
    signal.signal(signal.SIGTERM, interrupt)
    written, arguments = list(arguments), [renamed(word) for word in arguments]
    try:
        given = _parse(arguments)
        composer = Composer(given.folders, _user_modules(given.words, given.folders))
        hydra = Hydra("dpo_lab", composer)
        if given.looking:
            return _show(given, hydra, composer, arguments)
        commanded = jobs_of_command(given.words, given.multirun, composer)
        hydra_words = [word for word in given.words if of_hydra(word)]
        task = Task(written, composer, hydra_words, commanded.multirun)
        task.ledger = Ledger() if commanded.multirun and not commanded.search else None
        for words in commanded.jobs:
            job = task.job(words)
            study = validated(job.config, words)
            if commanded.multirun and job.config.resume not in (AUTO, NEVER):
                raise ValueError("resume=RUN resumes a single run: leave out -m, or RUN")
            if task.ledger is not None:
                task.ledger.add(words, study)
    except (ValueError, YAMLError) as error:
        print("error:", " ".join(str(error).split()), file=sys.stderr)
        return 2
    try:
        if commanded.multirun:
            hydra.multirun(PRIMARY, task, spelled_out(in_order(given.words)))
        else:
            hydra.run(PRIMARY, task, in_order(given.words))
    except PreemptedError:
        return 130 if commanded.multirun else 0  # a single run is saved; of a sweep jobs are missing
    except KeyboardInterrupt:
        return 130
    except SystemExit as ended:  # of Hydra's, or a plugin's that has said why
        return ended.code if isinstance(ended.code, int) else 1
    finally:
        if task.ledger is not None and len(task.ledger.of(State.waiting)) < len(task.ledger.entries):
            sum_up(task.ledger)
    return task.code if task.ledger is None else int(bool(task.ledger.bad))


def _show(given: argparse.Namespace, hydra: Hydra, composer: Composer, arguments: Sequence[str]) -> int:
    """Print what the user wants to look at."""
    words = spelled_out(given.words)
    if given.cfg:
        config = composer.settings(given.words)
        refuse_unknown_keys(config)
        if given.cfg == "job":
            print(OmegaConf.to_yaml(_part_of(config, given.package), resolve=given.resolve), end="")
        else:
            hydra.show_cfg(PRIMARY, words, given.cfg, given.package, given.resolve)
    elif given.info:
        hydra.show_info(given.info, PRIMARY, words)
    else:
        sys.argv = ["dpo-lab", *arguments]  # the program's name in what Hydra prints
        parser = get_args_parser()
        asked = parser.parse_args(list(arguments))
        if asked.help:
            print(help_text(composer.user_modules))
            if words:
                print(f"THE CONFIGURATION OF {' '.join(words)}\n\n{OmegaConf.to_yaml(composer.settings(given.words))}", end="")
        elif asked.hydra_help:
            hydra.hydra_help(PRIMARY, parser, asked)
        elif asked.shell_completion:
            hydra.shell_completion(PRIMARY, words)
    return 0


def sum_up(ledger: Ledger) -> None:
    """Last lines of a sweep: how many jobs ended how, and which ones badly."""
    console, counts = Console(), Counter(entry.state for entry in ledger.entries)
    console.note("sweep: " + ", ".join(f"{counts[state]} {state}" for state in State if counts[state]))
    for entry in (entry for entry in ledger.of(State.reused) if entry.reason):
        console.note(f"{entry.state}: {ledger.title(entry)}, {entry.reason} ({entry.run})")
    for entry in ledger.bad:
        reason = f" ({entry.reason})" if entry.reason not in ("", entry.state.value) else ""
        console.warn(f"{entry.state}: {ledger.title(entry)}{reason}" + (f", in {entry.run}" if entry.run else ""))


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


def _part_of(config: DictConfig, package: str | None) -> Any:
    """The setting or group at a dotted path; all of it without one."""
    part = config if package is None else OmegaConf.select(config, package)
    if part is None:
        raise ValueError(f"--package: there is no setting '{package}'")
    return part if isinstance(part, DictConfig | ListConfig) else OmegaConf.create({str(package).rpartition(".")[2]: part})


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
