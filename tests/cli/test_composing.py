"""A configuration is composed once, whoever asks for it, and by the laboratory's rules."""

from __future__ import annotations

import pickle
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra.types import RunMode
from omegaconf import DictConfig, open_dict

from dpo_lab.cli.composing import Composer, composed
from dpo_lab.cli.main import run_command
from dpo_lab.cli.sweeps import task

QUICK = "+experiment=quickstart"


@pytest.fixture
def merged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[list[str]]]:
    """The choices of each merging of configuration files. No run is started."""
    original, merges = Composer._merged, list[list[str]]()

    def counted(composer: Composer, choices: Any) -> DictConfig:
        merges.append([str(choice.input_line) for choice in choices])
        return original(composer, choices)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", sys.argv)
    monkeypatch.setattr(Composer, "_merged", counted)
    monkeypatch.setattr(task, "execute", lambda *arguments, **options: 0)
    handler = signal.getsignal(signal.SIGTERM)
    yield merges
    signal.signal(signal.SIGTERM, handler)


@pytest.mark.parametrize("words", [[QUICK, "loss=ipo", "loss.beta=2", "seed=3"], [QUICK, "--cfg", "job"]], ids=" ".join)
def test_one_run_is_composed_once(words: list[str], merged: list[list[str]]) -> None:
    assert run_command(words) == 0
    assert len(merged) == 1


def test_a_sweep_is_composed_once_and_once_for_each_of_its_choices(merged: list[list[str]]) -> None:
    assert run_command(["-m", QUICK, "loss=dpo,ipo", "seed=0,1,2", "hydra.verbose=false"]) == 0
    assert merged == [[QUICK], [QUICK, "loss=dpo"], [QUICK, "loss=ipo"]]


def test_what_hydra_is_given_for_a_job_is_what_was_checked(merged: list[list[str]]) -> None:
    composer = Composer()
    words = ["hydra.launcher.n_jobs=2", QUICK, "loss=ipo", "seed=3"]
    settings = composer.settings(words)
    sweep = composer.load_configuration("config", [*words[:2], "loss=ipo,dpo", "seed=3"], RunMode.MULTIRUN)
    job = composer.load_sweep_config(sweep, words[1:])
    assert (job.hydra.launcher.n_jobs, job.hydra.overrides.task) == (2, words[1:])
    with open_dict(job):
        del job["hydra"]
    assert job == settings
    assert settings is composer.settings(words)
    assert len(merged) == 2


def test_a_single_run_is_given_its_settings_by_the_laboratorys_rules(merged: list[list[str]]) -> None:
    words = ["vary=all", QUICK, "seed=7", "loss=dpo"]
    config = Composer().load_configuration("config", words, RunMode.RUN)
    assert config.data.seed == config.evaluation.seed == 7
    assert config.hydra.overrides.task == words, "in the order of the command, as a run directory's name has them"
    assert len(merged) == 1


def test_a_composer_that_was_sent_elsewhere_composes_the_same(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text("# @package _global_\ndefaults: [quickstart]\nseed: 5\n")
    composer = Composer([tmp_path])
    words = ["+experiment=mine", "loss=ipo"]
    settings = composer.settings(words)
    assert pickle.loads(pickle.dumps(composer)).settings(words) == settings
    assert pickle.loads(pickle.dumps(settings)) == settings, "as it is sent to a process"


def test_an_experiments_settings_for_a_choice_do_not_hold_for_another() -> None:
    plain, quick = composed([]), composed([QUICK])
    assert (plain.loss.beta, quick.loss.beta) == (0.1, 1.0)
    assert composed([QUICK, "loss=dpo"]).loss == quick.loss, "the same choice, said once more"
    assert composed([QUICK, "loss=ipo"]).loss == composed(["loss=ipo"]).loss
    assert composed([QUICK, "loss=ipo", "loss.beta=3"]).loss.beta == 3
    base = composed([QUICK, "optimizer@base.optimizer=sgd"]).base
    assert base.optimizer == composed(["optimizer@base.optimizer=sgd"]).base.optimizer
    assert base.trainer == quick.base.trainer


def test_hydras_mode_makes_a_sweep_of_a_command(merged: list[list[str]], capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command([QUICK, "hydra.mode=MULTIRUN"]) == 0
    assert "sweep: 1 done" in capsys.readouterr().out
