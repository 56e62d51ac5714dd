"""A new loss is one short file and nothing else: laws, row of the table, help text and options follow from it."""

from __future__ import annotations

import json
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from processes import QUICKSTART, runs_of

from dpo_lab.check.__main__ import main as check
from dpo_lab.cli.composing import Composer, composed
from dpo_lab.cli.help_text import help_text
from dpo_lab.cli.main import run_command
from dpo_lab.cli.planning import jobs_of_command
from dpo_lab.losses import LOSSES
from dpo_lab.losses.options import LossOptions, Weighting
from dpo_lab.losses.table import loss_table
from dpo_lab.pipeline.study_config import to_study
from dpo_lab.records import Aggregate
from dpo_lab.registry import Registry, load_user_modules

FILE = Path(__file__).parents[1] / "helpers" / "new_components" / "losses.py"
MODULE = "user_modules=[my_new.loss]"


@pytest.fixture
def my_new_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working directory with the file in my_new/loss.py. What it registers is forgotten afterwards."""
    Registry.discover_all()
    (tmp_path / "my_new").mkdir()
    shutil.copy(FILE, tmp_path / "my_new" / "loss.py")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(LOSSES, "_classes", dict(LOSSES))
    handler = signal.getsignal(signal.SIGTERM)
    yield tmp_path
    signal.signal(signal.SIGTERM, handler)
    for name in [name for name in sys.modules if name.partition(".")[0] == "my_new"]:
        del sys.modules[name]


def test_it_has_at_most_thirty_lines_and_keeps_its_laws(my_new_loss: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert len(FILE.read_text().splitlines()) <= 30
    assert check(["loss=squared_hinge", MODULE, "examples=5"]) == 0
    assert "no law is violated" in capsys.readouterr().out


def test_table_help_and_shootout_follow_from_it(my_new_loss: Path) -> None:
    assert "loss=squared_hinge" not in help_text()
    assert "loss=squared_hinge" in help_text(["my_new.loss"])
    assert "loss.target=1.0" in help_text(["my_new.loss"])
    load_user_modules(["my_new.loss"])
    (row,) = [line for line in loss_table().splitlines() if "`squared_hinge`" in line]
    assert r"| relu(target - beta \* diff)^2, diff the log-ratio" in row
    assert "| `target=1` | shift invariant, ratios only, scaling, monotone, convex, " in row
    jobs = jobs_of_command(["+experiment=loss_shootout"], True, Composer()).jobs
    assert sum("loss=squared_hinge" in words for words in jobs) == 3


def test_it_is_composed_with_the_options_of_every_loss(my_new_loss: Path) -> None:
    load_user_modules(["my_new.loss"])
    words = ["loss=squared_hinge", "loss.target=2", "loss.aggregate=mean", "loss.nll=0.5", "loss.weighting=wpo"]
    loss = to_study(composed([*words, "loss.margin.constant=0.25"])).loss
    assert loss.target == 2.0  # type: ignore[attr-defined]
    options = LossOptions(aggregate=Aggregate.mean, nll=0.5, weighting=Weighting.wpo)
    options.margin.constant = 0.25
    assert loss.options == options
    with pytest.raises(ValueError, match=r"loss\.label_smoothing must be in \[0, 0\.5\), got 0\.5"):
        to_study(composed(["loss=squared_hinge", "loss.label_smoothing=0.5"]))


def test_it_trains(my_new_loss: Path) -> None:
    assert run_command([MODULE, *QUICKSTART, "loss=squared_hinge", "loss.target=2", "loss.nll=0"]) == 0
    (run,) = runs_of(my_new_loss)
    first, *_, last = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert first["loss"] == pytest.approx(4.0, rel=1e-6)  # float32
    assert last["step"] == 4
