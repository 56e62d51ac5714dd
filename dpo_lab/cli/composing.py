"""Composing a configuration from override words, or one sentence that says what is wrong with them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra import version
from hydra._internal.config_loader_impl import ConfigLoaderImpl, get_overrides_dirname
from hydra._internal.defaults_list import create_defaults_list
from hydra._internal.utils import create_config_search_path
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.default_element import ResultDefault
from hydra.core.override_parser.types import Override
from hydra.core.utils import setup_globals
from hydra.errors import HydraException, MissingConfigException
from hydra.plugins.config_source import ConfigResult
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from dpo_lab.cli import CONF
from dpo_lab.cli.grammar import key_of, of_hydra, parsed
from dpo_lab.cli.hydra_settings import refuse_code
from dpo_lab.cli.resumed_config import config_of_run
from dpo_lab.pipeline.resume import AUTO, NEVER
from dpo_lab.pipeline.seeds import apply_vary
from dpo_lab.pipeline.study import CHOICES
from dpo_lab.pipeline.study_config import meant, refuse_remote_code
from dpo_lab.registry import Registry, load_user_modules, suggestion

VERSION_BASE = "1.3"
PRIMARY = "config"


def composed(words: Sequence[str], folders: Sequence[Path] = ()) -> DictConfig:
    """The settings that the override words describe; `folders` hold further YAML files of the user."""
    return Composer(folders).settings(words)


@dataclass
class Composition:
    """A composition under way: the words that choose an option of a group, and the file that is being merged."""

    choices: list[Override]
    replaced: list[str] = field(default_factory=list)
    """Choices in which the words differ from the experiment."""
    file: str = ""


class Composer(ConfigLoaderImpl):
    """Hydra's config loader with the laboratory's rules. It composes each configuration once and caches it.

    An experiment's settings for a choice belong to that choice: where the words choose another loss, say, than the experiment,
    they start from that loss's own defaults. With `vary=all` every seed is the run's. With `resume=RUN` the configuration is
    that run's, and other words may only repeat it. Whatever is wrong is a ValueError of one sentence.

    Launchers of other machines send it along with a job; there it begins empty, and composes that job.
    """

    def __init__(self, folders: Sequence[Path] = (), user_modules: Sequence[str] = ()) -> None:
        version.setbase(VERSION_BASE)
        setup_globals()
        load_user_modules(user_modules)
        Registry.discover_all()
        path = create_config_search_path(str(CONF))
        for folder in folders:
            path.prepend("command-line", f"file://{folder.absolute()}", SearchPathQuery(provider="schema"))
        path.prepend("components", "components://", SearchPathQuery(provider="schema"))
        super().__init__(path)
        self.folders, self.user_modules = list(folders), list(user_modules)
        self._of_choices: dict[tuple[str, ...], DictConfig] = {}
        self._of_words: dict[tuple[str, ...], DictConfig] = {}
        self._settings: dict[tuple[str, ...], DictConfig] = {}
        self._composition = Composition([])

    def __reduce__(self) -> tuple[Callable[..., Composer], tuple[Any, ...]]:
        return Composer, (self.folders, self.user_modules)

    def compose(self, words: Sequence[str]) -> DictConfig:
        """The whole configuration, Hydra's own part included. It is cached: do not change it."""
        key = tuple(words)
        if key not in self._of_words:
            self._of_words[key] = self._compose(words)
        return self._of_words[key]

    def settings(self, words: Sequence[str]) -> DictConfig:
        """The configuration of a study. It is cached: do not change it."""
        key = tuple(words)
        if key not in self._settings:
            config = copy.deepcopy(self.compose(words))
            with open_dict(config):
                del config["hydra"]
            if not any(word.lstrip("+").startswith("model.trust_remote_code=") for word in words):
                refuse_remote_code(config)
            apply_vary(config, words)
            if config.resume not in (AUTO, NEVER):
                config = config_of_run(config, [word for word in words if not of_hydra(word)])
            self._settings[key] = config
        return self._settings[key]

    # ---- What Hydra and its plugins ask of a loader

    def load_configuration(
        self,
        config_name: str | None,
        overrides: list[str],
        run_mode: RunMode,
        from_shell: bool = True,
        validate_sweep_overrides: bool = True,
    ) -> DictConfig:
        """A copy of the configuration; for a sweep, the part that its jobs share."""
        if run_mode is RunMode.RUN:
            return self._with_hydra(overrides)
        config = copy.deepcopy(self.compose([word for word in overrides if of_sweep(word)]))
        config.hydra.overrides.task = [word for word in overrides if not of_hydra(word)]
        return config

    def load_sweep_config(self, master_config: DictConfig, sweep_overrides: list[str]) -> DictConfig:
        """A job's configuration, as a launcher asks for it: its settings by our rules, and Hydra's part."""
        config = self._with_hydra([*master_config.hydra.overrides.hydra, *sweep_overrides])
        OmegaConf.copy_cache(from_config=master_config, to_config=config)
        return config

    def _with_hydra(self, words: Sequence[str]) -> DictConfig:
        """A copy of a study's settings, with Hydra's own part beside them."""
        config = copy.deepcopy(self.settings(words))
        with open_dict(config):
            config.hydra = copy.deepcopy(self.compose(words).hydra)
        return config

    # ---- The way there: files are merged as the choices say, then each value is set

    def _compose(self, words: Sequence[str]) -> DictConfig:
        overrides = parsed(words)
        choices = [override for override in overrides if self._is_choice(override)]
        values = [override for override in overrides if override not in choices]
        key = tuple(str(choice.input_line) for choice in choices)
        if key not in self._of_choices:
            self._of_choices[key] = self._merged(choices)
        config = copy.deepcopy(self._of_choices[key])
        for override in values:
            _set(config, override)
        own = [override for override in overrides if not override.is_hydra_override()]
        config.hydra.overrides.task = [override.input_line for override in own]
        config.hydra.overrides.hydra = [override.input_line for override in overrides if override not in own]
        names = config.hydra.job.config.override_dirname
        config.hydra.job.override_dirname = get_overrides_dirname(own, names.exclude_keys, names.item_sep, names.kv_sep)
        refuse_code(config.hydra)
        return config

    def _is_choice(self, override: Override) -> bool:
        group = override.key_or_group
        return group == "hydra.searchpath" or (self.repository.group_exists(group) and not isinstance(override.value(), dict))

    def _merged(self, choices: list[Override]) -> DictConfig:
        self._composition = Composition(choices)
        lines = [str(choice.input_line) for choice in choices]
        try:
            return super().load_configuration(PRIMARY, lines, RunMode.RUN, from_shell=False)
        except MissingConfigException as error:
            group, _, name = (error.missing_cfg_file or "").rpartition("/")
            known = [option for option in error.options or [] if not option.startswith("schema")]
            raise ValueError(f"there is no {group} '{name}'.{suggestion(name, known)}") from error
        except (HydraException, OmegaConfBaseException) as error:
            raise ValueError(self._why_not_merged(error)) from error

    def _why_not_merged(self, error: Exception) -> str:
        if self._composition.file:  # of the file that was being merged Hydra tells in words what OmegaConf has raised
            cause = error.__context__
            if isinstance(cause, OmegaConfBaseException):
                what = f"{self._composition.file}.yaml cannot set {cause.full_key or 'a value'}"
                return f"{what}: {str(cause).splitlines()[0]}; keep its choices, or change a copy in a --config-dir"
        else:
            known = create_defaults_list(self.repository, PRIMARY, [], True, False).overrides.known_choices
            for choice in self._composition.choices:
                if not choice.is_add() and choice.get_key_element() not in known:
                    return f"there is no setting '{choice.get_key_element()}'." + suggestion(
                        choice.get_key_element(), ["+experiment", *(name for name in known if not name.startswith("hydra/"))]
                    )
        return str(error.__cause__ or error).strip().splitlines()[0]

    def _compose_config_from_defaults_list(self, defaults: list[ResultDefault], repo: Any) -> DictConfig:
        """Merge the files. An experiment's settings for a choice are left out where the words choose otherwise."""
        choices = self._composition.choices
        experiment = [choice for choice in choices if choice.key_or_group == "experiment"]
        paths = {choice.package or choice.key_or_group for choice in choices} & set(CHOICES)
        if experiment and paths:
            alone = create_defaults_list(repo, PRIMARY, experiment, True, False).defaults
            self._composition.replaced = [path for path in paths if _component(alone, path) != _component(defaults, path)]
        return super()._compose_config_from_defaults_list(defaults, repo)

    def _load_single_config(self, default: ResultDefault, repo: Any) -> ConfigResult:
        self._composition.file = str(default.config_path)
        loaded = super()._load_single_config(default, repo)
        if self._composition.file.startswith("experiment/"):
            for path in self._composition.replaced:
                part, _, name = path.rpartition(".")
                parent: Any = OmegaConf.select(loaded.config, part) if part else loaded.config
                if isinstance(parent, DictConfig):
                    parent.pop(name, None)
        return loaded


def of_sweep(word: str) -> bool:
    """Whether the word concerns a sweep as a whole: how its jobs are run, or its experiment."""
    return of_hydra(word) or (key_of(word) == "experiment" and "," not in word)


def _component(defaults: Sequence[ResultDefault], path: str) -> str:
    """The registered component at `path`: of its option, or of the schema that the option's file begins with."""
    names = [str(default.config_path) for default in defaults if default.package == path]
    schemas = [name for name in names if name.startswith("schema/")]
    return (schemas or names or [""])[-1].rpartition("/")[2]


def _set(config: DictConfig, override: Override) -> None:
    """Apply one override word that sets a value."""
    try:
        ConfigLoaderImpl._apply_overrides_to_config([override], config)
    except (HydraException, OmegaConfBaseException) as error:
        node: Any = config
        for name in override.key_or_group.split("."):
            if not isinstance(node, DictConfig):
                break
            if name not in node:
                raise ValueError(
                    f"there is no setting '{override.key_or_group}'.{meant(config, override.key_or_group)}"
                ) from error
            node = node._get_node(name)
        cause = str(error.__cause__ or error).strip().splitlines()[0]
        raise ValueError(f"{override.input_line}: {cause}") from error
