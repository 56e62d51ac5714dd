"""The code behind a computation: digests of the modules that it imports, and the versions of the libraries they call.

Imports are read from the source, not from what happens to be loaded, so that every process finds the same. A name that a
package's `__init__` only passes on leads to the module that defines it, and not to everything else that the package holds.
"""

from __future__ import annotations

import inspect
import platform
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from dpo_lab.artifacts.identity.sources import (
    PACKAGE,
    file_of,
    is_code,
    leads_to,
    packages_above,
    passed_on_by,
    short_digest,
    source_of,
)
from dpo_lab.artifacts.identity.typed import MAIN, typed

NEUTRAL = (
    *("dpo_lab.registry", "dpo_lab.artifacts", "dpo_lab.tracking", "dpo_lab.compare"),
    *("dpo_lab.pipeline.context", "dpo_lab.pipeline.stopping", "dpo_lab.pipeline.study", "dpo_lab.pipeline.varying"),
)
"""Modules that hand numbers or settings on, store them or show them, and never make one: no digest depends on them."""
CARRIERS = (
    "jaxtyping",
    "beartype",
    "omegaconf",
    "hydra",
    "yaml",
    "filelock",
    "rich",
    "safetensors",
    "tensorboard",
    "matplotlib",
)
"""Libraries of which the same is true."""
UNDERNEATH = {
    "sklearn": ("numpy", "scipy"),
    "x_transformers": ("einops", "einx", "torch"),
    "transformers": ("tokenizers", "torch"),
}
"""What else computes where these are called."""
DISTRIBUTIONS = {"sklearn": "scikit-learn", "x_transformers": "x-transformers"}
"""Names under which some are installed, which need not be looked up: that takes a second."""


@dataclass(frozen=True)
class Code:
    """What a computation was written in. Two that are equal compute the same from the same input, on the same machine."""

    modules: Mapping[str, str] = field(default_factory=dict)
    """Of each module of this package or of the user's, the first 12 digits of its file's sha256."""
    versions: Mapping[str, str | None] = field(default_factory=dict)
    """Of Python and of each library; None for one that is not installed."""

    def __or__(self, other: Code) -> Code:
        return Code({**self.modules, **other.modules}, {**self.versions, **other.versions})

    def plain(self) -> dict[str, Any]:
        return {"modules": dict(sorted(self.modules.items())), "versions": dict(sorted(self.versions.items()))}


def code_of(*roots: Callable[..., Any] | ModuleType | str) -> Code:
    """The code behind classes, modules (or their names), and functions.

    A class or module stands for its file and all that this imports; a function for its own source alone, so that what it
    calls has to be given beside it. An import within a function of this package counts where its module is a root, as that of
    a chosen component is: the others are for what was not chosen.
    """
    modules: dict[str, str] = {}
    libraries: set[str] = set()
    own: set[str] = set()
    classes: dict[str, type] = {}
    for root in roots:
        if isinstance(root, type):
            own |= {each.__module__ for each in root.__mro__}
            classes |= {each.__qualname__: each for each in root.__mro__ if each.__module__ == MAIN}
        elif isinstance(root, str | ModuleType):
            own.add(root if isinstance(root, str) else root.__name__)
        else:
            name = f"{root.__module__}:{root.__qualname__}".replace(".<locals>", "")
            modules[name] = short_digest(inspect.getsource(root).encode())
    waiting = sorted(own)
    while waiting:
        name = waiting.pop()
        if name in modules or _is_neutral(name):
            continue
        top = name.partition(".")[0]
        source = source_of(name) if is_code(top) else None
        if source is None:
            compiled = file_of(name) if is_code(top) else None
            if name == MAIN:
                text, named = typed(classes[one] for one in sorted(classes))
                modules[name] = short_digest(text.encode())
                waiting += sorted(named)
            elif compiled is not None:
                modules[name] = short_digest(compiled.read_bytes())
            elif not is_code(top):
                libraries.add(top)
            continue
        modules[name] = source.digest
        for imported in source.imports:
            if not imported.late or top != PACKAGE or name in own:
                found = leads_to(imported)
                own |= set(found) if imported.late else set()
                waiting += found
        waiting += [package for package in packages_above(name) if passed_on_by(package) is None]
    return Code(modules, {**_versions(libraries), **_announced({name.partition(".")[0] for name in modules})})


def components(value: Any) -> Iterator[type]:
    """The classes of the dataclasses that a settings object is made of, itself and the losses of a mix included."""
    if is_dataclass(value) and not isinstance(value, type):
        yield type(value)
        names = {each.name for each in fields(value)}
        made = [held for name, held in vars(value).items() if name not in names and isinstance(held, list)]
        for item in [*(getattr(value, name) for name in names), *made]:
            yield from components(item)
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from components(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from components(item)


def _is_neutral(name: str) -> bool:
    return any(name == neutral or name.startswith(f"{neutral}.") for neutral in NEUTRAL)


def _versions(libraries: Iterable[str]) -> dict[str, str | None]:
    """Of the distributions that provide these top-level packages, and of what computes underneath."""
    tops = {top for top in libraries if top not in sys.stdlib_module_names and top not in CARRIERS}
    tops |= {below for top in tops for below in UNDERNEATH.get(top, ())}
    found: dict[str, str | None] = {"python": platform.python_version()}
    for top in sorted(tops):
        name = DISTRIBUTIONS.get(top, top)
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            others = _distributions().get(top, []) if find_spec(top) is not None else []
            found.update({other: version(other) for other in others} if others else {name: None})
    return found


def _announced(packages: Iterable[str]) -> dict[str, str]:
    """Of packages of the user's that count as code and have a version besides, as an editable installation has."""
    found = {}
    for package in sorted(set(packages) - {PACKAGE, MAIN}):
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


@cache
def _distributions() -> Mapping[str, list[str]]:
    return packages_distributions()
