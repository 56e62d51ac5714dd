"""From override words to a configuration, or to one sentence that says what is wrong with them."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from dpo_lab.artifacts.fingerprint import describe_values
from dpo_lab.cli.grammar import unreadable
from dpo_lab.cli.hydra_settings import refuse_code
from dpo_lab.pipeline.base import RunnerSpec
from dpo_lab.pipeline.resume import AUTO, NEVER
from dpo_lab.pipeline.study import CHOICES, Study, config_from_file, refuse_remote_code, to_study
from dpo_lab.pipeline.varying import let_all_follow
from dpo_lab.registry import Registry, suggestion

VERSION_BASE = "1.3"
READ_BY_ALL = ("runner", "compute", "name", "runs", "store", "resume", "user_modules", "experiment", "hydra")
PACKAGE = Path(__file__).parents[1]
CONF = PACKAGE / "conf" if (PACKAGE / "conf").is_dir() else PACKAGE.parent / "conf"  # in a wheel, or beside the sources


def validate(words: Sequence[str], folders: Sequence[Path] = ()) -> Study:
    """The study that the override words describe, ready to run. Raises ValueError with one sentence where that fails."""
    return validated(composed(words, folders), words)


def validated(config: DictConfig, words: Sequence[str]) -> Study:
    """The study that a configuration describes, made of these words, as `validate` has it."""
    study = to_study(config)
    refuse_unread(study.runner, words)
    study.data.fingerprint()  # its files must be there before any work starts
    study.model.weights()
    study.reference.weights()
    study.runner.check(study)
    return study


def refuse_unread(runner: RunnerSpec, words: Sequence[str]) -> None:
    """Raises ValueError for a word that sets what the runner does not look at."""
    if runner.reads is None:
        return
    for word in words:
        key = word.lstrip("+~").partition("=")[0].rpartition("@")[2]
        if not any(key == known or key.startswith((f"{known}.", f"{known}/")) for known in (*runner.reads, *READ_BY_ALL)):
            raise ValueError(f"{key}: runner={runner.name} does not look at it, so it would change nothing: leave it out")


def composed(words: Sequence[str], folders: Sequence[Path] = ()) -> DictConfig:
    """The configuration that the override words describe; `folders` hold further YAML files of the user.

    An experiment's settings for a choice belong to that choice: where the words choose another loss, say, than the experiment,
    they start from that loss's own defaults. With `vary=all` every seed is the run's. With `resume=RUN` it is that run's, and
    other words may only repeat it.
    """
    config = _composed(words, folders, lambda all_words: _with_own_choices(_safe(all_words), all_words))
    if not any(word.lstrip("+").startswith("model.trust_remote_code=") for word in words):
        refuse_remote_code(config)
    let_all_follow(config, words)
    return config if config.resume in (AUTO, NEVER) else _of_run(config, words)


def _safe(words: list[str]) -> DictConfig:
    """The configuration as Hydra composes it, once Hydra's own part of it has been looked at."""
    config = compose("config", words, return_hydra_config=True)
    refuse_code(config.hydra)
    with open_dict(config):
        del config["hydra"]
    return config


def _of_run(config: DictConfig, words: Sequence[str]) -> DictConfig:
    """The configuration of the run that `resume` names, put where that run is."""
    run = Path(config.resume).expanduser()
    if not (run / "config.yaml").is_file() or not (run / "run.json").is_file():
        raise ValueError(f"resume: {run} is no run directory: give one of {config.runs}/, or resume=auto")
    saved = config_from_file(run / "config.yaml")
    own = {"resume": config.resume, "runs": str(run.absolute().parents[len(str(saved.name).split("/"))])}
    own["store"] = config.store if any(word.startswith("store=") for word in words) else saved.store
    kept, asked = ({**_plain(each), **own} for each in (saved, config))
    changed = describe_values(kept, asked)
    if changed and any(word.partition("=")[0] not in {*own, "user_modules"} for word in words):
        more = f"; and {len(changed) - 4} more" if len(changed) > 4 else ""
        raise ValueError(f"resume: {run.name} has other settings ({'; '.join(changed[:4])}{more}): give resume=RUN alone")
    for name, value in own.items():
        OmegaConf.update(saved, name, value)
    return saved


def _plain(config: DictConfig) -> dict[str, Any]:
    found = OmegaConf.to_container(config, resolve=True, enum_to_str=True)
    assert isinstance(found, dict)
    return {str(name): value for name, value in found.items()}


def _composed(words: Sequence[str], folders: Sequence[Path], how: Callable[[list[str]], DictConfig]) -> DictConfig:
    if folders:
        words = [*words, f"hydra.searchpath=[{','.join(f'file://{folder.absolute()}' for folder in folders)},components://]"]
    Registry.discover_all()
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
    theirs = _remembered((*experiments, *kept))
    for path, key in chosen.items():
        if OmegaConf.select(theirs, f"{path}.name") != OmegaConf.select(config, f"{path}.name"):
            own = [word for other, word in by_key if other == key or other.startswith(f"{path}.")]
            alone = OmegaConf.select(_remembered((*own, *kept)), path)
            OmegaConf.update(config, path, copy.deepcopy(alone), merge=False)
    return config


@lru_cache(maxsize=256)
def _remembered(words: tuple[str, ...]) -> DictConfig:
    """A configuration to look things up in; the jobs of a sweep look up the same ones."""
    return compose("config", overrides=list(words))


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
            try:
                node: Any = compose("config", overrides=others)
            except (HydraException, OmegaConfBaseException) as another:  # more than this word is wrong
                return _explained(another, others)
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


def hydras_own(words: Sequence[str], folders: Sequence[Path] = ()) -> DictConfig:
    """How the override words have jobs run: the `hydra` part of the configuration."""
    hydra = _composed(words, folders, lambda words: compose("config", words, return_hydra_config=True)).hydra
    assert isinstance(hydra, DictConfig)
    refuse_code(hydra)
    return hydra
