"""No number outlives the code that made it: a command given again builds just what depends on what has changed."""

from __future__ import annotations

import copy
import importlib
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from processes import QUICKSTART, runs_of

from dpo_lab.artifacts.fingerprint import code, sources
from dpo_lab.cli.composing import composed
from dpo_lab.cli.main import run_command
from dpo_lab.pipeline import execute as executing
from dpo_lab.pipeline.execute import execute
from dpo_lab.pipeline.study_config import to_study
from dpo_lab.registry import Registry
from dpo_lab.tracking import read_run, read_summary

SMALL = [*QUICKSTART, "base.trainer.max_steps=2", "trainer.max_steps=2", "compute.threads=1"]
EVERYTHING = {"tokenizer", "base", "candidates", "reference_samples", "reference_scores"}
FROM_BASE = EVERYTHING - {"tokenizer"}
SAMPLES = {"candidates", "reference_samples"}
"""The scores are those of the same tokens under the same weights: they stay where the samples come out as they were."""

Ran = Callable[..., dict[str, Any]]


@pytest.fixture
def ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ran]:
    """Gives the command in a directory of its own, as a new process would: user modules are imported anew. Its run.json."""
    Plugins.instance()
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "argv", sys.argv)
    monkeypatch.setattr(executing, "report", lambda context, summary: None)  # the picture takes longer than the study
    for registry in Registry.all.values():
        monkeypatch.setattr(registry, "_classes", dict(registry))
    monkeypatch.setattr(ConfigStore.instance(), "repo", copy.deepcopy(ConfigStore.instance().repo))

    def run(*words: str) -> dict[str, Any]:
        forget()
        assert run_command([*SMALL, *words]) == 0
        return read_run(runs_of(tmp_path)[-1])

    yield run
    forget()


def forget() -> None:
    """Forget the user's modules."""
    importlib.invalidate_caches()
    for name in [name for name in sys.modules if name.partition(".")[0] == "my_lab"]:
        del sys.modules[name]
    for registry in Registry.all.values():
        for name in [name for name, cls in registry.items() if cls.__module__.startswith("my_lab")]:
            del registry._classes[name]


def edit(monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    """As if the file of a module of the package had been edited, and the process started again."""
    read = sources.source_of

    def edited(name: str) -> Any:
        found = read(name)
        return replace(found, digest="0" * 12) if name == module and found is not None else found

    monkeypatch.setattr(code, "source_of", edited)


def rebuilt(before: dict[str, Any], after: dict[str, Any]) -> set[str]:
    """Kinds of artifacts of which the second run has used others than the first."""
    assert before["artifacts"].keys() == after["artifacts"].keys()
    return {kind for kind, keys in before["artifacts"].items() if keys != after["artifacts"][kind]}


EDITS = {
    "dpo_lab.data.synthetic": EVERYTHING,
    "dpo_lab.data.tokenizers.word": EVERYTHING,
    "dpo_lab.models.transformer": FROM_BASE,
    "dpo_lab.losses.sft": FROM_BASE,
    "dpo_lab.preferences.sampling": SAMPLES,
    "dpo_lab.preferences.sampled": set(),
    "dpo_lab.preferences.rewards.lexicon": SAMPLES,
    "dpo_lab.losses.dpo": set(),
    "dpo_lab.evaluation.frontier": set(),
    "dpo_lab.evaluation.policy": set(),
    "dpo_lab.losses.ipo": set(),
    "dpo_lab.tracking.console": set(),
    "dpo_lab.compare.statistics": set(),
    "dpo_lab.pipeline.study": set(),
}
NO_PART_OF_THE_RUN = {"dpo_lab.pipeline.study", "dpo_lab.losses.ipo", "dpo_lab.tracking.console", "dpo_lab.compare.statistics"}


@pytest.mark.slow
def test_what_an_edit_of_the_package_builds_again(ran: Ran, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, config = ran(), composed(SMALL)
    study = to_study(config)
    assert set(first["artifacts"]) == EVERYTHING

    def again() -> dict[str, Any]:
        assert execute(study, config, [], "x") == 0
        return read_run(runs_of(tmp_path)[-1])

    for module, expected in EDITS.items():
        with pytest.MonkeyPatch.context() as patch:
            edit(patch, module)
            capsys.readouterr()
            other = again()
            said = capsys.readouterr().out
        assert rebuilt(first, other) == expected, module
        assert (other["config_key"] == first["config_key"]) == (module in NO_PART_OF_THE_RUN), module
        file = module.removeprefix("dpo_lab.").replace(".", "/") + ".py"
        for kind in expected - {"reference_scores"}:
            assert f"{kind.replace('_', ' ')}: built again, " in said, module
        assert (f"{file} changed" in said) == bool(expected), module
    assert rebuilt(first, again()) == set(), "with the edits taken back, what was built first is there still"


@pytest.mark.slow
def test_versions_and_threads_are_part_of_what_a_model_computes(ran: Ran, monkeypatch: pytest.MonkeyPatch) -> None:
    first, version = ran(), code.version
    assert rebuilt(first, ran("compute.threads=2")) == FROM_BASE
    assert rebuilt(first, ran("runs=runs/elsewhere", "trainer.checkpoint_every=1", "evaluation.num_shown=1")) == set()
    monkeypatch.setattr(code, "version", lambda name: "0.1" if name == "x-transformers" else version(name))
    again = ran()
    assert rebuilt(first, again) == FROM_BASE
    assert again["versions"]["x-transformers"] == "0.1"
    assert again["config_key"] != first["config_key"]


REWARD = '''
from dataclasses import dataclass, field

import torch

from dpo_lab.preferences.rewards import REWARDS, RewardSpec
from my_lab.words import SIGN


@REWARDS.register
@dataclass
class Mine(RewardSpec):
    """Words count."""

    name: str = "mine"
    values: dict[str, float] = field(default_factory=dict)

    def load(self, directory):
        return lambda texts: torch.tensor([SIGN * float(text.count("a") - text.count("h")) for text in texts])
'''
LOSS = '''
from dataclasses import dataclass

from dpo_lab.losses import LOSSES
from dpo_lab.losses.dpo import DPOLoss


@LOSSES.register
@dataclass
class Mine(DPOLoss):
    """DPO's loss."""

    name: str = "mine"
'''
DATA = '''
from dataclasses import dataclass

from dpo_lab.data import DATA
from dpo_lab.data.synthetic import SyntheticSource


@DATA.register
@dataclass
class Mine(SyntheticSource):
    """The same language."""

    name: str = "mine"
'''
TOKENIZER = '''
from dataclasses import dataclass

from dpo_lab.data.tokenizers import TOKENIZERS
from dpo_lab.data.tokenizers.word import WordTokenizer


@TOKENIZERS.register
@dataclass
class Mine(WordTokenizer):
    """Words."""

    name: str = "mine"
'''
MODEL = '''
from dataclasses import dataclass

from dpo_lab.models import MODELS
from dpo_lab.models.transformer import TransformerSpec


@MODELS.register
@dataclass
class Mine(TransformerSpec):
    """The same network."""

    name: str = "mine"
'''


def write(name: str, text: str) -> None:
    folder = Path("my_lab")
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.py").write_text(text)
    shutil.rmtree(folder / "__pycache__", ignore_errors=True)  # it goes by seconds, a test is faster


def test_a_reward_that_is_turned_round_is_trained_towards(ran: Ran, tmp_path: Path) -> None:
    write("words", "SIGN = 1")
    write("reward", REWARD)
    words = ["user_modules=[my_lab.reward]", "reward=mine"]
    first = ran(*words)
    assert rebuilt(first, ran(*words)) == set()
    write("words", "SIGN = -1")
    again = ran(*words)
    assert rebuilt(first, again) == {*SAMPLES, "reference_scores"}, "which have other pairs"
    rewards = [read_summary(path)["proxy/reference"] for path in runs_of(tmp_path)]
    assert rewards[0] == rewards[1] == -rewards[2] != 0
    assert first["code"].keys() == again["code"].keys() >= {"my_lab.reward", "my_lab.words"}


USERS = {"loss": (LOSS, set()), "data": (DATA, EVERYTHING), "tokenizer": (TOKENIZER, EVERYTHING), "model": (MODEL, FROM_BASE)}


@pytest.mark.slow
def test_what_an_edit_of_the_users_code_builds_again(ran: Ran, capsys: pytest.CaptureFixture[str]) -> None:
    for kind, (text, _) in USERS.items():
        write(kind, text)
    words = [f"user_modules=[{','.join(f'my_lab.{kind}' for kind in USERS)}]", *(f"{kind}=mine" for kind in USERS)]
    first = ran(*words)
    for kind, (text, expected) in USERS.items():
        write(kind, text + "\nONE_MORE_LINE = True\n")
        capsys.readouterr()
        again = ran(*words)
        assert rebuilt(first, again) == expected, kind
        assert again["config_key"] != first["config_key"], kind
        assert (f"my_lab/{kind}.py changed" in capsys.readouterr().out) == bool(expected), kind
        first = again


def test_an_artifact_of_other_code_is_taken_on_purpose(ran: Ran, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = ran()
    with pytest.MonkeyPatch.context() as patch:
        edit(patch, "dpo_lab.models.transformer")
        capsys.readouterr()
        (key,) = first["artifacts"]["base"]
        again = ran("store.accept=base")
        assert f"base: {key} is accepted, although models/transformer.py changed" in capsys.readouterr().out
        assert again["artifacts"]["base"] == [key]
        assert again["accepted"] == {"base": [key]}
        assert rebuilt(first, again) == SAMPLES | {"reference_scores"}, "which run the model"
        (samples,) = first["artifacts"]["candidates"]
        by_key = ran(f"store.accept=[{key},{samples}]")
        assert by_key["accepted"] == {"base": [key], "candidates": [samples]}, "by its key even where the new one is there"
        capsys.readouterr()
        words = ["runner=evaluate", "model=checkpoint", f"model.path={runs_of(tmp_path)[0]}", "compute.threads=1"]
        assert run_command([*words, f"store.accept={key}"]) == 0
        assert read_run(runs_of(tmp_path)[-1])["accepted"] == {"base": [key]}
        assert run_command([*words, f"store.accept={'0' * 16}"]) == 2
        assert "has no artifact" in capsys.readouterr().err
        assert run_command([*words, f"store.accept=[{key},reward]"]) == 0
        assert "no stage could take reward" in capsys.readouterr().out
    assert ran()["accepted"] == {}


@pytest.mark.parametrize("word", ["store.accept=bass", "store.accept=12"])
def test_only_stages_and_keys_can_be_accepted(word: str, ran: Ran, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command([*SMALL, word]) == 2
    assert "store.accept: '" in capsys.readouterr().err


@pytest.mark.slow
def test_a_sweep_runs_again_what_other_code_has_run(ran: Ran, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write("loss", LOSS)
    words = ["-m", *SMALL, "user_modules=[my_lab.loss]", "loss=mine", "seed=0,1"]

    def swept() -> tuple[int, str]:
        before = len(runs_of(tmp_path))
        forget()
        capsys.readouterr()
        assert run_command(words) == 0
        return len(runs_of(tmp_path)) - before, capsys.readouterr().out

    assert swept()[0] == 2
    number, said = swept()
    assert (number, "2 finished before" in said) == (0, True)
    write("loss", LOSS + "\nONE_MORE_LINE = True\n")
    number, said = swept()
    assert (number, "finished before" in said) == (2, False)
    assert "my_lab/loss.py changed" in said


@pytest.mark.slow
def test_a_search_asks_again_for_what_other_code_has_answered(ran: Ran, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("optuna")
    write("loss", LOSS)
    words = ["-m", *SMALL, "user_modules=[my_lab.loss]", "loss=mine,dpo", "loss.beta=interval(1,2)", "hydra/sweeper=optuna"]
    words += ["hydra.sweeper.n_trials=1", "evaluation.best_of=[2]"]

    def searched() -> tuple[bool, bool]:
        forget()
        capsys.readouterr()
        assert run_command(words) == 0
        said = capsys.readouterr().out
        return "1 of 1 trials are known" in said, "started anew" in said

    assert searched() == (False, False)
    assert searched() == (True, False)
    write("loss", LOSS + "\nONE_MORE_LINE = True\n")
    assert searched() == (False, True)


def test_a_manifest_says_what_an_artifact_is_made_of(ran: Ran, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = ran()
    (key,) = first["artifacts"]["base"]
    manifest = json.loads((tmp_path / "artifacts" / "base" / key / "manifest.json").read_text())
    assert manifest["code"]["modules"]["dpo_lab.models.transformer"] == first["code"]["dpo_lab.models.transformer"]
    assert manifest["code"]["versions"]["torch"] == first["versions"]["torch"]
    assert manifest["rounding"]["threads"] == 1
    capsys.readouterr()
    assert run_command(["runner=store", "runner.do=show", f"runner.key={key}"]) == 0
    shown = capsys.readouterr().out
    for part in ("models/transformer.py", "x-transformers", "threads", "fit.trainer.max_steps"):
        assert part in shown
