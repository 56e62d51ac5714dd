"""Named components: one dataclass each, whose fields are the configuration schema and whose methods are the behaviour."""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import pkgutil
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

T = TypeVar("T")
C = TypeVar("C")

ENTRY_POINT_GROUP = "dpo_lab.components"


LONGEST_LIST = 250
"""Characters of names in a message."""


def suggestion(word: str, known: Iterable[str], within: str = "") -> str:
    """' Did you mean `x`?' for the closest of `known`, or the list of them (as many as fit) when none is close."""
    known = sorted(known)
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    if close:
        return f" Did you mean '{within}{close[0]}'?"
    shown = list(known)
    while len(", ".join(shown)) > LONGEST_LIST:
        shown.pop()
    rest = len(known) - len(shown)
    return f" Known: {', '.join(shown)}{f' and {rest} more' if rest else ''}." if known else ""


class Registry(Mapping[str, type[T]], Generic[T]):
    """Classes of one kind by name. Reading it like a dict gives the class.

    A class that is registered in a file of the folder `package` is found by itself: a new component needs no import elsewhere.
    On the command line each is the option KIND=NAME, with or without a YAML file of its own.
    """

    all: ClassVar[dict[str, Registry[Any]]] = {}

    def __init__(self, kind: str, package: str) -> None:
        self.kind = kind
        self.package = package
        self._waiting = True
        self._classes: dict[str, type[T]] = {}
        Registry.all[kind] = self

    def register(self, cls: type[C]) -> type[C]:
        """Class decorator. Raises ValueError for a class without a `name` default, and for a name that is taken."""
        fields = {f.name: f for f in dataclasses.fields(cls)} if dataclasses.is_dataclass(cls) else {}
        name = fields["name"].default if "name" in fields else None
        if not isinstance(name, str):
            raise ValueError(f'{cls.__qualname__}: a {self.kind} is a @dataclass with a field `name: str = "..."`')
        taken = self._classes.get(name)
        if taken is not None and (taken.__module__, taken.__qualname__) != (cls.__module__, cls.__qualname__):
            raise ValueError(f"{self.kind} '{name}' is already registered by {taken.__module__}.{taken.__qualname__}")
        self._classes[name] = cls  # type: ignore[assignment]  # C is a T by contract; Python cannot say so of a decorator
        return cls

    def discover(self) -> None:
        """Import the modules of the folder, once; of folders below it, those that its modules import."""
        if self._waiting:
            self._waiting = False  # before the imports: a module may ask for its siblings
            for module in pkgutil.iter_modules(importlib.import_module(self.package).__path__, f"{self.package}."):
                if not module.ispkg:
                    importlib.import_module(module.name)

    @property
    def registered(self) -> list[type[T]]:
        """The classes so far, without looking for more."""
        return list(self._classes.values())

    @classmethod
    def discover_all(cls) -> None:
        """Import every component of this package, so that Hydra knows their schemas."""
        for registry in list(cls.all.values()):
            registry.discover()

    def __getitem__(self, name: str) -> type[T]:
        self.discover()
        if name not in self._classes:
            raise ValueError(f"there is no {self.kind} '{name}'.{suggestion(name, self._classes)}")
        return self._classes[name]

    def __contains__(self, name: object) -> bool:
        self.discover()
        return name in self._classes

    def __iter__(self) -> Iterator[str]:
        self.discover()
        return iter(sorted(self._classes))

    def __len__(self) -> int:
        self.discover()
        return len(self._classes)


def load_user_modules(names: Iterable[str]) -> None:
    """Import the user's modules, and every module that an installed package announces as a `dpo_lab.components` entry point.

    Raises ValueError naming the module when an import fails.
    """
    for point in entry_points(group=ENTRY_POINT_GROUP):
        names = [*names, point.module]
    for name in names:
        try:
            importlib.import_module(name)
        except (ImportError, SyntaxError) as error:
            missing = isinstance(error, ModuleNotFoundError) and f"{name}.".startswith(f"{error.name}.")
            where = f"; it is looked for in {Path.cwd()}, where you stand, and on PYTHONPATH" if missing else ""
            raise ValueError(f"user_modules: cannot import '{name}' ({error}){where}") from error
        except Exception as error:  # whatever the module does while it is imported
            raise ValueError(f"user_modules: cannot import '{name}' ({type(error).__name__}: {error})") from error
