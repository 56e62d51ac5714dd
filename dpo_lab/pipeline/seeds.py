"""What a run's seed varies."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any

from omegaconf import DictConfig, OmegaConf

OWN = ("seed", "runner.seed")
"""Seeds that follow no other."""


class Vary(Enum):
    """What differs between two runs that differ in `seed`.

    training: the order of the training data, dropout, and the numbers that the policy's samples are drawn with when it is
    judged. Data, base policy, an adapter's first weights, candidates with their labels, and held-out prompts with the
    reference's samples have seeds of their own.
    all: these too. Their seeds are the run's, and every run makes all of its stages itself.
    """

    training = "training"
    all = "all"


def apply_vary(config: DictConfig, words: Sequence[str]) -> None:
    """With vary=all, set every other seed to the run's.

    Raises ValueError for one that the configuration or the override words set to something else.
    """
    if Vary[str(getattr(config.vary, "name", config.vary))] is Vary.training:
        return
    given = {word.lstrip("+").partition("=")[0] for word in words}
    for path, parent in list(_parents_of_seeds(config)):
        value, default = parent.seed, _default(parent)
        if path in OWN or value == config.seed:
            continue
        if value != default or path in given:
            raise ValueError(_contradiction(path, value, config.seed))
        OmegaConf.update(config, path, "${seed}")


def check_vary(study: Any) -> None:
    """Raises ValueError where a study with vary=all has another seed than the run's."""
    for path, value in _seeds(study):
        if path not in OWN and value != study.seed:
            raise ValueError(_contradiction(path, value, study.seed))


def _contradiction(path: str, value: Any, seed: int) -> str:
    return f"{path}={value}, but with vary=all every seed is that of the run, {seed}: leave it out, or choose vary=training"


def _parents_of_seeds(config: DictConfig, prefix: str = "") -> Iterator[tuple[str, DictConfig]]:
    """Every seed of a configuration by its dotted name, and what it is a setting of."""
    for key in map(str, config):
        node = config._get_node(key)
        if key == "seed":
            yield f"{prefix}seed", config
        elif isinstance(node, DictConfig) and not node._is_missing() and not node._is_none() and not node._is_interpolation():
            yield from _parents_of_seeds(node, f"{prefix}{key}.")


def _default(parent: DictConfig) -> Any:
    schema = OmegaConf.get_type(parent)
    return next((f.default for f in fields(schema) if f.name == "seed"), None) if is_dataclass(schema) else None


def _seeds(part: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for setting in fields(part):
        value = getattr(part, setting.name)
        if setting.name == "seed":
            yield f"{prefix}seed", value
        elif is_dataclass(value):
            yield from _seeds(value, f"{prefix}{setting.name}.")
