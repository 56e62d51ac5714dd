"""What a module's source imports, and whether that is code (ours, the user's) or a library."""

from __future__ import annotations

import ast
import hashlib
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from dpo_lab.registry import Registry

PACKAGE = "dpo_lab"


@dataclass(frozen=True)
class Import:
    """`import module`, or `from module import name`; `late`: when a function is called."""

    module: str
    name: str | None = None
    late: bool = False


@dataclass(frozen=True)
class Source:
    """A module's file: its digest and its imports."""

    digest: str
    """The first 12 digits of its sha256."""
    imports: tuple[Import, ...]
    passes_on: Mapping[str, Import] | None
    """Of a package's __init__ that defines nothing: where each name comes from."""


_READ: dict[str, tuple[Any, Source]] = {}


def source_of(name: str) -> Source | None:
    """The source of a module as it was when it was imported, None where it has none.

    A running process computes with what it has loaded, whatever has become of the file since.
    """
    module = sys.modules.get(name)
    loaded = getattr(module, "__spec__", None) or module  # a module that is loaded again is the same, its spec is another
    if loaded is not None and name in _READ and _READ[name][0] is loaded:
        return _READ[name][1]
    file = file_of(name)
    if file is None or file.suffix != ".py":
        return None
    content = file.read_bytes()
    is_package = file.name == "__init__.py"
    tree = ast.parse(content)
    imports = tuple(_imports(tree, name, is_package))
    passes_on = {i.name: i for i in _imports(tree, name, is_package, typing=True) if i.name} if _defines_nothing(tree) else None
    read = Source(short_digest(content), imports, passes_on if is_package else None)
    _READ[name] = loaded, read
    return read


def file_of(name: str) -> Path | None:
    """A module's source file, or the compiled file where that is all there is; None without a file."""
    module = sys.modules.get(name)
    file = getattr(module, "__file__", None)
    if file is None:
        spec = _spec_of(name)
        file = None if spec is None or not spec.has_location else spec.origin
    return Path(file) if file is not None and Path(file).is_file() else None


def _spec_of(name: str) -> ModuleSpec | None:
    try:
        return find_spec(name)
    except (ImportError, AttributeError, ValueError):
        return None


def _imports(tree: ast.AST, module: str, is_package: bool, typing: bool = False, late: bool = False) -> Iterator[Import]:
    """The imports of a module; those for type checkers only where they are asked for."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and _is_type_checking(node.test) and not typing:
            for other in node.orelse:
                yield from _imports(ast.Module([other], []), module, is_package, late=late)
        elif isinstance(node, ast.Import):
            yield from (Import(alias.name, late=late) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = module.split(".")
            above = parts[: len(parts) - node.level + is_package] if node.level else []
            source = ".".join([*above, *([node.module] if node.module else [])])
            yield from (Import(source, alias.name, late) for alias in node.names)
        else:
            if (called := _called_import(node)) is not None:
                yield Import(called, late=late)
            inside = late or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from _imports(node, module, is_package, typing, inside)


def _called_import(node: ast.AST) -> str | None:
    """The module of `import_module("a.module")`; of one that is put together or relative, nothing can be read."""
    if not isinstance(node, ast.Call) or not node.args or not isinstance(node.args[0], ast.Constant):
        return None
    name, function = node.args[0].value, getattr(node.func, "attr", getattr(node.func, "id", None))
    if function not in ("import_module", "__import__") or not isinstance(name, str) or name.startswith("."):
        return None
    return name


def _is_type_checking(test: ast.expr) -> bool:
    return (isinstance(test, ast.Name) and test.id == "TYPE_CHECKING") or (
        isinstance(test, ast.Attribute) and test.attr == "TYPE_CHECKING"
    )


def _defines_nothing(tree: ast.Module) -> bool:
    """Whether a module only imports, with at most a docstring, `__all__` and a module `__getattr__` beside it."""

    def is_plain(node: ast.stmt) -> bool:
        if isinstance(node, ast.Expr):
            return isinstance(node.value, ast.Constant)
        if isinstance(node, ast.Assign):
            return all(isinstance(target, ast.Name) and target.id == "__all__" for target in node.targets)
        if isinstance(node, ast.FunctionDef):
            return node.name in ("__getattr__", "__dir__")
        if isinstance(node, ast.ImportFrom):
            return all(alias.name != "*" for alias in node.names)
        return isinstance(node, ast.Import) or (isinstance(node, ast.If) and _is_type_checking(node.test))

    return all(is_plain(node) for node in tree.body)


def leads_to(imported: Import) -> list[str]:
    """The names of the modules that an import runs."""
    if imported.name is None:
        return [imported.module]
    inner = f"{imported.module}.{imported.name}"
    if not is_code(imported.module.partition(".")[0]):
        return [imported.module]
    if inner in sys.modules or _spec_of(inner) is not None:  # a folder without an __init__.py has no file
        return [inner]
    passed_on = passed_on_by(imported.module)
    if passed_on is not None and imported.name in passed_on:
        return leads_to(passed_on[imported.name])
    return [imported.module]


def passed_on_by(package: str) -> Mapping[str, Import] | None:
    """The imports of a package's __init__ by name; None if it does more than import."""
    source = source_of(package)
    return {} if source is None else source.passes_on


def packages_above(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:end]) for end in range(1, len(parts))]


def is_code(top: str) -> bool:
    """Whether a top-level package or module is source of ours or of the user's, and no library.

    What has registered a component is, wherever it is installed.
    """
    return (
        top in (PACKAGE, "__main__")
        or _is_loose(top)
        or top in _registered(sum(len(registry.registered) for registry in Registry.all.values()))
    )


@cache
def _registered(count: int) -> set[str]:
    """The top-level packages of all components, of which there are `count`."""
    return {cls.__module__.partition(".")[0] for registry in Registry.all.values() for cls in registry.registered}


@cache
def _is_loose(top: str) -> bool:
    """Whether a package or module lies outside the folders where libraries are installed."""
    if top in sys.stdlib_module_names:
        return False
    spec = None if file_of(top) else _spec_of(top)
    places = [file_of(top)] if file_of(top) else list((spec and spec.submodule_search_locations) or [])
    return bool(places) and not any(_is_installed(Path(place)) for place in places if place)


def _is_installed(place: Path) -> bool:
    roots = {sysconfig.get_path(kind) for kind in ("purelib", "platlib", "stdlib", "platstdlib")}
    resolved = place.resolve()
    return any(resolved.is_relative_to(Path(root).resolve()) for root in roots) or "site-packages" in resolved.parts


def short_digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:12]
