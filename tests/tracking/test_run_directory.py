"""A run directory holds what was written, whatever happens in between."""

import json
import math
import os
import re
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpo_lab.artifacts.provenance import git_state
from dpo_lab.tracking.reading import read_metrics, read_run, read_summary
from dpo_lab.tracking.run_directory import RunDirectory, RunStatus, is_being_written, sanitise

NAMES = st.text(st.characters(categories=["L"]), min_size=1, max_size=6).map("rewards/".__add__)


@pytest.fixture
def run(tmp_path: Path):
    directory = RunDirectory.create(tmp_path, "imdb")
    yield directory
    directory.close()


def test_runs_that_start_together_get_directories_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Frozen:
        @staticmethod
        def now():
            import datetime

            return datetime.datetime(2026, 1, 2, 3, 4, 5)

    monkeypatch.setattr("dpo_lab.tracking.run_directory.datetime", Frozen)
    names = [RunDirectory.create(tmp_path, "imdb/beta", "loss.beta=0.1").path for _ in range(3)]
    stem = tmp_path / "imdb" / "beta" / "20260102-030405-loss.beta-0.1"
    assert names == [stem, Path(f"{stem}-2"), Path(f"{stem}-3")]


def test_a_refused_run_leaves_nothing_but_one_that_measured_something_or_went_on_stays(tmp_path: Path) -> None:
    refused, measured = RunDirectory.create(tmp_path, "a/refused"), RunDirectory.create(tmp_path, "a/measured")
    for run in (refused, measured):
        run.start({})
        run.log_hparams({"loss": "dpo"}, "a")
    measured.log(0, "eval", {"kl": 0.0})
    preempted = RunDirectory.create(tmp_path, "a/preempted")
    preempted.start({})
    preempted.close()
    gone_on_with = RunDirectory.resume(preempted.path, None)
    for run in (refused, measured, gone_on_with):
        run.finish("failed")
        run.close()
        run.discard()
    assert {path.name for path in (tmp_path / "a").iterdir()} == {"measured", "preempted"}
    assert (preempted.path / "run.json").exists()


def test_a_run_that_trains_nothing_has_no_event_file(tmp_path: Path) -> None:
    for trains in (True, False):
        run = RunDirectory.create(tmp_path, f"trains-{trains}", trains=trains)
        run.log_hparams({"loss": "dpo"}, "a")
        run.write_summary({"num_samples": 4})
        run.finish("done")
        run.close()
    assert [path.parts[-3] for path in tmp_path.glob("*/*/events.*")] == ["trains-True"]


@settings(deadline=None, max_examples=40)
@given(st.text())
def test_a_label_becomes_a_file_name(label: str) -> None:
    assert re.fullmatch(r"[A-Za-z0-9._=,+-]{0,80}", sanitise(label))
    assert sanitise(sanitise(label)) == sanitise(label)


def test_a_label_is_at_most_80_characters_long() -> None:
    assert sanitise("x y" * 100) == ("x-y" * 100)[:80]


@pytest.mark.parametrize("name", ["", ".", "..", "../a", "a/../../b", "/tmp/a", "a//b", "a/", "a\\b", "a\nb", "a\0b", "out/a"])
def test_a_name_that_leaves_the_root_is_refused(tmp_path: Path, name: str) -> None:
    root = tmp_path / "runs"
    root.mkdir()
    (root / "out").symlink_to(tmp_path)
    with pytest.raises(ValueError, match="plain relative path"):
        RunDirectory.create(root, name)
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]


@settings(deadline=None, max_examples=40)
@given(metrics=st.dictionaries(NAMES, st.floats(), max_size=4), step=st.integers(0, 2**40))
def test_metrics_come_back_as_logged(tmp_path_factory: pytest.TempPathFactory, metrics: dict[str, float], step: int) -> None:
    run = RunDirectory(tmp_path_factory.mktemp("run"))
    run.tensorboard.broken = True  # its own tests; an event file per example would be slow
    run.log(step, "eval", metrics, pairs=7)
    (row,) = read_metrics(run.path)
    assert (row.pop("step"), row.pop("split"), row.pop("pairs")) == (step, "eval", 7)
    assert row.keys() == metrics.keys()
    for name, value in metrics.items():
        assert row[name] == value if math.isfinite(value) else math.isnan(row[name])


def test_every_line_is_strict_json(run: RunDirectory) -> None:
    run.log(1, "train", {"loss": math.nan, "kl": math.inf, "lr": 0.1})
    run.write_summary({"kl": -math.inf, "best_of_n": [{"n": 2, "kl": math.nan}]})

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    row = json.loads((run.path / "metrics.jsonl").read_text(), parse_constant=refuse)
    assert row == {"step": 1, "split": "train", "loss": None, "kl": None, "lr": 0.1}
    assert read_summary(run.path) == {"kl": None, "best_of_n": [{"n": 2, "kl": None}]}


@settings(deadline=None, max_examples=40)
@given(cut=st.integers(min_value=0))
def test_a_kill_while_writing_loses_at_most_the_last_event(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    file = tmp_path_factory.mktemp("run") / "metrics.jsonl"
    lines = [json.dumps({"step": step, "split": "é"}, ensure_ascii=False).encode() + b"\n" for step in range(3)]
    end = len(lines[0]) + len(lines[1]) + cut % (len(lines[2]) + 1)
    file.write_bytes(b"".join(lines)[:end])
    assert [row["step"] for row in read_metrics(file)] in ([0, 1], [0, 1, 2])


def test_a_broken_line_in_the_middle_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"ste\n{"step": 3}\n')
    with pytest.raises(ValueError, match=r"metrics\.jsonl:2: not JSON"):
        read_metrics(tmp_path)


def test_a_directory_without_files_reads_as_empty(tmp_path: Path) -> None:
    assert (read_metrics(tmp_path), read_summary(tmp_path), read_run(tmp_path)) == ([], {}, {})


def test_run_json_tells_where_the_numbers_come_from(run: RunDirectory) -> None:
    run.start({"seed": 3, "threads": 1, "artifacts": {"base": "abc"}})
    facts = read_run(run.path)
    assert facts["status"] == "running"
    assert facts["hardware"]["cores"] >= 1
    assert set(facts["versions"]) == {"python", "torch", "x-transformers", "hydra-core", "dpo_lab"}
    assert {"command", "git", "started"} <= facts.keys()
    assert (facts["seed"], facts["artifacts"]) == (3, {"base": "abc"})
    run.update(policy="policy")
    run.finish("done", steps=9)
    facts = read_run(run.path)
    assert (facts["status"], facts["policy"], facts["steps"], facts["seed"]) == ("done", "policy", 9, 3)
    assert facts["wall_s"] >= 0
    with pytest.raises(ValueError, match="finished"):
        run.finish("finished")


def test_no_environment_variable_is_ever_written(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_TOKEN", "5eCr3t-value")
    run.write_config("seed: 1\n")
    run.start({})
    run.log(0, "train", {"loss": 1.0})
    run.log_hparams({"loss": {"beta": 0.1}}, "g")
    run.finish("done")
    run.close()
    assert all(b"5eCr3t" not in path.read_bytes() for path in run.path.iterdir())


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_failed_write_leaves_the_old_file(run: RunDirectory, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    run.update(status=RunStatus.running)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, call, full)
    with pytest.raises(OSError, match="No space"):
        run.update(status=RunStatus.done)
    assert read_run(run.path) == {"status": "running"}
    assert {path.name for path in run.path.iterdir()} == {"run.json", ".lock"}


def test_a_resumed_run_drops_what_it_will_log_again(run: RunDirectory) -> None:
    run.start({"seed": 3})
    for step in range(5):
        run.log(step, "train", {"loss": float(step)})
    run.finish("preempted", wall_s_of_stage=1.0)
    run.close()
    with (run.path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "spl')
    (run.path / ".policy-x").mkdir()
    (run.path / ".run.json.1.tmp").touch()
    run.update(wall_s=100.0)
    again = RunDirectory.resume(run.path, step=2)
    again.log(3, "train", {"loss": -3.0})
    again.finish("done")
    again.close()
    assert [(row["step"], row["loss"]) for row in read_metrics(run.path)] == [(0, 0), (1, 1), (2, 2), (3, -3)]
    facts = read_run(run.path)
    assert (facts["seed"], facts["status"], facts["resumed_after_step"]) == (3, "done", 2)
    assert facts["wall_s"] >= 100
    assert not [path.name for path in run.path.iterdir() if path.name.startswith(".")], (
        "what a killed writer left is still there"
    )


def test_a_run_without_a_checkpoint_is_begun_again(run: RunDirectory) -> None:
    run.start({"seed": 3})
    run.log(0, "eval", {"loss": 1.0})
    run.close()
    RunDirectory.resume(run.path, None, threads=2).close()
    assert read_metrics(run.path) == []
    assert {name: read_run(run.path)[name] for name in ("seed", "threads", "status")} == {
        "seed": 3,
        "threads": 2,
        "status": "running",
    }


def test_a_run_is_being_written_as_long_as_its_writer_has_not_closed_it(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path, "x")
    assert is_being_written(run.path)
    run.close()
    assert not is_being_written(run.path)
    (run.path / ".lock").touch()  # as a killed process leaves it
    assert not is_being_written(run.path)


def test_samples_are_one_object_a_line(run: RunDirectory) -> None:
    samples = [{"prompt": "ein \N{SNOWMAN}\nzwei", "policy": "x", "reward/policy": 1.5}, {"prompt": "", "policy": ""}]
    run.write_samples(samples)
    lines = (run.path / "samples.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == samples


def test_the_git_state_knows_a_change_from_a_clean_tree(tmp_path: Path) -> None:
    assert git_state(tmp_path) is None
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "x"], check=True)
    state = git_state(tmp_path)
    assert state is not None
    assert re.fullmatch("[0-9a-f]{40}", state["sha"])
    assert state["dirty"] is False
    (tmp_path / "new_loss.py").touch()
    assert git_state(tmp_path) == {"sha": state["sha"], "dirty": True}
