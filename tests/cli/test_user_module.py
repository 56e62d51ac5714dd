"""A loss of the user's own, in the user's own directory, is chosen like one of ours."""

from __future__ import annotations

import json
import math
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from processes import QUICKSTART, run, runs_of

from dpo_lab.cli.main import run_command
from dpo_lab.cli.sweeps import task
from dpo_lab.losses import LOSSES
from dpo_lab.pipeline.study import Study
from dpo_lab.registry import Registry

LOSS = '''
"""A loss of one line."""

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F

from dpo_lab.losses import LOSSES, Laws, PairLoss


@LOSSES.register
@dataclass
class Mine(PairLoss):
    """DPO's loss, weighted."""

    name: str = "mine"
    weight: float = 1.0
    laws: ClassVar[Laws] = Laws(shift_invariant=True, monotone=True, convex=True)

    def __post_init__(self):
        super().__post_init__()
        if self.weight <= 0:
            raise ValueError(f"loss.weight must be > 0, got {self.weight}")

    def per_pair(self, diff):
        return -self.weight * F.logsigmoid(self.beta * diff)
'''
EXPERIMENT = """# @package _global_
# Question: does my loss do better?
defaults:
  - quickstart
  - override /loss: mine
user_modules: [my_lab.losses]
name: odd
loss: {weight: 2}
"""


@pytest.fixture
def started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Study]]:
    """A working directory with my_lab/losses.py in it. Runs are collected, not started; what is registered is forgotten."""
    studies: list[Study] = []

    def execute(study: Study, *arguments: object, **named: object) -> int:
        studies.append(study)
        return 0

    write_module(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "argv", sys.argv)
    monkeypatch.setattr(task, "execute", execute)
    monkeypatch.setattr(LOSSES, "_classes", dict(LOSSES))
    handler = signal.getsignal(signal.SIGTERM)
    yield studies
    signal.signal(signal.SIGTERM, handler)
    for name in [name for name in sys.modules if name.split(".")[0] == "my_lab"]:
        del sys.modules[name]


def write_module(folder: Path, text: str = LOSS) -> None:
    (folder / "my_lab").mkdir()
    (folder / "my_lab" / "losses.py").write_text(text)
    (folder / "conf" / "experiment").mkdir(parents=True)
    (folder / "conf" / "experiment" / "odd.yaml").write_text(EXPERIMENT)


def refusal(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert run_command(words) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1, error
    return error


def test_a_users_loss_is_chosen_by_name_and_its_field_set(started: list[Study]) -> None:
    assert run_command(["+experiment=quickstart", "user_modules=[my_lab.losses]", "loss=mine", "loss.weight=3"]) == 0
    (study,) = started
    assert (study.loss.name, study.loss.weight, study.loss.beta) == ("mine", 3.0, 0.1)  # type: ignore[attr-defined]
    assert study.user_modules == ["my_lab.losses"]


@pytest.mark.parametrize("words", [["+experiment=odd"], ["-m", "+experiment=odd,quickstart"]], ids=" ".join)
def test_a_users_experiment_brings_its_module_along(words: list[str], started: list[Study]) -> None:
    assert run_command(["--config-dir", "conf", *words]) == 0
    assert (started[0].name, started[0].loss.name, started[0].loss.weight) == ("odd", "mine", 2.0)  # type: ignore[attr-defined]


def test_a_users_experiment_is_swept_over_a_field_of_the_users_loss(started: list[Study]) -> None:
    assert run_command(["--config-dir", "conf", "-m", "+experiment=odd", "loss.weight=1,2,4"]) == 0
    assert [study.loss.weight for study in started] == [1.0, 2.0, 4.0]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["loss=mine"], ("there is no loss 'mine'", "Did you mean")),
        (["user_modules=[my_lab.losses]", "loss=mien"], ("there is no loss 'mien'", "'mine'")),
        (["user_modules=[my_lab.losses]", "loss=mine", "loss.wieght=1"], ("'loss.wieght'", "'loss.weight'")),
        (["user_modules=[my_lab.losses]", "loss=mine", "loss.weight=0"], ("loss.weight must be > 0, got 0",)),
        (["user_modules=[my_lab.loses]"], ("user_modules", "'my_lab.loses'")),
        (["user_modules=[your_lab]"], ("user_modules", "'your_lab'")),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes_with_a_users_loss(
    words: list[str], parts: tuple[str, ...], started: list[Study], capsys: pytest.CaptureFixture[str]
) -> None:
    error = refusal(["+experiment=quickstart", *words], capsys)
    for part in parts:
        assert part in error
    assert started == []


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (LOSS.replace('"mine"', '"dpo"'), ("loss 'dpo' is already registered by dpo_lab.losses.dpo.DPOLoss",)),
        ("import no_such_package\n", ("my_lab.losses", "no_such_package")),
        ("def broken(:\n", ("my_lab.losses", "line 1")),
    ],
    ids=["taken name", "missing package", "syntax error"],
)
def test_a_module_that_cannot_be_used_is_named(
    text: str, parts: tuple[str, ...], started: list[Study], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "my_lab" / "losses.py").write_text(text)
    error = refusal(["+experiment=quickstart", "user_modules=[my_lab.losses]"], capsys)
    for part in parts:
        assert part in error
    assert LOSSES["dpo"].__module__ == "dpo_lab.losses.dpo"
    assert Registry.all["loss"] is LOSSES


@pytest.mark.slow
def test_a_process_finds_the_module_in_its_working_directory(tmp_path: Path) -> None:
    write_module(tmp_path)
    words = [word for word in QUICKSTART if word != "+experiment=quickstart"]
    run(tmp_path, ["--config-dir", "conf", "+experiment=odd", *words])
    (path,) = runs_of(tmp_path)
    first = json.loads((path / "metrics.jsonl").read_text().splitlines()[0])
    assert first["loss"] == pytest.approx(2 * math.log(2), abs=1e-6)  # float32
    assert json.loads((path / "run.json").read_text())["status"] == "done"
