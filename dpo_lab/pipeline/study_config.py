"""Studies from configurations, composed or read from a file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from omegaconf.resolvers import oc

from dpo_lab.artifacts.safe_config import read_config
from dpo_lab.pipeline.study import CHOICES, Study
from dpo_lab.registry import Registry, suggestion


def to_study(config: DictConfig) -> Study:
    """The study that a configuration describes. Raises ValueError with one sentence for whatever is wrong."""
    with environment_refused():
        return _checked(config)


def _checked(config: DictConfig) -> Study:
    refuse_unknown_keys(config)
    for path, kind in CHOICES.items():
        node = OmegaConf.select(config, path)
        if not isinstance(node, DictConfig):
            raise ValueError(f"{path} is not set: choose one with {path}=...")
        name = node.name
        expected = OmegaConf.get_type(node)
        if Registry.all[kind][str(name)] is not expected:
            raise ValueError(f"{path}.name cannot be set by itself; choose with {path}={name}")
    missing = sorted(OmegaConf.missing_keys(config))
    if missing:
        raise ValueError(f"{missing[0]} is not set: give {missing[0]}=...")
    try:
        study = OmegaConf.to_object(config)
    except OmegaConfBaseException as error:
        raise ValueError(f"{error.full_key}: {str(error.__cause__ or error).splitlines()[0]}") from error
    assert isinstance(study, Study)
    return study


@contextmanager
def environment_refused() -> Iterator[None]:
    """Inside, ${oc.env:NAME} is a mistake: a run's settings are written to config.yaml, and the environment holds secrets."""

    def refuse(name: str, default: object = None) -> object:
        raise ValueError(f"${{oc.env:{name}}} would write the environment into config.yaml; give the value itself")

    OmegaConf.register_new_resolver("oc.env", refuse, replace=True)
    try:
        yield
    finally:
        OmegaConf.register_new_resolver("oc.env", oc.env, replace=True)


def refuse_unknown_keys(config: DictConfig) -> None:
    """Raises ValueError for a setting that no schema has."""
    for path in _unknown_keys(config):
        raise ValueError(f"there is no setting '{path}'.{meant(config, path)}")


def meant(config: DictConfig, path: str) -> str:
    """What a setting that does not exist may stand for: one of that name elsewhere, or the closest name beside it."""
    known = list(_settings(config))
    named_so = sorted((other for other in known if other.rpartition(".")[2] == path.rpartition(".")[2]), key=len)
    if named_so:
        return f" Did you mean {' or '.join(repr(other) for other in named_so[:3])}?"
    inside, _, name = path.rpartition(".")
    while inside and inside not in known:  # a part of the path is wrong already
        inside, _, name = inside.rpartition(".")
    beside = [other.removeprefix(f"{inside}.") for other in known if other.rpartition(".")[0] == inside]
    return suggestion(name, [*beside, *([] if inside else ["+experiment"])], within=f"{inside}." if inside else "")


def _settings(config: DictConfig, prefix: str = "") -> Iterator[str]:
    """The dotted path of every setting that the schemas of a configuration have."""
    schema = OmegaConf.get_type(config)
    for name in map(str, config) if schema in (None, dict) else [f.name for f in fields(schema)]:
        yield f"{prefix}{name}"
        node = config._get_node(name)
        if (
            isinstance(node, DictConfig)
            and OmegaConf.get_type(node) is not dict
            and not (node._is_none() or node._is_missing())
        ):
            yield from _settings(node, f"{prefix}{name}.")


def study_from_file(path: Path) -> Study:
    """The study that a run directory's config.yaml describes."""
    config = config_from_file(path)
    try:
        return to_study(config)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def config_from_file(path: Path) -> DictConfig:
    """A run directory's config.yaml under the schema. It can name registered components only, and runs nothing."""
    saved = read_config(path)
    config = OmegaConf.structured(Study)
    try:
        for choice, kind in CHOICES.items():
            name = OmegaConf.select(saved, f"{choice}.name")
            if name is None:
                raise ValueError(f"{choice}.name is not set")
            if str(name) not in Registry.all[kind] and saved.get("user_modules"):
                modules = ",".join(map(str, saved.user_modules))
                raise ValueError(f"there is no {kind} '{name}': give user_modules=[{modules}], as that run did")
            OmegaConf.update(config, choice, OmegaConf.structured(Registry.all[kind][str(name)]), merge=False)
        merged = OmegaConf.merge(config, saved)
        assert isinstance(merged, DictConfig)
        refuse_remote_code(merged)
    except OmegaConfBaseException as error:
        raise ValueError(f"{path}: {error.full_key}: {str(error).splitlines()[0]}") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return merged


def refuse_remote_code(config: DictConfig) -> None:
    """Raises ValueError where a configuration would have code run that comes with a model."""
    if OmegaConf.select(config, "model.trust_remote_code"):
        raise ValueError("model.trust_remote_code is for the command line alone: a file may not ask for it")


def _unknown_keys(config: DictConfig, prefix: str = "") -> Iterator[str]:
    """Settings that no schema has: they come in with + and ++."""
    schema = OmegaConf.get_type(config)
    if schema in (None, dict):
        return
    known = [f.name for f in fields(schema)]
    for key in map(str, config):
        path = f"{prefix}{key}"
        if key not in known:
            yield path
        elif OmegaConf.is_missing(config, key):
            continue
        elif isinstance(config._get_node(key), DictConfig) and config[key] is not None:
            yield from _unknown_keys(config[key], f"{path}.")
