"""Settings classes read from their source, without importing it: fields, defaults, docstrings, inheritance."""

from __future__ import annotations

import ast
from dataclasses import dataclass, replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from dpo_lab.cli import PACKAGE

REQUIRED = "..."


@dataclass
class Setting:
    """A field of a settings class."""

    name: str
    default: str
    """As it is written on the command line; `REQUIRED` where it has none."""
    meaning: str
    values: list[str]
    """Of an Enum, its members."""
    module: str
    """Where its annotation is read."""
    annotation: str
    factory: str = ""
    """The class that its default is an instance of."""


@dataclass
class SettingsClass:
    """A dataclass: the first paragraph of its docstring, and its fields in order."""

    name: str
    module: str
    doc: str
    settings: list[Setting]
    shared: list[Setting]
    """Of its class attribute `options`, what is set beside its own fields."""
    bases: list[SettingsClass]


class Sources:
    """The modules of this package and of the user's, parsed and never run."""

    def __init__(self) -> None:
        self._texts: dict[str, str] = {}

    def package_texts(self) -> dict[str, str]:
        """The source of every module of this package by its name."""
        if not self._texts:
            for file in sorted(PACKAGE.rglob("*.py")):
                parts = file.relative_to(PACKAGE.parent).with_suffix("").parts
                self._texts[".".join(parts).removesuffix(".__init__")] = file.read_text(encoding="utf-8")
        return self._texts

    def modules_of(self, name: str) -> list[str]:
        """A module of the user's; of a package also the modules that its __init__ imports."""
        tree = self.tree(name)
        imports = [node for node in (tree.body if tree is not None else ()) if isinstance(node, ast.ImportFrom)]
        absolute = [node.module for node in imports if node.module is not None and not node.level]
        relative = [f"{name}.{node.module or alias.name}" for node in imports if node.level == 1 for alias in node.names]
        return list(dict.fromkeys([name, *(module for module in [*absolute, *relative] if module.startswith(f"{name}."))]))

    @cache  # noqa: B019  # lives as long as one command
    def tree(self, module: str) -> ast.Module | None:
        """None for a module without a source, and for one outside this package that cannot be found."""
        text = self.package_texts().get(module)
        if text is None:
            spec = find_spec(module) if module.partition(".")[0] != PACKAGE.name else None
            if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
                return None
            text = Path(spec.origin).read_text(encoding="utf-8")
        return ast.parse(text)

    def find(self, module: str, name: str) -> tuple[str, ast.ClassDef] | None:
        """The class that a name stands for in a module of this package or the user's, and the module that defines it."""
        tree = self.tree(module)
        for node in tree.body if tree is not None else ():
            if isinstance(node, ast.ClassDef) and node.name == name:
                return module, node
            if isinstance(node, ast.ImportFrom) and node.module is not None and not node.level:
                for alias in node.names:
                    if (alias.asname or alias.name) == name:
                        known = node.module in self.package_texts() or not self.package_texts().keys() >= {module}
                        return self.find(node.module, alias.name) if known else None
        return None

    @cache  # noqa: B019
    def settings_class(self, module: str, name: str) -> SettingsClass | None:
        """None where the name stands for no dataclass."""
        found = self.find(module, name)
        if found is None or not any("dataclass" in ast.unparse(decorator) for decorator in found[1].decorator_list):
            return None
        home, node = found
        settings: dict[str, Setting] = {}
        shared: list[Setting] = []
        known = (self.settings_class(home, ast.unparse(base)) for base in reversed(node.bases))
        bases = [base for base in known if base is not None]
        for base in bases:
            settings |= {setting.name: setting for setting in base.settings}
            shared = base.shared
        usual = {setting.name: setting for setting in [*shared, *settings.values()]}
        for statement, below in zip(node.body, [*node.body[1:], None], strict=True):
            if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
                annotation = ast.unparse(statement.annotation)
                if annotation.startswith("ClassVar"):
                    held = self.settings_class(home, annotation.removeprefix("ClassVar[").removesuffix("]"))
                    shared = held.settings if statement.target.id == "options" and held is not None else shared
                    continue
                setting = self._setting(home, statement.target.id, annotation, statement.value, below)
                if not setting.meaning and setting.name in usual:
                    setting = replace(setting, meaning=usual[setting.name].meaning)
                settings[setting.name] = setting
        doc = " ".join((ast.get_docstring(node) or "").partition("\n\n")[0].split())
        return SettingsClass(node.name, home, doc, list(settings.values()), shared, bases)

    def nested(self, setting: Setting) -> SettingsClass | None:
        """The dataclass whose fields a setting is made of."""
        return self.settings_class(setting.module, setting.factory) if setting.factory else None

    def _setting(self, module: str, name: str, annotation: str, value: ast.expr | None, below: ast.stmt | None) -> Setting:
        meaning = ""
        if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
            meaning = " ".join(str(below.value.value).split())
        factory = ""
        if isinstance(value, ast.Call) and ast.unparse(value.func) == "field":
            given = {keyword.arg: keyword.value for keyword in value.keywords}
            value = given.get("default", given.get("default_factory"))
            if isinstance(value, ast.Lambda):
                value = value.body
            elif "default_factory" in given and isinstance(value, ast.Name):
                factory = value.id
                value = self._constant(module, factory)
        elif isinstance(value, ast.Name):
            value = self._constant(module, value.id)
        found = self.find(module, annotation.removesuffix(" | None"))
        values = []
        if found is not None and any("Enum" in ast.unparse(base) for base in found[1].bases):
            members = [node for node in found[1].body if isinstance(node, ast.Assign)]
            by_value = {ast.unparse(node.value): node.targets[0] for node in reversed(members)}  # without aliases
            values = [node.id for node in reversed(by_value.values()) if isinstance(node, ast.Name)]
        return Setting(name, _written(value), meaning, values, module, annotation, factory)

    def _constant(self, module: str, name: str) -> ast.expr:
        """What a name stands for that a default is written with: a constant of the module, or what a function there returns."""
        tree = self.tree(module)
        for node in tree.body if tree is not None else ():
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name:
                return node.value
            if isinstance(node, ast.FunctionDef) and node.name == name:
                return next((line.value for line in node.body if isinstance(line, ast.Return) and line.value), ast.Name(name))
        return {"list": ast.List([]), "dict": ast.Dict([], [])}.get(name, ast.Name(name))


def _written(value: ast.expr | None) -> str:
    """A default as a word on the command line has it."""
    if value is None or (isinstance(value, ast.Name) and value.id == "MISSING"):
        return REQUIRED
    if isinstance(value, ast.Constant):
        known = {"None": "null", "True": "true", "False": "false"}
        return str(value.value) if isinstance(value.value, str) else known.get(str(value.value), str(value.value))
    if isinstance(value, ast.Attribute):
        return value.attr
    if isinstance(value, ast.Call) and ast.unparse(value.func) == "list" and isinstance(value.args[0], ast.Constant):
        return f"[{', '.join(str(value.args[0].value))}]"
    if isinstance(value, ast.List | ast.Tuple):
        return f"[{', '.join(map(_written, value.elts))}]"
    if isinstance(value, ast.Dict):
        items = zip(value.keys, value.values, strict=True)
        return "{" + ", ".join(f"{_written(key)}: {_written(item)}" for key, item in items) + "}"
    return ast.unparse(value)
