"""Sweeps: what ran before is not run again, and what fails does not stop the others."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from processes import QUICKSTART, runs_of

from dpo_lab.cli.main import run_command

pytestmark = pytest.mark.slow
SWEEP = ["-m", *QUICKSTART, "trainer.max_steps=2", "evaluation.best_of=[2]"]


def statuses(folder: Path) -> list[str]:
    return sorted(json.loads((path / "run.json").read_text())["status"] for path in runs_of(folder))


def test_a_sweep_given_again_runs_only_what_is_not_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_command([*SWEEP, "loss.beta=0.1,0.2"]) == 0
    first = runs_of(tmp_path)
    assert "sweep: 2 done\n" in capsys.readouterr().out
    assert run_command([*SWEEP, "loss.beta=0.1,0.2,0.3"]) == 0
    assert len(runs_of(tmp_path)) == 3
    out = capsys.readouterr().out
    assert "sweep: 1 done, 2 finished before\n" in out
    assert out.count("finished before, in") == 2
    # One that did not end well goes on in its directory; one whose results are gone is run anew.
    facts = json.loads((first[0] / "run.json").read_text())
    (first[0] / "run.json").write_text(json.dumps({**facts, "status": "preempted"}))
    (first[1] / "summary.json").unlink()
    assert run_command([*SWEEP, "loss.beta=0.1,0.2,0.3"]) == 0
    assert len(runs_of(tmp_path)) == 4
    assert "sweep: 2 done, 1 finished before\n" in capsys.readouterr().out


def test_where_results_are_put_does_not_matter_but_every_setting_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_command([*SWEEP, "loss.beta=0.1,0.2"]) == 0
    assert run_command([*SWEEP, "loss.beta=0.1,0.2", "store=elsewhere"]) == 0
    assert len(runs_of(tmp_path)) == 2
    assert run_command([*SWEEP, "loss.beta=0.1,0.2", "optimizer.lr=0.02"]) == 0
    assert len(runs_of(tmp_path)) == 4


def test_a_single_run_is_always_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        assert run_command(SWEEP[1:]) == 0
    assert statuses(tmp_path) == ["done", "done"]


def test_a_job_that_diverges_is_named_and_the_others_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_command([*SWEEP, "optimizer=sgd", "trainer.clip=null", "optimizer.lr=1e30,0.01"]) == 1
    assert statuses(tmp_path) == ["diverged", "done"]
    shown = " ".join(capsys.readouterr().out.split())
    assert "sweep: 1 done, 1 diverged" in shown
    assert "optimizer.lr=1e+30" in shown.split("warning: diverged: ")[2].replace(" ", "")


def test_a_sweep_whose_jobs_cannot_begin_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    assert run_command([*SWEEP, "seed=0,1", "store=file"]) == 1
    assert "sweep: 2 failed\n" in capsys.readouterr().out


def test_geometric_points_in_an_experiment_are_run_and_found_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "mine" / "experiment" / "betas.yaml"
    file.parent.mkdir(parents=True)
    sweep = "hydra: {sweeper: {params: {loss.beta: 'logspace(0.1,1,2)'}}}"
    file.write_text(f"# @package _global_\ndefaults: [quickstart, _self_]\n{sweep}\n")
    words = ["--config-dir", "mine", *SWEEP[1:]]
    words[words.index("+experiment=quickstart")] = "+experiment=betas"
    assert run_command(["-m", *words]) == 0
    assert "sweep: 2 done\n" in capsys.readouterr().out
    assert run_command(["-m", *words, "loss.beta=logspace(0.1,1,2)"]) == 0
    assert run_command(["-m", *words, "loss.beta=0.1,1.0"]) == 0
    assert capsys.readouterr().out.count("sweep: 2 finished before\n") == 2
    assert run_command(words) == 2
    assert "sweep over loss.beta: add -m to run its 2 jobs" in capsys.readouterr().err
