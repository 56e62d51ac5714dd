"""Checkpoints: what they hold, which are kept, and that no fault costs the one before."""

from __future__ import annotations

import io
import json
import math
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from faults import FAULTS, ended_by_kill, files_no_larger_than, full
from safetensors.torch import save_file
from torch import Tensor, nn

from dpo_lab.artifacts.directory import verify_directory
from dpo_lab.artifacts.store import Store
from dpo_lab.tracking import RunDirectory, read_metrics, read_run, read_summary
from dpo_lab.training import checkpoints
from dpo_lab.training.checkpoints import Checkpoints
from dpo_lab.training.train_state import set_weights, weights_of

State = dict[str, Tensor]


def weights(step: int) -> State:
    return {"w": torch.full((40,), float(step)), "deep.b": torch.full((2, 3), -float(step), dtype=torch.bfloat16)}


def state(step: int) -> State:
    numbers = {"trainer.step": float(step), "trainer.best": math.inf, "loss.mean": 0.1 + 0.2, "loss.gone": math.nan}
    return {
        **{name: torch.tensor(value, dtype=torch.float64) for name, value in numbers.items()},
        "random.cpu": torch.arange(step % 7 + 1, dtype=torch.uint8),
        "meter.0.loss": torch.tensor([step, 3.0]),
        "optimizer.deep.b.exp_avg": torch.full((2, 3), 0.5 * step),
        "optimizer.w.step": torch.tensor(float(step), dtype=torch.float64),
        "reference.model.w": torch.full((3,), float(step)),
    }


def same(one: State, other: State) -> bool:
    """To the bit, and to the dtype."""
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype and torch.equal(one[name].nan_to_num(7), other[name].nan_to_num(7)) for name in one
    )


def opened(folder: Path, warned: list[str] | None = None, **options: int) -> Checkpoints:
    return Checkpoints(folder, "mine", (lambda text: None) if warned is None else warned.append, **options)


def save(kept: Checkpoints, *steps: int, kind: str = "last") -> None:
    for step in steps:
        kept.save(
            kind, step, weights(step), state(step), lambda directory: (directory / "about.txt").write_text("x"), {"m": 1.0}
        )
    kept.finish()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_was_saved_comes_back_to_the_bit(tmp_path: Path) -> None:
    save(opened(tmp_path), 3)
    found = opened(tmp_path).newest()
    assert found is not None
    assert found.step == 3
    assert same(found.weights(), weights(3))
    assert same(found.state(), state(3))
    expected = {"model", "optimizer", "reference", "state"}
    assert {path.name for path in found.path.glob("*.safetensors")} == {f"{name}.safetensors" for name in expected}
    numbers = json.loads((found.path / "state.json").read_text(), parse_constant=pytest.fail)
    assert numbers["trainer.step"] == 3
    assert verify_directory(found.path)["files"].keys() >= {"about.txt", "state.json"}


def test_a_checkpoint_is_of_the_moment_when_it_was_asked_for(tmp_path: Path) -> None:
    kept, policy, moments = opened(tmp_path), {"w": torch.zeros(2000)}, {"optimizer.w.m": torch.zeros(2000)}

    def describe(directory: Path) -> None:  # on the writer's thread: training is far ahead by now
        policy["w"] += 1
        moments["optimizer.w.m"] += 1

    kept.save("last", 1, policy, moments, describe, {})
    kept.finish()
    found = kept.newest()
    assert found is not None
    assert not found.weights()["w"].any()
    assert not found.state()["optimizer.w.m"].any()


KEPT = [
    ({"keep_last": 1}, [], ["step-00000005"]),
    ({"keep_last": 2}, [], ["step-00000004", "step-00000005"]),
    ({"keep_last": 1}, [2], ["step-00000002", "step-00000005"]),
    ({"keep_last": 1, "keep_every": 3}, [1, 4], ["step-00000003", "step-00000004", "step-00000005"]),
]


@pytest.mark.parametrize(("options", "best", "expected"), KEPT)
def test_the_newest_the_best_and_every_so_manieth_are_kept(
    options: dict[str, int], best: list[int], expected: list[str], tmp_path: Path
) -> None:
    kept = opened(tmp_path, **options)
    for step in range(1, 6):
        if step in best:
            save(kept, step, kind="best")
        save(kept, step)
    assert names(tmp_path) == ["index.json", *expected]
    index = json.loads((tmp_path / "index.json").read_text())
    assert index["last"]["checkpoint"] == "step-00000005"
    assert [index["best"]["step"]] == best[-1:] if best else "best" not in index
    for name in expected:
        verify_directory(tmp_path / name)


def test_what_was_the_best_is_known_after_going_on(tmp_path: Path) -> None:
    kept = opened(tmp_path)
    save(kept, 1, kind="best")
    save(kept, 2)
    (tmp_path / "index.json").unlink()  # killed before it was written
    again = opened(tmp_path)
    assert again.newest() is not None
    save(again, 3)
    assert names(tmp_path) == ["index.json", "step-00000001", "step-00000003"]
    assert json.loads((tmp_path / "index.json").read_text())["best"] == {"checkpoint": "step-00000001", "step": 1, "m": 1.0}


def flipped(path: Path) -> None:
    file = path / "optimizer.safetensors"
    data = bytearray(file.read_bytes())
    data[-3] ^= 8
    file.write_bytes(data)


def truncated(path: Path) -> None:
    os.truncate(path / "model.safetensors", 20)


def without_its_manifest(path: Path) -> None:
    (path / "manifest.json").unlink()


def of_another_run(path: Path) -> None:
    shutil.rmtree(path)
    other = Checkpoints(path.parent, "other", pytest.fail, keep_last=9)
    save(other, int(path.name.removeprefix("step-")))


@pytest.mark.parametrize("harm", [flipped, truncated, without_its_manifest, of_another_run])
def test_a_bad_checkpoint_is_set_aside_for_the_one_before(harm: Callable[[Path], None], tmp_path: Path) -> None:
    kept = opened(tmp_path, keep_last=2)
    save(kept, 1, 2)
    harm(tmp_path / "step-00000002")
    warned: list[str] = []
    found = opened(tmp_path, warned).newest()
    assert found is not None
    assert same(found.state(), state(1))
    assert len(warned) == 1
    assert "step-00000002" in warned[0]
    assert warned[0].endswith("set aside as set-aside-step-00000002")
    assert names(tmp_path) == ["index.json", "set-aside-step-00000002", "step-00000001"]
    again = opened(tmp_path, keep_last=2)
    assert again.newest() is not None
    save(again, 2)
    harm(tmp_path / "step-00000002")
    opened(tmp_path, warned).newest()
    assert "set-aside-step-00000002-2" in names(tmp_path)


def test_where_no_good_one_is_left_there_is_none(tmp_path: Path) -> None:
    save(opened(tmp_path), 1)
    flipped(tmp_path / "step-00000001")
    assert opened(tmp_path).newest() is None
    assert opened(tmp_path / "nowhere").newest() is None


def test_tied_weights_are_held_once_and_come_back_tied() -> None:
    def tied() -> nn.Module:
        model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
        model[1].weight = model[0].weight
        return model

    one, other = tied(), tied()
    held = weights_of(one)
    assert set(held) == {"0.weight", "0.bias", "1.bias"}
    set_weights(other, {name: tensor.clone() for name, tensor in held.items()})
    assert same(dict(other.state_dict()), dict(one.state_dict()))
    with pytest.raises(ValueError, match="not those of this model"):
        set_weights(nn.Linear(3, 3), held)


# ---- Law 24: a fault at any operation leaves what was there


@pytest.fixture(autouse=True)
def noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Operations that Python's audit does not notice."""
    monkeypatch.setattr(os, "fsync", FAULTS.counted(lambda handle: None))  # no test could tell, and it is slow
    monkeypatch.setattr(checkpoints, "save_file", FAULTS.counted(save_file))
    monkeypatch.setattr(io, "open", FAULTS.after_opening(io.open))  # Path.open and Path.write_text


class CheckpointWork:
    """Step 2 over step 1."""

    def prepare(self, folder: Path) -> None:
        save(opened(folder), 1, kind="best")

    def work(self, folder: Path) -> None:
        kept = opened(folder)
        kept.newest()
        save(kept, 2, kind="best")

    def check(self, folder: Path, over: bool) -> None:
        kept = opened(folder, keep_last=1)
        found = kept.newest()
        assert found is not None
        assert found.step in ((2,) if over else (1, 2))
        assert same(found.state(), state(found.step))
        assert same(found.weights(), weights(found.step))
        save(kept, 3, kind="best")
        assert names(folder) == ["index.json", "step-00000003"]


class ArtifactWork:
    """A second artifact beside a first one, which is not to be touched."""

    def get(self, folder: Path, size: int) -> str:
        path, _ = Store(folder).get("toy", {"size": size}, lambda d: (d / "data").write_text(f"{size}" * 1000))
        verify_directory(path)
        return (path / "data").read_text()

    def prepare(self, folder: Path) -> None:
        self.get(folder, 1)

    def work(self, folder: Path) -> None:
        self.get(folder, 2)

    def check(self, folder: Path, over: bool) -> None:
        before = {path: path.stat().st_mtime_ns for path in folder.glob("toy/[!.]*/data")}
        assert self.get(folder, 1) == "1" * 1000
        assert self.get(folder, 2) == "2" * 1000
        assert len(list(folder.glob("toy/[!.]*/data"))) == 2
        assert all(path.stat().st_mtime_ns == when for path, when in before.items()), "whole ones are not built again"
        assert len([path for path in (folder / "toy").iterdir() if path.is_dir()]) == 2, "something half done lies about"


class RunWork:
    """The files of a run, each written over or added to."""

    def write(self, folder: Path, count: int) -> None:
        run = RunDirectory(folder)
        run.tensorboard.broken = True
        run.update(status="running", count=count)
        run.log(count, "train", {"loss": float(count)})
        run.write_summary({"count": count})
        run.close()

    def prepare(self, folder: Path) -> None:
        self.write(folder, 1)

    def work(self, folder: Path) -> None:
        self.write(folder, 2)

    def check(self, folder: Path, over: bool) -> None:
        counts = [read_run(folder)["count"], read_metrics(folder)[-1]["step"], read_summary(folder)["count"]]
        assert counts == sorted(counts, reverse=True)
        assert set(counts) <= ({2} if over else {1, 2})
        assert (folder / "metrics.jsonl").read_text().endswith("}\n"), "a torn line"
        resumed = RunDirectory.resume(folder, 1)
        resumed.close()
        assert [row["step"] for row in read_metrics(folder)] == [1]
        assert names(folder) == ["metrics.jsonl", "run.json", "summary.json"]


WORKS = (CheckpointWork, ArtifactWork, RunWork)


@pytest.fixture
def folders(tmp_path: Path) -> Iterator[Path]:
    return (tmp_path / str(i) for i in range(1000))


@pytest.mark.parametrize("kind", WORKS)
def test_a_kill_at_any_operation_leaves_what_was_there(kind: type, folders: Iterator[Path]) -> None:
    count, killed = 0, True
    while killed:
        folder, work = next(folders), kind()
        folder.mkdir()
        work.prepare(folder)
        killed = ended_by_kill(lambda folder=folder, work=work: work.work(folder), count)
        work.check(folder, over=not killed)
        count += 1
    assert count > 8, "the operations were not noticed"


@pytest.mark.parametrize("kind", WORKS)
def test_an_error_at_any_operation_leaves_what_was_there(kind: type, folders: Iterator[Path]) -> None:
    count, over = 0, False
    while not over:
        folder, work = next(folders), kind()
        folder.mkdir()
        work.prepare(folder)
        try:
            with FAULTS.at(count, full):
                work.work(folder)
                over = FAULTS.left is not None
        except OSError:
            over = False
        _released(folder)
        work.check(folder, over=over)
        count += 1
    assert count > 8, "the operations were not noticed"


@pytest.mark.parametrize("kind", WORKS)
def test_a_file_that_may_grow_no_further_leaves_what_was_there(kind: type, folders: Iterator[Path]) -> None:
    failed = 0
    for size in (0, 1, 20, 40, 60, 100, 150, 200, 300, 500, 700, 1100, 5000):
        folder, work = next(folders), kind()
        folder.mkdir()
        work.prepare(folder)
        over = True
        with files_no_larger_than(size):
            try:
                work.work(folder)
            except OSError:
                over = False
        if kind is CheckpointWork:
            over = (folder / "step-00000002").exists()
        failed += not over
        _released(folder)
        work.check(folder, over=over)
    assert 3 <= failed < 13


def _released(folder: Path) -> None:
    """A lock that an error has left to the garbage collector."""
    (folder / ".lock").unlink(missing_ok=True)
