"""Law 21, on whole runs in real processes: one that is killed again and again ends as one that never was."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from forked import Forks
from processes import QUICKSTART, runs_of
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dpo_lab.artifacts.digests import file_digest

pytestmark = pytest.mark.slow

STEPS = 24
RUN = [
    *QUICKSTART,
    *(f"trainer.max_steps={STEPS}", "trainer.eval_every=8", "trainer.checkpoint_every=3", "trainer.log_every=5"),
    *("trainer.dropout=true", "model.dropout=0.1", "loss=alpha_dpo", "reference=synced", "reference.sync_every=5"),
    *("optimizer.lr=0.001", "trainer.policy=best", "trainer.best_metric=win_rate"),  # which is best in the middle
]
SPEEDS = ("pairs_per_s", "tokens_per_s")


@dataclass
class Ended:
    """All that a run leaves but times and speeds."""

    metrics: list[dict[str, Any]]
    scalars: dict[str, list[tuple[int, float]]]
    summary: dict[str, Any]
    digests: list[str]
    steps: list[str]


def ended(path: Path) -> Ended:
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    events = EventAccumulator(str(path), size_guidance={"scalars": 0}).Reload()
    return Ended(
        [{name: value for name, value in row.items() if name not in SPEEDS} for row in lines],
        {
            tag: [(event.step, event.value) for event in events.Scalars(tag)]
            for tag in events.Tags()["scalars"]
            if not tag.endswith(SPEEDS)
        },
        {**json.loads((path / "summary.json").read_text()), "wall_s": None},
        [file_digest(path / name) for name in ("policy/model.safetensors", "samples.jsonl")],
        sorted(file.name for file in path.glob("checkpoints/step-*")),
    )


def facts(path: Path) -> dict[str, Any]:
    return json.loads((path / "run.json").read_text())


@pytest.fixture(scope="module")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forks]:
    with Forks(tmp_path_factory.mktemp("forks")) as forks:
        yield forks


@pytest.fixture(scope="module")
def through(forks: Forks, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the run that nobody has harmed."""
    folder = tmp_path_factory.mktemp("through")
    code, out = forks.run(folder, RUN)
    assert code == 0, out
    return folder


def test_a_run_that_is_killed_again_and_again_ends_as_one_that_never_was(forks: Forks, through: Path, tmp_path: Path) -> None:
    seed = 0 if "CI" in os.environ else random.randrange(10**6)
    draw = random.Random(seed)
    trained_step, saved_file = "dpo_lab.training.trainer:Trainer._gradients", "dpo_lab.training.checkpoints:save_file"
    harms = [
        ("an artifact that is being built", ("dpo_lab.artifacts.directory:flush", draw.randint(1, 8), "kill"), -9),
        ("sampling", ("dpo_lab.models.generation:_draw", draw.randint(1, 9), "kill"), -9),
        ("the first steps", (trained_step, draw.randint(7, 8), "kill"), -9),
        ("a termination", (trained_step, draw.randint(1, 3), "terminate"), 0),
        ("a checkpoint that is being written", (saved_file, draw.randint(1, 7), "kill"), -9),
        ("an evaluation", ("dpo_lab.evaluation.evaluator:Evaluator.evaluate", 1, "kill"), -9),
        ("a damaged checkpoint", (trained_step, draw.randint(1, 3), "interrupt twice"), 130),
        ("later steps", (trained_step, draw.randint(1, 3), "interrupt"), 0),
        ("the last evaluation", ("dpo_lab.evaluation.evaluator:Evaluator.best_of_n", 1, "kill"), -9),
        ("the policy that is being written", ("dpo_lab.models.policies:save_file", 1, "kill"), -9),
    ]
    after: list[int | None] = []
    for what, harm, expected in harms:
        code, out = forks.run(tmp_path, RUN, at=harm)
        assert code == expected, f"seed {seed}, {what}: {out}"
        (path,) = runs_of(tmp_path)
        going_on = re.search(r"resuming (?:after step (\d+)|from the beginning)", out)
        after.append(None if going_on is None else int(going_on[1] or 0))
        assert facts(path)["status"] == ("preempted" if expected == 0 else "running")
        if what == "a damaged checkpoint":
            newest = max(path.glob("checkpoints/step-*"))
            (newest / "state.safetensors").write_bytes(b"")
        if what == "later steps":
            assert f"{newest.name}: state.safetensors is missing or altered: set aside as set-aside-{newest.name}" in out
            assert after[-1] < int(newest.name.removeprefix("step-"))
    code, out = forks.run(tmp_path, RUN)
    assert code == 0, f"seed {seed}: {out}"
    assert after[:3] == [None, 0, 0], after
    assert all(step is not None and 0 < step <= STEPS for step in after[3:]), after
    assert f"resuming after step {STEPS} of" in out
    (path,) = runs_of(tmp_path)
    assert facts(path)["status"] == "done"
    (other,) = runs_of(through)
    found, expected_end = ended(path), ended(other)
    differing = {k: (v, expected_end.summary.get(k)) for k, v in found.summary.items() if expected_end.summary.get(k) != v}
    assert found.summary == expected_end.summary, f"seed {seed}: {differing}"
    assert found == expected_end, f"seed {seed}"
    assert not list(path.rglob(".*")), "something of a killed writer's lies about"


FULL = {
    "no file over 3 kB": ("metrics.jsonl", [9]),  # it stops where it can no longer log
    "no file over 20 kB": ("I/O error", [9, 12, 15, 16, 18, 21, 24]),  # it trains to the end, but cannot keep the policy
}


@pytest.mark.parametrize("harm", FULL)
def test_a_full_disk_ends_a_run_with_one_line_and_costs_nothing(harm: str, forks: Forks, through: Path, tmp_path: Path) -> None:
    named, due = FULL[harm]
    shutil.copytree(through / "artifacts", tmp_path / "artifacts")
    code, out = forks.run(tmp_path, RUN, at=("dpo_lab.training.trainer:Trainer._gradients", 10, harm))
    assert code == 1, out
    assert "Traceback" not in out
    (error,) = (line for line in out.splitlines() if line.startswith("error: "))
    assert "File too large" in error
    assert named in error
    assert "the same command resumes it" in error
    lost = [int(step) for step in re.findall(r"^warning: the checkpoint of step (\d+) could not be kept", out, re.MULTILINE)]
    assert lost in (due, due[1:]), "that of step 9 may still have been being written"
    kept = 8 if 9 in lost else 9
    assert out.count(f"the last one is of step {kept}") == len(lost)
    (path,) = runs_of(tmp_path)
    lines = (path / "metrics.jsonl").read_text()
    assert lines.endswith("}\n"), "a torn line"
    assert json.loads(lines.splitlines()[-1])["step"] == (8 if "3 kB" in harm else STEPS)
    code, out = forks.run(tmp_path, RUN)
    assert code == 0, out
    assert f"resuming after step {kept} of" in out
    assert ended(path) == ended(runs_of(through)[0])
