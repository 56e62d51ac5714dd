"""What `--help` prints: every choice with its options, and every setting with its default and meaning.

It is read from the sources, as running them would take torch along, and seconds: so nothing here imports a component.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from textwrap import wrap

from dpo_lab.cli import CONF
from dpo_lab.cli.source_reading import REQUIRED, Setting, SettingsClass, Sources
from dpo_lab.registry import ENTRY_POINT_GROUP

WIDTH, COLUMN = 118, 36
INTRODUCTION = """\
dpo_lab: a laboratory for preference optimisation.

    python -m dpo_lab +experiment=NAME [choice=OPTION ...] [setting=VALUE ...]     one run
    python -m dpo_lab -m +experiment=NAME loss=dpo,ipo loss.beta=0.1,0.3           a sweep, a run for each combination
    python -m dpo_lab --cfg job +experiment=NAME                                   look at a configuration first
    python -m dpo_lab.compare runs/NAME                                            compare finished runs

    The same command again continues a run that was interrupted. Other options: --config-dir FOLDER (YAML files of yours),
    --info, --hydra-help, --shell-completion. Sweeps: hydra.launcher.n_jobs=N, hydra/sweeper=optuna, hydra/launcher=...
"""
REGISTRY = re.compile(r'^(\w+)(?:: [^=\n]+)? = \w*Registry\("(\w+)", "[\w.]+"\)', re.MULTILINE)


def help_text(user_modules: Sequence[str] = ()) -> str:
    """The whole text. Components of installed plugins and of the user's modules are listed too."""
    sources = Sources()
    study = sources.settings_class("dpo_lab.pipeline.study", "Study")
    assert study is not None
    components = components_by_kind(
        sources, [*(point.module for point in entry_points(group=ENTRY_POINT_GROUP)), *user_modules]
    )
    choices = [setting for setting in study.settings if setting.name in components]
    others = sorted(
        (setting for setting in study.settings if setting not in choices), key=lambda setting: setting.name == "base"
    )
    page = Page(sources, set(components))
    lines = [INTRODUCTION, "EXPERIMENTS", "", *_experiments(), "", "SETTINGS OF EVERY RUN", "", *page.settings(others)]
    for choice in choices:
        lines += ["", choice.name.upper(), "", *page.choice(choice, components[choice.name])]
    return "\n".join(lines) + "\n"


def components_by_kind(sources: Sources, user_modules: Sequence[str] = ()) -> dict[str, dict[str, SettingsClass]]:
    """By kind of component and by name: every class with a decorator such as `@LOSSES.register`."""
    kinds = {match[1]: match[2] for text in sources.package_texts().values() for match in REGISTRY.finditer(text)}
    components: dict[str, dict[str, SettingsClass]] = {kind: {} for kind in kinds.values()}
    users = [module for name in user_modules for module in sources.modules_of(name)]
    for module in [*(name for name, text in sources.package_texts().items() if ".register\n" in text), *users]:
        tree = sources.tree(module)
        for node in (node for node in (tree.body if tree is not None else ()) if isinstance(node, ast.ClassDef)):
            for decorator in node.decorator_list:
                registry, _, method = ast.unparse(decorator).rpartition(".")
                kind = kinds.get(registry.rpartition(".")[2])
                cls = sources.settings_class(module, node.name) if kind is not None and method == "register" else None
                if kind is not None and cls is not None:
                    components[kind][next(setting.default for setting in cls.settings if setting.name == "name")] = cls
    return {kind: dict(sorted(options.items())) for kind, options in components.items()}


def _experiments() -> Iterator[str]:
    for file in sorted((CONF / "experiment").glob("*.yaml")):
        question = re.search(r"^# Question: (.+)$", file.read_text(encoding="utf-8"), re.MULTILINE)
        yield from entry(f"+experiment={file.stem}", question[1] if question else "")


@dataclass
class Page:
    """The lines of the settings; a class used twice is listed once."""

    sources: Sources
    kinds: set[str]
    listed: dict[str, str] = field(default_factory=dict)
    """Settings classes that are listed already, and under which setting."""

    def settings(self, settings: Iterable[Setting], prefix: str = "", indent: int = 2) -> Iterator[str]:
        for setting in settings:
            path, nested = prefix + setting.name, self.sources.nested(setting)
            if setting.name in self.kinds and setting.default == REQUIRED:
                yield from entry(
                    f"{setting.name}@{path}=OPTION", f"The choice {setting.name}, below, for {prefix[:-1]}.", indent
                )
            elif nested is None:
                values = f" ({', '.join(setting.values)})" if setting.values else ""
                yield from entry(f"{path}={setting.default}", f"{setting.meaning}{values}".strip(), indent)
            elif nested.name in self.listed:
                yield from entry(f"{path}.*", f"The same settings as {self.listed[nested.name]}.*", indent)
            else:
                if indent == 2:
                    self.listed[nested.name] = path
                yield from entry(f"{path}.*", nested.doc, indent)
                yield from self.settings(nested.settings, f"{path}.", indent)

    def choice(self, choice: Setting, options: dict[str, SettingsClass]) -> Iterator[str]:
        """The settings that all options have, and each option with those that it adds or gives another default."""
        base = self.sources.settings_class(choice.module, choice.annotation)
        shared = [setting for setting in [*base.settings, *base.shared] if setting.name != "name"] if base is not None else []
        yield from self.settings(shared, f"{choice.name}.")
        for name, cls in options.items():
            parent = next((known for known in options.items() if known[1] in cls.bases), None)
            usual = {setting.name: setting.default for setting in (shared if parent is None else parent[1].settings)}
            yield from entry(f"{choice.name}={name}", cls.doc + (f" As {parent[0]}, with:" if parent else ""))
            own = (setting for setting in cls.settings if usual.get(setting.name) != setting.default)
            yield from self.settings((setting for setting in own if setting.name != "name"), f"{choice.name}.", indent=6)


def entry(word: str, meaning: str, indent: int = 2) -> Iterator[str]:
    """A word in a column of its own, and what it means beside it, or below where the word is long."""
    start = f"{'':{indent}}{word}"
    lines = wrap(meaning, WIDTH - COLUMN, break_long_words=False, break_on_hyphens=False)
    if len(start) >= COLUMN or not lines:
        yield start
    else:
        yield f"{start:{COLUMN}}{lines.pop(0)}"
    yield from (f"{'':{COLUMN}}{line}" for line in lines)
