"""Every loss trains a policy from the command line, and leaves what a run leaves."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from processes import QUICKSTART, runs_of

from dpo_lab.cli.main import run_command
from dpo_lab.cli.validation import validate
from dpo_lab.losses import LOSSES
from dpo_lab.training.checkpoints import Checkpoint

OWN = sorted(name for name in LOSSES if LOSSES[name].__module__.startswith("dpo_lab."))
LEARNED = ["trainer.max_steps=4", "optimizer.lr=0.01", "reference=frozen"]


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("every_loss")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        pairing = ["candidates.pairing=extremes", "candidates.labels=hard"]
        assert run_command(["-m", *QUICKSTART, *LEARNED, *pairing, f"loss={','.join(OWN)}"]) == 0
    found = {
        json.loads((path / "summary.json").read_text() and (path / "run.json").read_text())["status"]
        for path in runs_of(folder)
    }
    assert found == {"done"}
    return {(path / "config.yaml").read_text().split("\nloss:\n  name: ")[1].split("\n")[0]: path for path in runs_of(folder)}


@pytest.mark.slow
@pytest.mark.parametrize("name", OWN)
def test_a_run_of_the_loss_learns_and_its_numbers_are_finite(name: str, sweep: dict[str, Path]) -> None:
    rows = lines(sweep[name] / "metrics.jsonl")
    for row in rows:
        assert all(math.isfinite(value) for value in row.values() if isinstance(value, float)), row
    train = [row for row in rows if row["split"] == "train"]
    assert train[-1]["grad_norm"] > 0
    first, last = ([row for row in rows if row["split"] == "eval"][i] for i in (0, -1))
    assert first["kl"] == pytest.approx(0, abs=1e-6)
    assert last["kl"] != first["kl"], "the policy has moved"
    if LOSSES[name].laws.ratios_only:
        assert first["rewards/margins"] == pytest.approx(0, abs=1e-5)
        assert first["rewards/accuracies"] == pytest.approx(0.5, abs=0.01)
    constant = LOSSES[name]().value_at_reference()
    if constant is not None and not LOSSES[name].couples_batch:
        assert first["loss"] == pytest.approx(constant, rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", OWN)
def test_the_checkpoint_holds_the_state_of_the_loss(name: str, sweep: dict[str, Path]) -> None:
    (last,) = {entry["checkpoint"] for kind, entry in index(sweep[name]).items() if kind == "last"}
    saved = Checkpoint(sweep[name] / "checkpoints" / last, 4).state()
    state = {key.removeprefix("loss."): float(value) for key, value in saved.items() if key.startswith("loss.")}
    assert set(state) == set(LOSSES[name]().initial_state())
    if state:
        moved = state != LOSSES[name]().initial_state()
        assert moved or name == "kto", "its state is that of the last step (kto's baseline may still be clamped at 0)"


def index(run: Path) -> dict[str, Any]:
    return json.loads((run / "checkpoints" / "index.json").read_text())


UNPAIRED = [name for name in OWN if LOSSES[name].min_candidates == 1]


@pytest.mark.slow
def test_unpaired_feedback_trains_the_losses_that_take_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert {"kto", "bco", "aot_unpaired"} <= set(UNPAIRED)
    unpaired = ["candidates.pairing=unpaired", "candidates.labels=hard", "candidates.desirable_above=2"]
    assert run_command(["-m", *QUICKSTART, *LEARNED, *unpaired, f"loss={','.join(UNPAIRED)}"]) == 0
    for path in runs_of(tmp_path):
        row = [row for row in lines(path / "metrics.jsonl") if row["split"] == "train"][-1]
        assert math.isfinite(row["rewards/margins"])
        assert "rewards/accuracies" not in row


@pytest.mark.slow
@pytest.mark.parametrize("reference", ["synced", "ema"])
def test_a_reference_that_moves_is_in_the_checkpoint_and_the_kl_is_from_the_beginning(
    reference: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    every = "sync_every" if reference == "synced" else "update_every"
    hard = ["reference.mixup=1"] if reference == "synced" else []
    words = [*QUICKSTART, *LEARNED, f"reference={reference}", f"reference.{every}=2", *hard, "trainer.log_every=1"]
    assert run_command(words) == 0
    (path,) = runs_of(tmp_path)
    saved = Checkpoint(path / "checkpoints" / index(path)["last"]["checkpoint"], 4).state()
    assert any(key.startswith("reference.model.") for key in saved)
    assert any(key.startswith("reference.memory.") for key in saved) == (reference == "ema")
    train = [row for row in lines(path / "metrics.jsonl") if row["split"] == "train"]
    assert [row["step"] for row in train] == [1, 2, 3, 4]
    if reference == "synced":  # step 3 is the first after the hard update: log-ratios are 0 again
        assert train[2]["rewards/margins"] == pytest.approx(0, abs=1e-5)
        assert abs(train[1]["rewards/margins"]) > 1e-3
    assert json.loads((path / "summary.json").read_text())["kl"] > 1e-3


REFUSED = {
    "loss=tdpo1": ("loss=tdpo1", "reference=frozen"),
    "loss=simpo loss.divergence=js": ("loss.divergence", "no reference"),
    "loss=kto loss.margin.constant=1": ("loss.margin", "kto"),
    "loss=dpo candidates.pairing=unpaired candidates.labels=hard": ("loss=dpo", "kto, bco"),
    "loss=mix 'loss.parts=[{name: dpoo}]'": ("dpoo", "'dpo'"),
}


@pytest.mark.parametrize("words", REFUSED)
def test_a_loss_that_does_not_fit_is_refused_before_any_work(words: str) -> None:
    import shlex

    with pytest.raises(ValueError, match=r"^(?s:.*)$") as error:
        validate(["+experiment=quickstart", *shlex.split(words)])
    for part in REFUSED[words]:
        assert part in str(error.value)
