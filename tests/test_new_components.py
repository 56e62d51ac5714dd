"""A new component is one short file and nothing else: found by name, composed, and run in a study together with others."""

from __future__ import annotations

import copy
import json
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from processes import SMALL_RUN, runs_of

from dpo_lab.cli.composing import composed
from dpo_lab.cli.help_text import help_text
from dpo_lab.cli.main import run_command
from dpo_lab.pipeline.study_config import to_study
from dpo_lab.registry import Registry, load_user_modules

FILES = Path(__file__).parent / "helpers" / "new_components"
NEW = {
    "data": "data=counting data.num_words=6",
    "rewards": "reward=length reward.words=6",
    "candidates": "candidates=neighbours candidates.samples_per_prompt=4",
    "references": "reference=average reference.share=0.25",
    "optimizers": "optimizer=nadam optimizer.lr=0.01",
    "models": "model=gru model.dim=32",
    "losses": "loss=squared_hinge loss.target=2",
}
"""By file: its option, and a setting of its own."""
NEEDS = {"candidates": ["reward=lexicon", "++reward.values={a: 1}"]}


@pytest.fixture
def my_lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working directory with the files in my_lab/. What they register is forgotten afterwards."""
    Plugins.instance()  # which are found once, and register their configurations then
    Registry.discover_all()
    shutil.copytree(FILES, tmp_path / "my_lab", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for registry in Registry.all.values():
        monkeypatch.setattr(registry, "_classes", dict(registry))
    monkeypatch.setattr(ConfigStore.instance(), "repo", copy.deepcopy(ConfigStore.instance().repo))
    handler = signal.getsignal(signal.SIGTERM)
    yield tmp_path
    signal.signal(signal.SIGTERM, handler)
    for name in [name for name in sys.modules if name.partition(".")[0] == "my_lab"]:
        del sys.modules[name]


def test_there_is_a_file_for_each() -> None:
    assert {file.stem for file in FILES.glob("*.py")} == set(NEW)


@pytest.mark.parametrize("file", NEW)
def test_one_short_file_makes_an_option_of_its_own(file: str, my_lab: Path) -> None:
    assert len((FILES / f"{file}.py").read_text().splitlines()) <= 30
    option, setting = NEW[file].split()
    (kind, _, name), (key, _, value) = option.partition("="), setting.partition("=")
    assert name not in Registry.all[kind]
    load_user_modules([f"my_lab.{file}"])
    assert name in Registry.all[kind]
    component = getattr(to_study(composed([option, setting, *NEEDS.get(file, [])])), kind)
    assert type(component).__module__ == f"my_lab.{file}"
    assert getattr(component, key.partition(".")[2]) == float(value)
    with pytest.raises(ValueError, match=f"Did you mean '{name}'"):
        composed([f"{option[:-1]}"])


def test_help_shows_them_and_those_that_a_package_imports(my_lab: Path) -> None:
    (my_lab / "my_lab" / "__init__.py").write_text("from my_lab.data import CountingSource\nfrom . import rewards\n")
    text = help_text(["my_lab", *(f"my_lab.{file}" for file in NEW if file not in ("data", "rewards"))])
    for words in NEW.values():
        option, setting = words.split()
        assert f"\n  {option} " in text
        assert f"\n      {setting.partition('=')[0]}=" in text


def test_a_study_of_all_of_them_runs(my_lab: Path) -> None:
    modules = f"user_modules=[{','.join(f'my_lab.{file}' for file in NEW)}]"
    words = " ".join(NEW.values()).split()
    small = [*SMALL_RUN, "candidates.num_prompts=40", "candidates.max_tokens=8", "tokenizer=word"]
    assert run_command([modules, *words, *small]) == 0
    (run,) = runs_of(my_lab)
    assert json.loads((run / "run.json").read_text())["status"] == "done"
    rows = [json.loads(line) for line in (run / "samples.jsonl").read_text().splitlines()]
    assert len(rows) == 16
    for row in rows:
        assert row["reward/policy"] == -abs(len(row["policy"].split()) - 6)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["split"] == "eval"] == [0, 2, 4]
