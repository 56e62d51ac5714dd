"""From override words to a configuration, or to one sentence that says what is wrong with them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dpo_lab.grammar import parsed, unreadable
from dpo_lab.registry import suggestion
from dpo_lab.runners.study import CHOICES, Study, to_study

VERSION_BASE = "1.3"
PACKAGE = Path(__file__).parent
CONF = PACKAGE / "conf" if (PACKAGE / "conf").is_dir() else PACKAGE.parent / "conf"  # in a wheel, or beside the sources


def validate(words: Sequence[str], folders: Sequence[Path] = ()) -> Study:
    """The study that the override words describe, ready to run. Raises ValueError with one sentence where that fails."""
    study = to_study(composed(words, folders))
    study.data.fingerprint()  # its files must be there before any work starts
    study.model.weights()
    study.runner.check(study)
    return study


def composed(words: Sequence[str], folders: Sequence[Path] = ()) -> DictConfig:
    """The configuration that the override words describe; `folders` hold further YAML files of the user.

    An experiment's settings for a choice belong to that choice: where the words choose another loss, say, than the experiment,
    they start from that loss's own defaults.
    """
    return _composed(words, folders, lambda all_words: _with_own_choices(compose("config", overrides=all_words), all_words))


def _composed(words: Sequence[str], folders: Sequence[Path], how: Callable[[list[str]], DictConfig]) -> DictConfig:
    if folders:
        words = [*words, f"hydra.searchpath=[{','.join(f'file://{folder.absolute()}' for folder in folders)}]"]
    with _outside_any_job(), initialize_config_dir(str(CONF), job_name="dpo_lab", version_base=VERSION_BASE):
        try:
            return how(list(words))
        except MissingConfigException as error:
            group, _, name = (error.missing_cfg_file or "").rpartition("/")
            known = [option for option in error.options or [] if not option.startswith("schema")]
            raise ValueError(f"there is no {group} '{name}'.{suggestion(name, known)}") from error
        except (HydraException, OmegaConfBaseException) as error:
            raise ValueError(_explained(error, words)) from error


@contextmanager
def _outside_any_job() -> Iterator[None]:
    """Hydra composes only while it runs nothing: inside a job, let it forget the job for a while."""
    running = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        yield
    finally:
        GlobalHydra.instance().hydra = running


def _with_own_choices(config: DictConfig, words: Sequence[str]) -> DictConfig:
    """`config`, without an experiment's settings for choices that the words make differently."""
    by_key = [(word.lstrip("+~").partition("=")[0], word) for word in words]
    experiments = [word for key, word in by_key if key == "experiment"]
    chosen = {key.rpartition("@")[2]: key for key, _ in by_key if key.rpartition("@")[2] in CHOICES}
    if not experiments or not chosen:
        return config
    kept = [word for key, word in by_key if key.startswith("hydra.")]
    theirs = compose("config", overrides=[*experiments, *kept])
    for path, key in chosen.items():
        if OmegaConf.select(theirs, f"{path}.name") != OmegaConf.select(config, f"{path}.name"):
            own = [word for other, word in by_key if other == key or other.startswith(f"{path}.")]
            OmegaConf.update(config, path, OmegaConf.select(compose("config", overrides=[*own, *kept]), path), merge=False)
    return config


def _explained(error: Exception, words: Sequence[str]) -> str:
    """One sentence for what Hydra says in several, with a suggestion for a misspelt key."""
    if isinstance(error, OverrideParseException):
        return unreadable(error)
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


def jobs(words: Sequence[str], multirun: bool, folders: Sequence[Path] = ()) -> list[list[str]]:
    """The override words of each job, an experiment's own sweep included.

    Raises ValueError for several values of one setting, or an experiment that is a sweep, without --multirun.
    """
    overrides = parsed(words)
    for override in overrides:
        if override.is_sweep_override() and not multirun:
            raise ValueError(
                f"{override.input_line} gives several values: add -m to run each, or brackets for a list, "
                f"{override.get_key_element()}=[...]"
            )
    swept = parsed(_own_sweep(words, folders))
    choices = [
        [f"{override.get_key_element()}={value}" for value in override.sweep_string_iterator()]
        if override.is_sweep_override()
        else [override.input_line]
        for override in [*swept, *overrides]
        if not of_hydra(str(override.input_line))
    ]
    found = [[str(word) for word in job] for job in product(*choices)]
    if swept and not multirun:
        keys = ", ".join(override.get_key_element() for override in swept)
        raise ValueError(
            f"this experiment is a sweep over {keys}: add -m to run its {len(found)} jobs, or give a value for each"
        )
    return found


def _own_sweep(words: Sequence[str], folders: Sequence[Path]) -> list[str]:
    """The words by which an experiment file sweeps (its hydra.sweeper.params), but for settings that `words` give."""
    by_key = [(word.lstrip("+~").partition("=")[0], word) for word in words]
    read = [word for key, word in by_key if (key == "experiment" and "," not in word) or of_hydra(word)]
    if not read:
        return []
    hydra = _composed(read, folders, lambda words: compose("config", words, return_hydra_config=True)).hydra
    given = {key for key, _ in by_key}
    return [f"{key}={value}" for key, value in (hydra.sweeper.get("params") or {}).items() if key not in given]


def of_hydra(word: str) -> bool:
    """The word says how jobs are run, not what a job is."""
    return word.lstrip("+~").startswith(("hydra.", "hydra/"))
