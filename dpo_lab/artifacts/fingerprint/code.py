"""The code behind a computation: a digest of each module that it imports, and the versions of the libraries they call.

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

from dpo_lab.artifacts.fingerprint.interactive import MAIN, source_of_classes
from dpo_lab.artifacts.fingerprint.sources import (
    PACKAGE,
    file_of,
    is_code,
    leads_to,
    packages_above,
    passed_on_by,
    short_digest,
    source_of,
)

NEUTRAL = (
    *("dpo_lab.registry", "dpo_lab.artifacts", "dpo_lab.tracking", "dpo_lab.compare"),
    *("dpo_lab.pipeline.context", "dpo_lab.pipeline.stopping", "dpo_lab.pipeline.study", "dpo_lab.pipeline.study_config"),
    *("dpo_lab.pipeline.seeds", "dpo_lab.pipeline.runner_settings"),
)
"""Modules that pass on, store or show numbers and settings but never compute one: no fingerprint depends on them."""
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
"""Libraries that compute no number either."""
UNDERNEATH = {
    "sklearn": ("numpy", "scipy"),
    "x_transformers": ("einops", "einx", "torch"),
    "transformers": ("tokenizers", "torch"),
}
"""Libraries that these call in turn."""
DISTRIBUTIONS = {"sklearn": "scikit-learn", "x_transformers": "x-transformers"}
"""Names under which some libraries are installed: to look them up takes a second."""


@dataclass(frozen=True)
class Code:
    """The version of the code behind a computation: equal ones compute the same from the same input on the same machine."""

    modules: Mapping[str, str] = field(default_factory=dict)
    """Of each module of this package or of the user's, the first 12 digits of its file's sha256."""
    versions: Mapping[str, str | None] = field(default_factory=dict)
    """Of Python and of each library; None for one that is not installed."""

    def __or__(self, other: Code) -> Code:
        return Code({**self.modules, **other.modules}, {**self.versions, **other.versions})

    def to_json(self) -> dict[str, Any]:
        return {"modules": dict(sorted(self.modules.items())), "versions": dict(sorted(self.versions.items()))}


def code_of(*roots: Callable[..., Any] | ModuleType | str) -> Code:
    """The code behind classes, modules (or their names) and functions.

    A class or module stands for its file and everything that this imports; a function for its own source alone: what it calls
    has to be given as well. An import within a function of this package counts only if its module is among the roots, as that
    of a chosen component is: the others belong to components that were not chosen.
    """
    modules: dict[str, str] = {}
    libraries: set[str] = set()
    own: set[str] = set()
    typed: dict[str, type] = {}
    for root in roots:
        if isinstance(root, type):
            own |= {base.__module__ for base in root.__mro__}
            typed |= {base.__qualname__: base for base in root.__mro__ if base.__module__ == MAIN}
        elif isinstance(root, str | ModuleType):
            own.add(root if isinstance(root, str) else root.__name__)
        else:
            name = f"{root.__module__}:{root.__qualname__}".replace(".<locals>", "")
            modules[name] = short_digest(inspect.getsource(root).encode())
    waiting = sorted(own)
    while waiting:
        name = waiting.pop()
        top = name.partition(".")[0]
        if name in modules or _is_neutral(name):
            continue
        if not is_code(top):
            libraries.add(top)
        elif (source := source_of(name)) is None:
            modules[name], used = _without_source(name, typed)
            waiting += used
        else:
            modules[name] = source.digest
            for imported in source.imports:
                if not imported.late or top != PACKAGE or name in own:
                    needed = leads_to(imported)
                    own |= set(needed) if imported.late else set()
                    waiting += needed
            waiting += [package for package in packages_above(name) if passed_on_by(package) is None]
    digests = {name: digest for name, digest in modules.items() if digest}
    return Code(digests, {**_versions(libraries), **_versions_of_code({name.partition(".")[0] for name in digests})})


def _without_source(name: str, typed: Mapping[str, type]) -> tuple[str, list[str]]:
    """The digest of a module without a source file, and the modules it uses: of what was typed, or of a compiled file."""
    if name == MAIN:
        text, used = source_of_classes(typed[name] for name in sorted(typed))
        return short_digest(text.encode()), sorted(used)
    compiled = file_of(name)
    return ("" if compiled is None else short_digest(compiled.read_bytes())), []


def component_classes(value: Any) -> Iterator[type]:
    """The classes of the dataclasses that a settings object is made of, itself and the losses of a mix included."""
    if is_dataclass(value) and not isinstance(value, type):
        yield type(value)
        names = {field.name for field in fields(value)}
        built = [held for name, held in vars(value).items() if name not in names and isinstance(held, list)]
        for item in [*(getattr(value, name) for name in names), *built]:
            yield from component_classes(item)
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from component_classes(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from component_classes(item)


def _is_neutral(name: str) -> bool:
    return any(name == neutral or name.startswith(f"{neutral}.") for neutral in NEUTRAL)


def _versions(libraries: Iterable[str]) -> dict[str, str | None]:
    """The versions of the distributions that provide these top-level packages, and of what these call in turn."""
    tops = {top for top in libraries if top not in sys.stdlib_module_names and top not in CARRIERS}
    tops |= {below for top in tops for below in UNDERNEATH.get(top, ())}
    versions: dict[str, str | None] = {"python": platform.python_version()}
    for top in sorted(tops):
        name = DISTRIBUTIONS.get(top, top)
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            others = _distributions().get(top, []) if find_spec(top) is not None else []
            versions.update({other: version(other) for other in others} if others else {name: None})
    return versions


def _versions_of_code(packages: Iterable[str]) -> dict[str, str]:
    """The versions of the user's packages that count as code and have one as well, as an editable installation has."""
    versions = {}
    for package in sorted(set(packages) - {PACKAGE, MAIN}):
        with suppress(PackageNotFoundError):
            versions[package] = version(package)
    return versions


@cache
def _distributions() -> Mapping[str, list[str]]:
    return packages_distributions()
