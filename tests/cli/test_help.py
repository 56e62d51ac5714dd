"""The help text, which is read from the sources without running them, says what the registry and the schema say."""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Iterator, Mapping
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from dpo_lab.cli import CONF
from dpo_lab.cli.help_text import components_by_kind, help_text
from dpo_lab.cli.source_reading import REQUIRED, Setting, Sources
from dpo_lab.pipeline.study import CHOICES, Study
from dpo_lab.registry import Registry

SOURCES = Sources()
COMPONENTS = components_by_kind(SOURCES)
TEXT = help_text()


def built_in(kind: str) -> dict[str, type]:
    return {name: cls for name, cls in Registry.all[kind].items() if cls.__module__.startswith("dpo_lab.")}


def by_source(settings: list[Setting], prefix: str = "") -> Iterator[tuple[str, str]]:
    for setting in settings:
        nested = SOURCES.nested(setting)
        if nested is None:
            yield prefix + setting.name, setting.default
        else:
            yield from by_source(nested.settings, f"{prefix}{setting.name}.")


def by_schema(config: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    for name in config:
        if OmegaConf.is_missing(config, name):
            yield f"{prefix}{name}", REQUIRED
        elif isinstance(config[name], Mapping) and OmegaConf.get_type(config, name) is not dict:
            yield from by_schema(config[name], f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", written(config[name])


def written(value: Any) -> str:
    if isinstance(value, Enum):
        return value.name
    if OmegaConf.is_list(value) or OmegaConf.is_dict(value):
        return str(OmegaConf.to_container(value)).replace("'", "")
    return (
        {None: "null", True: "true", False: "false"}.get(value, str(value))
        if not isinstance(value, int | float)
        else (str(value).lower() if isinstance(value, bool) else str(value))
    )


@pytest.mark.parametrize("kind", sorted(set(CHOICES.values())))
def test_every_option_of_every_choice_is_there_with_its_first_line(kind: str) -> None:
    assert set(COMPONENTS[kind]) == set(built_in(kind))
    for name, cls in built_in(kind).items():
        assert f"  {kind}={name}" in TEXT
        assert COMPONENTS[kind][name].doc == " ".join((cls.__doc__ or "").partition("\n\n")[0].split())


@pytest.mark.parametrize("kind", sorted(set(CHOICES.values())))
def test_every_setting_of_every_option_is_there_with_its_default(kind: str) -> None:
    for name, cls in built_in(kind).items():
        read = COMPONENTS[kind][name]
        settings = dict(by_source(read.shared)) | dict(by_source(read.settings))
        assert settings == dict(by_schema(OmegaConf.structured(cls))), name
        assert all(f"{kind}.{setting}" in TEXT for setting in settings if setting != "name")


def test_every_setting_of_a_study_is_there_with_its_default() -> None:
    study = SOURCES.settings_class("dpo_lab.pipeline.study", "Study")
    assert study is not None
    settings = dict(by_source(study.settings))
    assert settings == dict(by_schema(OmegaConf.structured(Study)))
    for setting in settings:
        told_with_the_trainer = setting.startswith("base.trainer.")
        assert told_with_the_trainer or f" {setting}" in TEXT or f"@{setting}=OPTION" in TEXT or f"{setting}=" in TEXT
    assert "base.trainer.*" in TEXT


def test_the_sentence_below_a_setting_and_the_members_of_an_enum_are_there() -> None:
    assert "Largest norm of the gradient." in TEXT
    assert "(sum, mean, shared, sampled)" in " ".join(TEXT.split())


def test_every_experiment_is_there_with_its_question() -> None:
    for file in (CONF / "experiment").glob("*.yaml"):
        assert f"+experiment={file.stem}" in TEXT


def test_a_users_component_is_there_and_its_module_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine_to_read.py").write_text(
        "from dataclasses import dataclass\n"
        "from dpo_lab.losses import LOSSES, PairLoss\n"
        "raise RuntimeError('run')\n"
        "@LOSSES.register\n@dataclass\nclass Mine(PairLoss):\n"
        '    """Of my own."""\n    name: str = "mine"\n    weight: float = 2.0\n    """What it weighs."""\n'
    )
    monkeypatch.syspath_prepend(tmp_path)
    text = help_text(["mine_to_read"])
    assert "  loss=mine                         Of my own.\n      loss.weight=2.0               What it weighs.\n" in text


def test_the_command_answers_in_less_than_a_second_of_a_processor_and_without_torch(tmp_path: Path) -> None:
    program = "import sys; from dpo_lab.__main__ import main; main(); assert 'torch' not in sys.modules"
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", program, "--help"], capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.stdout == TEXT
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1


def unexplained(settings: list[Setting], prefix: str) -> Iterator[str]:
    for setting in settings:
        nested = SOURCES.nested(setting)
        if nested is not None:
            yield from unexplained(nested.settings, f"{prefix}{setting.name}.")
        elif not setting.meaning and setting.name != "name":
            yield prefix + setting.name


def test_every_setting_says_what_it_is() -> None:
    study = SOURCES.settings_class("dpo_lab.pipeline.study", "Study")
    assert study is not None
    assert [name for name in unexplained(study.settings, "") if name not in CHOICES and name != "experiment"] == []
    for kind, classes in COMPONENTS.items():
        for name, component in classes.items():
            assert list(unexplained(component.settings, f"{kind}={name}: ")) == []
