"""Code that was typed into an interpreter or a notebook, and has no file."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping
from functools import cache
from types import CodeType, FunctionType, ModuleType
from typing import Any

MAIN = "__main__"


@cache
def process() -> str:
    """What no other process gives: of what a later one computes with, it can know nothing."""
    return os.urandom(8).hex()


def typed(classes: Iterable[type]) -> tuple[str, set[str]]:
    """A text that changes as what was typed of these classes does, with all that they use of it; and the modules they name."""
    names = vars(sys.modules[MAIN])
    found, modules, seen, waiting = [process()], set[str](), set[int](), list[Any](classes)
    while waiting:
        value = waiting.pop(0)
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, ModuleType):
            modules.add(value.__name__)
        elif getattr(value, "__module__", MAIN) not in (MAIN, None):
            modules.add(value.__module__)
        elif isinstance(value, type):
            found.append(value.__qualname__)
            waiting += [*value.__bases__, *(held for _, held in sorted(vars(value).items()))]
        elif isinstance(value, staticmethod | classmethod):
            waiting.append(value.__func__)
        elif isinstance(value, property):
            waiting += [value.fget, value.fset]
        elif isinstance(value, FunctionType):
            found.append(_text(value.__code__))
            waiting += [value.__defaults__, value.__kwdefaults__]
            waiting += [names[name] for name in _used(value.__code__) if name in names]
            waiting += [cell.cell_contents for cell in value.__closure__ or ()]
        elif isinstance(value, Mapping):
            waiting += [item for pair in value.items() for item in pair]
        elif isinstance(value, list | tuple):
            waiting += value
        elif value is None or isinstance(value, str | bytes | bool | int | float):
            seen.discard(id(value))  # another may have its place by then, or the same
            found.append(repr(value))
    return "\n".join(found), modules


def _text(code: CodeType) -> str:
    """The instructions and constants of a function and of those within it."""
    constants = [_text(held) if isinstance(held, CodeType) else repr(held) for held in code.co_consts]
    return f"{code.co_code.hex()} {code.co_names} {code.co_varnames} {constants}"


def _used(code: CodeType) -> list[str]:
    """The names that a function and those within it look up."""
    return [*code.co_names, *(name for held in code.co_consts if isinstance(held, CodeType) for name in _used(held))]
