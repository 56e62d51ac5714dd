"""config.yaml of a run gives the study that ran, and nothing else."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from dpo_lab.artifacts.digests import digest
from dpo_lab.cli.composing import composed
from dpo_lab.pipeline.study_config import study_from_file, to_study

STUDIES = {
    "quickstart": ["+experiment=quickstart"],
    "imdb": ["data=imdb", "tokenizer=bpe", "reward=sentiment", "candidates=sampled", "candidates.pairing=random"],
    "given": ["data=pairs", "data.path=/some/where.jsonl", "loss=ipo", "reference=frozen", "optimizer@base.optimizer=muon"],
    "no reference": ["loss=sft", "reference=none", "optimizer=sgd", "schedule=cosine", "compute.precision=bf16"],
    "checkpoint": ["model=checkpoint", "model.path=/some/run", "runner=sample", "runner.prompt='a, b: \"c\" é'"],
    "nulls": ["trainer.clip=null", "trainer.max_steps=null", "trainer.max_pairs=100", "evaluation.best_of=[2,3]"],
    "odd text": ["name=imdb/beta", "data.words=['yes','1.0','null','é','#']", "optimizer.lr=1e-7"],
}


def saved(words: list[str], folder: Path) -> Path:
    file = folder / "config.yaml"
    file.write_text(OmegaConf.to_yaml(composed(words), resolve=True), encoding="utf-8")
    return file


@pytest.mark.parametrize("name", STUDIES)
def test_the_saved_configuration_is_the_study_that_ran(name: str, tmp_path: Path) -> None:
    study = to_study(composed(STUDIES[name]))
    again = study_from_file(saved(STUDIES[name], tmp_path))
    assert again == study
    assert digest(again) == digest(study), "its artifacts are found again"


MUTANTS = {
    "an unknown loss": ("loss.name", "mine_from_afar", "mine_from_afar"),
    "an unknown base optimizer": ("base.optimizer.name", "adamx", "adamx"),
    "another loss's name": ("data.name", "imdb", "data"),
    "a target": ("loss._target_", "os.system", "loss._target_"),
    "a target at the top": ("_target_", "os.system", "_target_"),
    "a misspelt key": ("trainer.max_step", 3, "trainer.max_step"),
    "a wrong type": ("loss.beta", "much", "loss.beta"),
    "a value out of range": ("loss.beta", -1, "loss.beta"),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_configuration_that_is_not_ours_is_refused(name: str, tmp_path: Path) -> None:
    """With a ValueError that says what it is."""
    key, value, part = MUTANTS[name]
    file = saved(STUDIES["quickstart"], tmp_path)
    config = OmegaConf.load(file)
    OmegaConf.update(config, key, value, force_add=True)
    OmegaConf.save(config, file)
    before = set(sys.modules)
    with pytest.raises(ValueError, match=part.replace(".", r"\.")) as caught:
        study_from_file(file)
    assert len(str(caught.value)) < 400
    assert set(sys.modules) == before


@pytest.mark.parametrize("key", ["loss", "loss.name", "base.optimizer", "data.name"])
def test_a_configuration_without_a_choice_is_refused(key: str, tmp_path: Path) -> None:
    file = saved(STUDIES["quickstart"], tmp_path)
    config = OmegaConf.load(file)
    parent, _, last = key.rpartition(".")
    del (OmegaConf.select(config, parent) if parent else config)[last]
    OmegaConf.save(config, file)
    with pytest.raises(ValueError, match=key.split(".")[0]):
        study_from_file(file)


def test_a_saved_configuration_imports_no_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A config.yaml that came with somebody's run is data; its user_modules are names, not orders."""
    (tmp_path / "trap.py").write_text("raise SystemExit('imported')\n")
    monkeypatch.syspath_prepend(tmp_path)
    study = study_from_file(saved(["user_modules=[trap]"], tmp_path))
    assert study.user_modules == ["trap"]
    assert "trap" not in sys.modules


def test_a_saved_configuration_with_a_component_of_a_users_module_says_which_to_give(tmp_path: Path) -> None:
    file = saved(["user_modules=[my_lab.losses]"], tmp_path)
    file.write_text(file.read_text().replace("name: dpo\n  ", "name: mine\n  ", 1).replace("  name: dpo\n", "  name: mine\n"))
    with pytest.raises(ValueError, match=r"there is no loss 'mine': give user_modules=\[my_lab\.losses\]"):
        study_from_file(file)


def test_an_interpolation_in_a_saved_configuration_reads_no_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_FOR_TEST", "hunter2")
    file = saved(STUDIES["quickstart"], tmp_path)
    file.write_text(file.read_text().replace("name: quickstart", "name: ${oc.env:SECRET_FOR_TEST}"))
    try:
        study = study_from_file(file)
    except ValueError:
        return
    assert "hunter2" not in study.name
