"""Fingerprints of code that has no file: what was typed into an interpreter or a notebook."""

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
    """An id of this process: a later process cannot know what was typed into this one."""
    return os.urandom(8).hex()


def source_of_classes(classes: Iterable[type]) -> tuple[str, set[str]]:
    """A text that changes with the code of these classes and of everything they use of __main__; and the modules they use."""
    names = vars(sys.modules[MAIN])
    lines, modules, seen, waiting = [process()], set[str](), set[int](), list[Any](classes)
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
            lines.append(value.__qualname__)
            waiting += [*value.__bases__, *(held for _, held in sorted(vars(value).items()))]
        elif isinstance(value, staticmethod | classmethod):
            waiting.append(value.__func__)
        elif isinstance(value, property):
            waiting += [value.fget, value.fset]
        elif isinstance(value, FunctionType):
            lines.append(_text(value.__code__))
            waiting += [value.__defaults__, value.__kwdefaults__]
            waiting += [names[name] for name in _used(value.__code__) if name in names]
            waiting += [cell.cell_contents for cell in value.__closure__ or ()]
        elif isinstance(value, Mapping):
            waiting += [item for pair in value.items() for item in pair]
        elif isinstance(value, list | tuple):
            waiting += value
        elif value is None or isinstance(value, str | bytes | bool | int | float):
            seen.discard(id(value))  # another may have its place by then, or the same
            lines.append(repr(value))
    return "\n".join(lines), modules


def _text(code: CodeType) -> str:
    """The instructions and constants of a function and of the functions within it."""
    constants = [_text(held) if isinstance(held, CodeType) else repr(held) for held in code.co_consts]
    return f"{code.co_code.hex()} {code.co_names} {code.co_varnames} {constants}"


def _used(code: CodeType) -> list[str]:
    """The names that a function and the functions within it look up."""
    return [*code.co_names, *(name for held in code.co_consts if isinstance(held, CodeType) for name in _used(held))]
