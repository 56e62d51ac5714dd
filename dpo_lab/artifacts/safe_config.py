"""Reads the config.yaml of a saved run or policy safely: as data, whoever wrote it.

It names registered components. Nothing in it can import, call or look up anything.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dpo_lab.registry import Registry

T = TypeVar("T")


def read_config(path: Path) -> DictConfig:
    """The settings in a YAML file. Raises ValueError for a file without settings, for aliases and for interpolations."""
    try:
        if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(path.read_bytes())):
            raise ValueError("aliases, which can make a small file a huge one")
        loaded = OmegaConf.load(path)
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (ValueError, yaml.YAMLError, OmegaConfBaseException) as error:
        raise ValueError(f"{path}: no readable YAML ({' '.join(str(error).split())[:150]})") from error
    if not isinstance(loaded, DictConfig):
        raise ValueError(f"{path}: holds no settings but a {type(loaded).__name__.removesuffix('Config').lower()}")
    # Of the parsed values, not of the text: YAML can spell a dollar as \x24.
    if any("${" in text for text in _texts(OmegaConf.to_container(loaded, resolve=False))):
        raise ValueError(f"{path}: a saved configuration holds no interpolations (${{...}}); this one was edited")
    return loaded


def component(registry: Registry[T], config: DictConfig, path: Path, group: str) -> T:
    """Builds the component that the settings of `group` in `config` (read from `path`) describe."""
    settings = config.get(group)
    if not isinstance(settings, DictConfig) or not isinstance(settings.get("name"), str):
        raise ValueError(f"{path}: {group}.name is not set")
    try:
        cls = registry[settings.name]
        built: Any = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(cls), settings))
    except OmegaConfBaseException as error:
        raise ValueError(f"{path}: {group}.{error.full_key}: {str(error.__cause__ or error).splitlines()[0]}") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    assert isinstance(built, cls), (type(built), cls)
    return built


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from (*_texts(key), *_texts(item))
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)
