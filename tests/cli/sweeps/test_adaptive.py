"""A search keeps to its bound, goes on where it was, and says what it found."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from processes import QUICKSTART, runs_of

from dpo_lab.cli.main import run_command

pytest.importorskip("optuna", reason="the search needs the extra: pip install 'dpo_lab[optuna]'")
pytestmark = pytest.mark.slow
SEARCH = ["-m", *QUICKSTART, "trainer.max_steps=3", "trainer.eval_every=3", "evaluation.best_of=[2]", "hydra/sweeper=optuna"]
SPACE = ["loss.beta=tag(log,interval(0.01,100))", "loss=dpo,ipo", "trainer.batch_size=interval(8,16)"]


def trials(out: str) -> list[str]:
    return re.findall(r"^trial \d+: (.*?)  ", out, re.MULTILINE)


def test_a_search_goes_on_as_if_it_had_not_stopped_and_keeps_to_its_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = {}
    for name, counts in (("at once", (2,)), ("in two", (1, 2))):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        for count in counts:
            words = [*SEARCH, *SPACE, f"hydra.sweeper.n_trials={count}", "hydra.sweeper.max_kl=0.03"]
            run_command(words)
        out = capsys.readouterr().out
        found[name] = trials(out)
        assert len(runs_of(tmp_path / name)) == 2
    assert found["in two"] == found["at once"]
    assert len(set(found["at once"])) == 2
    assert "1 of 2 trials are known" in out
    summaries = [json.loads((path / "summary.json").read_text()) for path in runs_of(tmp_path / "in two")]
    for summary in summaries:
        assert f"reward/policy {summary['reward/policy']:.4g} \N{PLUS-MINUS SIGN} {summary['reward/policy_se']:.2g}, kl" in out
    within = [summary["reward/policy"] for summary in summaries if summary["kl"] <= 0.03]
    if within:
        assert f"reward/policy {max(within):.4g} \N{PLUS-MINUS SIGN}" in out.split("best of 2 trials: ")[1]
    else:
        assert "no trial of 2 is within hydra.sweeper.max_kl=0.03" in out


def test_a_trial_that_diverges_is_pruned_and_a_search_without_a_result_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    wild = ["optimizer=sgd", "trainer.clip=null", "optimizer.lr=1e30,2e30", "hydra.sweeper.n_trials=1"]
    assert run_command([*SEARCH, *wild]) == 1
    out = capsys.readouterr().out
    assert re.search(r"^trial 0: optimizer.lr=[12]e\+30  diverged", out, re.MULTILINE)
    assert out.strip().endswith("warning: all 1 trials diverged; search other values of optimizer.lr"), out


@pytest.mark.parametrize(
    ("words", "said"),
    {
        ("loss.beta=interval(0,1)", "hydra/sweeper=optuna"): "loss.beta must be > 0",
        ("loss.beta=interval(0.1,1)",): "add hydra/sweeper=optuna",
        ("seed=0,1", "hydra/sweeper=optuna", "hydra.sweeper.n_trial=2"): "hydra.sweeper.n_trial",
        (
            "seed=0,1",
            "hydra/sweeper=optuna",
            "hydra.sweeper.metric=reward",
            "hydra.sweeper.n_trials=1",
        ): "no number 'reward' in",
    }.items(),
)
def test_a_search_that_makes_no_sense_is_refused(
    words: tuple[str, ...], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_command([*SEARCH[:-1], *words]) == 2
    assert said in capsys.readouterr().err
