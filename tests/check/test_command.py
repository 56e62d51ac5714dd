"""`python -m dpo_lab.check` on a loss of ours and on losses of a user; the picture of the zoo."""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hydra.core.config_store import ConfigStore

from dpo_lab.check.__main__ import main
from dpo_lab.losses import LOSSES

LOSSES_OF_A_USER = '''
from dataclasses import dataclass
from typing import ClassVar

import torch

from dpo_lab.losses import LOSSES, Laws, PairLoss


@LOSSES.register
@dataclass
class Honest(PairLoss):
    """A squared hinge."""

    name: str = "honest"
    laws: ClassVar[Laws] = Laws(
        shift_invariant=True, ratios_only=True, scaling=True, monotone=True, convex=True, rowwise=True, nonnegative=True
    )

    def per_pair(self, diff):
        return torch.relu(1 - self.beta * diff) ** 2


@LOSSES.register
@dataclass
class Boastful(Honest):
    """Calls itself monotone, and is a parabola."""

    name: str = "boastful"

    def per_pair(self, diff):
        return (1 - self.beta * diff) ** 2
'''


@pytest.fixture
def my_lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The word that brings in a user's losses, from the working directory; afterwards they are forgotten."""
    (tmp_path / "my_checked_lab").mkdir()
    (tmp_path / "my_checked_lab" / "losses.py").write_text(LOSSES_OF_A_USER)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(LOSSES, "_classes", dict(LOSSES))
    monkeypatch.setattr(ConfigStore.instance(), "repo", copy.deepcopy(ConfigStore.instance().repo))
    yield "user_modules=[my_checked_lab.losses]"
    for name in [name for name in sys.modules if name.split(".")[0] == "my_checked_lab"]:
        del sys.modules[name]


def row(name: str, text: str) -> list[str]:
    return next(line.split() for line in text.splitlines() if line.split()[:1] == [name])[1:]


def test_dpo_keeps_every_law(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["loss=dpo", "examples=5"]) == 0
    text = capsys.readouterr().out
    assert set(row("dpo", text)) == {"✓"}
    assert "no law is violated" in text


def test_a_users_losses_are_judged_and_the_false_promise_has_its_counterexample(
    my_lab: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["loss=honest,boastful", my_lab, "examples=10"]) == 1
    text = capsys.readouterr().out
    assert set(row("honest", text)) == {"✓", "–"}  # noqa: RUF001
    assert "honest: " not in text
    assert row("boastful", text).count("✗") == 2  # and it does not say that swapping costs it a multiple of the margin
    broken = text[text.index("boastful: monotone") :]
    assert "Never rises as the chosen completion becomes more likely" in broken
    assert "candidate 0: policy [" in broken
    assert "should declare swap_linear=True" in broken
    assert text.splitlines()[-1] == "violated by boastful"


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["losss=dpo"], ("'losss'", "'loss'")),
        (["loss=dpoo"], ("there is no loss 'dpoo'", "'dpo'")),
        (["examples=0"], ("examples must be > 0, got 0",)),
        (["examples=many"], ("cannot read 'examples=many'", "examples=200")),
        (["plot=3"], ("cannot read 'plot=3'", "plot=true")),
        (["dpo"], ("'dpo' is no setting", "loss=dpo")),
        (["--plot"], ("'--plot' is no setting",)),
        (["user_modules=[no_such_lab]"], ("cannot import 'no_such_lab'",)),
    ],
    ids=lambda value: " ".join(value),
)
def test_words_that_cannot_be_understood_are_one_line(
    words: list[str], parts: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("error: ")
    assert said.err.count("\n") == 1
    for part in parts:
        assert part in said.err


@pytest.mark.parametrize("word", ["plot=false", "plot=true"])
def test_hypothesis_is_asked_for_where_it_is_missing(
    word: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [name for name in sys.modules if name.startswith(("dpo_lab.check.", "hypothesis."))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "hypothesis", None)
    assert main(["loss=dpo", word]) == 2
    said = capsys.readouterr()
    assert said.err.count("\n") == 1
    assert "pip install 'dpo_lab[check]'" in said.err


def test_the_picture_is_a_png(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figure = tmp_path / "pictures" / "zoo.png"
    assert main(["loss=dpo,sft", "plot=true", f"figure={figure}"]) == 0
    assert figure.read_bytes().startswith(b"\x89PNG")
    assert str(figure) in capsys.readouterr().out
