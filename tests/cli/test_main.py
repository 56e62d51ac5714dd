"""A mistake in a command is answered in one line, before anything has been started or written."""

from __future__ import annotations

import difflib
import logging
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from omegaconf import DictConfig

from dpo_lab.cli.composing import composed
from dpo_lab.cli.main import run_command
from dpo_lab.cli.sweeps import task
from dpo_lab.cli.validation import validate

QUICK = "+experiment=quickstart"
UNPAIRED = "loss=kto candidates.pairing=unpaired candidates.labels=hard"

# The command, and what its answer must hold: the field, file or option, and a way out.
WRONG = {
    # Misspelt settings, however they are forced in.
    "loss.bta=1": ("loss.bta", "'loss.beta'"),
    "+loss.bta=1": ("loss.bta", "'loss.beta'"),
    "++loss.bta=1": ("loss.bta", "'loss.beta'"),
    "~loss.bta": ("loss.bta", "'loss.beta'"),
    "lss.beta=1": ("lss.beta", "'loss.beta'"),
    "+lss.beta=1": ("lss", "'loss'"),
    "base.optimizr.lr=1": ("base.optimizr.lr", "'base.optimizer.lr'"),
    "++base.optimizer.lrr=1": ("base.optimizer.lrr", "'base.optimizer.lr'"),
    "trainer.max_step=3": ("trainer.max_step", "'trainer.max_steps'"),
    "sede=1": ("sede", "'seed'"),
    "+zzz=1": ("zzz", "trainer"),
    "+loss._target_=os.system": ("loss._target_", "beta"),
    "experiment=quickstart": ("experiment", "'+experiment'"),
    "+expriment=quickstart": ("expriment", "'+experiment'"),
    # Unknown names, one of each group.
    "loss=simop": ("loss 'simop'", "'simpo'"),
    "data=imbd": ("data 'imbd'", "'imdb'"),
    "tokenizer=wrod": ("tokenizer 'wrod'", "'word'"),
    "model=transformr": ("model 'transformr'", "'transformer'"),
    "reward=lexikon": ("reward 'lexikon'", "'lexicon'"),
    "candidates=sampeld": ("candidates 'sampeld'", "'sampled'"),
    "reference=cache": ("reference 'cache'", "'cached'"),
    "optimizer=adam": ("optimizer 'adam'", "'adamw'"),
    "optimizer@base.optimizer=adam": ("optimizer 'adam'", "'adamw'"),
    "schedule=cos": ("schedule 'cos'", "'cosine'"),
    "runner=prefrence": ("runner 'prefrence'", "'preference'"),
    "+experiment=quickstrt": ("experiment 'quickstrt'", "'quickstart'"),
    "loss=zzzzzz": ("loss 'zzzzzz'", "dpo"),
    # A choice is no value.
    "loss.name=ipo": ("loss.name", "loss=ipo"),
    "~loss": ("loss", "loss="),
    # Wrong types.
    "loss.beta=abc": ("loss.beta", "Float"),
    "seed=1.5": ("seed", "Integer"),
    "trainer.batch_size=null": ("trainer.batch_size", "not Optional"),
    "loss.aggregate=average": ("loss.aggregate", "[sum, mean, shared, sampled]"),
    "compute.precision=fp16": ("compute.precision", "[fp32, bf16]"),
    "trainer=3": ("trainer", "TrainerSettings"),
    "evaluation.best_of=3": ("evaluation.best_of", "list"),
    "user_modules=3": ("user_modules", "list of module names"),
    "user_modules=": ("user_modules", "list of module names"),
    # Values that make no sense.
    "loss.beta=-1": ("loss.beta", "> 0"),
    "loss.beta=nan": ("loss.beta", "> 0"),
    "loss.beta=inf": ("loss.beta", "inf"),
    "loss.label_smoothing=0.5": ("loss.label_smoothing", "[0, 0.5)"),
    "loss.beta=???": ("loss.beta", "loss.beta=..."),
    "loss.beta=${loss.bta}": ("loss.beta", "loss.bta"),
    "loss.beta=${oc.env:NO_SUCH_VARIABLE}": ("loss.beta", "NO_SUCH_VARIABLE"),
    "trainer.max_steps=0": ("trainer.max_steps", "at least 1"),
    "base.trainer.max_steps=0": ("trainer.max_steps", "at least 1"),
    "trainer.max_steps=null": ("trainer.max_steps", "trainer.max_pairs"),
    "trainer.clip=0": ("trainer.clip", "> 0"),
    "optimizer.lr=-1": ("optimizer.lr", ">= 0"),
    "optimizer.betas=[0.9]": ("optimizer.betas", "two numbers"),
    "schedule.warmup=2": ("schedule.warmup", "[0, 1)"),
    "model.dim=30 model.heads=4": ("model.dim", "multiple of model.heads"),
    "evaluation.num_prompts=1": ("evaluation.num_prompts", "at least 2"),
    "candidates.max_tokens=0": ("candidates.max_tokens", "at least 1"),
    "tokenizer=bpe tokenizer.vocab_size=10": ("tokenizer.vocab_size", "at least 259"),
    "compute.device=gpu": ("compute.device", "cpu"),
    "compute.threads=0": ("compute.threads", "at least 1"),
    "store=": ("store", "directory"),
    # Paths that leave the directory of the runs.
    "name=../../x": ("name", "relative path"),
    "name=/tmp/x": ("name", "relative path"),
    "name=a/../b": ("name", "relative path"),
    "name=": ("name", "relative path"),
    # Files that are not there.
    "data=pairs": ("data.path", "data.path=FILE"),
    "data=pairs data.path=/nowhere.jsonl": ("data.path", "/nowhere.jsonl"),
    "data=imdb data.path=/nowhere.csv": ("data.path", "/nowhere.csv"),
    "model=checkpoint": ("model.path", "model.path=RUN_DIRECTORY"),
    "model=checkpoint model.path=/nowhere": ("model.path", "/nowhere"),
    "--config-dir nowhere": ("--config-dir", "nowhere"),
    "user_modules=[no.such]": ("user_modules", "no.such"),
    # Choices that do not fit each other.
    "reward=lexicon": ("reward.values", "reward.values="),
    "reference=none": ("loss=dpo", "reference=cached"),
    "candidates=sampled": ("candidates=sampled", "reward=..."),
    "": ("data=synthetic", "candidates=sampled"),
    "candidates.max_tokens=33": ("candidates.max_tokens=33", "model.context=32"),
    "candidates.pairing=unpaired candidates.labels=hard": ("loss=dpo", "loss=kto"),
    # What would be accepted and mean nothing, or be missed after all the work.
    "base.trainer.max_minutes=3": ("base.trainer.max_minutes", "base.trainer.max_steps"),
    "base.trainer.eval_every=3": ("base.trainer.eval_every", "leave it out"),
    "base.trainer.eval_every=3 base.trainer.patience=3": ("base.trainer.eval_every", "leave it out"),
    "base.trainer.best_metric=kl": ("base.trainer.best_metric", "leave it out"),
    "base.trainer.checkpoint_every=3": ("base.trainer.checkpoint_every", "leave it out"),
    "base.trainer.keep_last=3": ("base.trainer.keep_last", "leave it out"),
    "base.trainer.keep_every=3": ("base.trainer.keep_every", "leave it out"),
    "base.trainer.guards.max_kl=3": ("base.trainer.guards.max_kl", "leave it out"),
    "base.trainer.guards.max_margin=3": ("base.trainer.guards.max_margin", "leave it out"),
    "trainer.patience=3 trainer.eval_every=null": ("trainer.patience", "trainer.eval_every"),
    "trainer.guards.beyond=stop": ("trainer.guards.beyond", "trainer.guards.max_margin"),
    "runner=sample model=checkpoint model.path=. loss.beta=3": ("loss.beta", "runner=sample does not look at it"),
    "runner=evaluate model=checkpoint model.path=. seed=3": ("seed", "runner=evaluate does not look at it"),
    "runner=evaluate model=checkpoint model.path=. optimizer@base.optimizer=sgd": ("base.optimizer", "leave it out"),
    "runner=store trainer.max_steps=3": ("trainer.max_steps", "leave it out"),
    "model=pretrained model.path=. model.lora.alpha=3": ("model.lora", "model.lora.rank"),
    "trainer.best_metric=rewards/acuracies": ("trainer.best_metric", "'rewards/accuracies'"),
    "trainer.best_metric=reward/polic": ("trainer.best_metric", "'reward/policy'"),
    "trainer.best_metric=lr": ("trainer.best_metric", "'lr'"),
    f"{UNPAIRED} trainer.best_metric=rewards/accuracies": ("trainer.best_metric", "'rewards/accuracies'"),
    f"{UNPAIRED} trainer.guards.max_margin=3": ("trainer.guards.max_margin", "trainer.guards.max_drop"),
    "loss=simpo reference=none trainer.guards.max_drop=3": ("trainer.guards.max_drop", "reference=cached"),
    "runner=sample": ("runner=sample", "model.path=RUN_DIRECTORY"),
    "runner=evaluate": ("runner=evaluate", "model.path=RUN_DIRECTORY"),
    # A sweep is checked whole before its first job.
    "-m loss.beta=0.1,-1": ("loss.beta", "> 0"),
    "-m loss=dpo,ipoo": ("loss 'ipoo'", "'ipo'"),
    "-m seed=range(3) +loss.bta=1": ("loss.bta", "'loss.beta'"),
    "-m name=a,../b": ("name", "relative path"),
    "loss.beta=0.1,0.2": ("loss.beta", "-m"),
    "seed=range(3)": ("seed", "-m"),
    "loss.beta=logspace(0.1,1,3)": ("loss.beta", "-m"),
    "-m loss.beta=logspace(0,1,5)": ("loss.beta=logspace(0,1,5)", "two numbers > 0"),
    "-m loss.beta=logspace(1,1,5)": ("loss.beta", "two different ends"),
    "-m loss.beta=logspace(1,2,1)": ("loss.beta", "at least 2 values"),
    "-m loss.beta=logspace(1,2)": ("loss.beta", "'num'"),
    "-m loss.beta=logspace(1,2,x)": ("loss.beta", "num"),
    "-m seed=logspace(1,2,3)": ("seed", "Integer"),
    "-m seed=1,2 hydra.launcher.n_job=2": ("hydra.launcher.n_job",),
    "-m seed=1,2 hydra.launcher.n_jobs=x": ("hydra.launcher.n_jobs", "Integer"),
    "-m seed=1,2 hydra/launcher=locl": ("hydra/launcher 'locl'", "'local'"),
    # Words that say nothing.
    "loss.beta=[1": ("loss.beta", "quotes"),
    "-m seed=range(0,2": ("seed=range(0,2", "quotes"),
    "loss.beta": ("loss.beta", "key=value"),
    "=3": ("=3", "key=value"),
    "user_modules=[a": ("user_modules", "quotes"),
    "--config-dir": ("--config-dir", "--help"),
    "--foo": ("--foo", "--help"),
    "--cfg jobs": ("--cfg", "job"),
    "--cfg job loss.bta=1": ("loss.bta", "'loss.beta'"),
    "-m --cfg job": ("--multirun", "leave it out"),
}

ALONE = (
    "",
    "experiment=quickstart",
    "+experiment=quickstrt",
    "~loss",
    "--config-dir",
    "model=checkpoint",
    "model=checkpoint model.path=/nowhere",
    "reward=lexicon",
    "candidates=sampled",
    "data=pairs",
    "data=pairs data.path=/nowhere.jsonl",
    "data=imdb data.path=/nowhere.csv",
)
"""Commands that mean something else on top of an experiment."""


@pytest.fixture(autouse=True)
def started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[object]]:
    """An empty working directory; and no run is started, only counted."""
    runs: list[object] = []

    def execute(*arguments: Any, **named: Any) -> int:
        runs.append(arguments)
        return 0

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", sys.argv)
    monkeypatch.setattr(task, "execute", execute)
    handler, logs, level = signal.getsignal(signal.SIGTERM), list(logging.root.handlers), logging.root.level
    yield runs
    signal.signal(signal.SIGTERM, handler)
    logging.root.handlers[:] = logs  # --info adds one that writes to this test's stdout
    logging.root.setLevel(level)


def answer(arguments: Sequence[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that refuses the command."""
    code = run_command(arguments)
    out, error = capsys.readouterr()
    assert code == 2, f"exit status {code}: {out}{error}"
    assert out == ""
    assert error.startswith("error: ")
    assert error.endswith("\n")
    assert error.count("\n") == 1, error
    assert len(error) < 400
    return error


@pytest.mark.parametrize("command", WRONG, ids=lambda command: command or "nothing")
def test_a_mistake_is_answered_in_one_line_that_names_it_and_a_way_out(
    command: str, started: list[object], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = command.split()
    text = answer(words if command in ALONE else [*words, QUICK], capsys)
    for part in WRONG[command]:
        assert part in text
    assert started == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("words", [["reward.values={a: 1, b: -1}"], ["++reward.values={a: 1, b: -1}"]], ids=" ".join)
def test_word_values_can_be_given_on_the_command_line(words: list[str]) -> None:
    """As the error message for a lexicon without values advises."""
    validate(["reward=lexicon", *words, "candidates=sampled"])


@pytest.mark.parametrize(
    "words", [[QUICK], [QUICK, "name=imdb/beta"], [QUICK, "~seed"], ["-m", QUICK, "seed=range(3)"]], ids=" ".join
)
def test_what_is_right_is_started(words: list[str], started: list[object]) -> None:
    assert run_command(words) == 0
    assert len(started) == (3 if "-m" in words else 1)


@pytest.mark.parametrize(
    "words",
    [
        ["-m", QUICK, "seed=0,1"],
        [QUICK, "-m", "seed=0,1"],
        [QUICK, "seed=0,1", "--multirun"],
        [QUICK, "-m", "seed=0,1", "--config-dir", ".", "loss.beta=3"],
    ],
    ids=" ".join,
)
def test_flags_stand_before_between_and_after_settings(words: list[str], started: list[object]) -> None:
    assert run_command(words) == 0
    assert len(started) == 2


@pytest.mark.parametrize("flags", [["--cfg", "job"], ["--info"], ["--info", "defaults"], ["-sc", "install=bash"], ["--help"]])
def test_looking_is_the_same_wherever_the_flag_stands(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    said = []
    for words in ([*flags, QUICK, "loss.beta=3"], [QUICK, *flags, "loss.beta=3"], [QUICK, "loss.beta=3", *flags]):
        assert run_command(words) == 0
        said.append(capsys.readouterr().out)
    assert said[0]
    if "-sc" not in flags and "--info" not in flags:  # those say how long it took
        assert len(set(said)) == 1


def test_an_experiment_of_the_users_own_is_refused_like_ours(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "mine" / "experiment" / "odd.yaml"
    file.parent.mkdir(parents=True)
    file.write_text("# @package _global_\nloss: {bta: 1}\n")
    text = answer(["--config-dir", "mine", "+experiment=odd"], capsys)
    assert "bta" in text


def test_an_experiment_that_is_no_yaml_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "mine" / "experiment" / "odd.yaml"
    file.parent.mkdir(parents=True)
    file.write_text("# @package _global_\nloss: {beta: 1\n")
    assert "odd.yaml" in answer(["--config-dir", "mine", "+experiment=odd"], capsys)


@pytest.mark.parametrize("setting", ["runs", "store"])
def test_a_directory_that_cannot_be_made_is_named(
    setting: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from dpo_lab.pipeline.execute import execute

    monkeypatch.setattr(task, "execute", execute)
    (tmp_path / "file").write_text("")
    code = run_command([QUICK, f"{setting}=file", "base.trainer.max_steps=1", "trainer.max_steps=1"])
    error = capsys.readouterr().err
    assert code == 2
    assert re.fullmatch(rf"error: .*{setting}.*\n", error), error


@pytest.mark.parametrize(
    "option", [["--help"], ["--cfg", "job"], ["--cfg=job"], ["-c", "job"], ["--info", "config"]], ids=" ".join
)
def test_looking_starts_nothing(option: list[str], started: list[object], capsys: pytest.CaptureFixture[str]) -> None:
    with suppress(SystemExit):
        assert run_command([QUICK, *option]) == 0
    assert "beta: 1.0" in capsys.readouterr().out
    assert started == []


def test_help_offers_no_choices_that_are_none(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["--help"]) == 0
    shown = capsys.readouterr().out
    assert "  loss=dpo  " in shown
    assert "schema/" not in shown


def test_the_process_says_the_same_and_exits_with_2(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "dpo_lab", QUICK, "loss.bta=1"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: there is no setting 'loss.bta'. Did you mean 'loss.beta'?\n"
    assert list(tmp_path.iterdir()) == []


def levels(node: DictConfig, prefix: str = "") -> Iterator[tuple[str, list[str]]]:
    """Each part of the configuration that holds settings, and their names."""
    yield prefix, [str(name) for name in node]
    for name in map(str, node):
        if isinstance(node._get_node(name), DictConfig) and name != "values":  # any word is a key of reward.values
            yield from levels(node[name], f"{prefix}{name}.")


LEVELS = dict(levels(composed([QUICK])))


@st.composite
def misspellings(draw: st.DrawFn) -> tuple[str, str, str, list[str]]:
    """A real key with a mistake in one part; that part as written, as it should be, and all that could stand there.

    The mistake is a letter dropped, doubled or swapped with the next.
    """
    level = draw(st.sampled_from(sorted(LEVELS)))
    beside = LEVELS[level]
    right = draw(st.sampled_from(beside))
    i = draw(st.integers(0, len(right) - 1))
    dropped, doubled = right[:i] + right[i + 1 :], right[: i + 1] + right[i:]
    swapped = right[:i] + right[i : i + 2][::-1] + right[i + 2 :]
    wrong = draw(st.sampled_from([dropped, doubled, swapped]))
    assume(wrong and wrong not in beside)
    below = LEVELS.get(f"{level}{right}.")
    return level + wrong + (f".{draw(st.sampled_from(below))}" if below else ""), wrong, right, beside


@settings(max_examples=15)
@given(misspellings(), st.sampled_from(["", "+", "++"]))
def test_a_misspelt_key_is_refused_and_the_closest_one_suggested(case: tuple[str, str, str, list[str]], plus: str) -> None:
    key, wrong, right, beside = case
    with pytest.raises(ValueError, match="there is no setting") as caught:
        validate([QUICK, f"{plus}{key}=1"])
    if difflib.get_close_matches(wrong, beside, n=1, cutoff=0.5) == [right]:
        assert f"{right}'" in str(caught.value)


def test_of_two_misspelt_keys_the_first_is_named() -> None:
    with pytest.raises(ValueError, match=r"there is no setting 'trainer.num_steps'. Did you mean 'trainer.max_steps'\?"):
        validate([QUICK, "trainer.num_steps=4", "base.trainer.num_steps=5"])


@pytest.mark.parametrize(
    ("word", "meant"),
    {
        "beta=1": "'loss.beta'",
        "lr=1e-4": "'optimizer.lr' or 'base.optimizer.lr'",
        "max_steps=10": "'trainer.max_steps' or 'base.trainer.max_steps'",
        "+loss.bta=1": "'loss.beta'",
        "trainer.gards.max_kl=1": "'trainer.guards.max_kl' or 'base.trainer.guards.max_kl'",
        "trainer.gards.x=1": "'trainer.guards'",
        "+expriment=x": "'+experiment'",
    }.items(),
)
def test_a_setting_is_found_by_its_last_name_or_by_what_is_beside_it(word: str, meant: str) -> None:
    with pytest.raises(ValueError, match=rf"^there is no setting '[^']+'\. Did you mean {re.escape(meant)}\?$"):
        validate(["+experiment=quickstart", word])
