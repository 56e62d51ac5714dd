"""A job that was killed goes on from its checkpoint, and ends where it would have ended."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from processes import ENVIRONMENT, LAB, QUICKSTART, runs_of

from dpo_lab.artifacts.digests import file_digest
from dpo_lab.cli.composing import composed
from dpo_lab.cli.main import run_command
from dpo_lab.pipeline.resume import unfinished_run
from dpo_lab.pipeline.study_config import to_study

pytestmark = pytest.mark.slow
SWEEP = ["-m", *QUICKSTART, "trainer.max_steps=100", "trainer.eval_every=20", "trainer.log_every=7", "loss.beta=0.1"]
SPEEDS = ("pairs_per_s", "tokens_per_s")


def read(file: Path) -> Any:
    return json.loads(file.read_text())


def numbers(path: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name not in SPEEDS} for row in rows]


def test_a_killed_job_ends_bit_for_bit_where_it_would_have_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    killed, through = tmp_path / "killed", tmp_path / "through"
    for folder in (killed, through):
        folder.mkdir()
    with subprocess.Popen([*LAB, *SWEEP], cwd=killed, env=ENVIRONMENT, stdout=subprocess.DEVNULL) as process:
        try:
            deadline = time.monotonic() + 180
            while not any(read(file)["last"]["step"] for file in killed.glob("runs/*/*/checkpoints/index.json")):
                assert time.monotonic() < deadline
                time.sleep(0.01)
        finally:
            process.kill()
    (path,) = runs_of(killed)
    assert read(path / "run.json")["status"] == "running"
    with (path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 99, "split": "train", "loss": 9}\n{"step": 9')  # what was logged after the checkpoint, torn
    shutil.copytree(killed / "artifacts", through / "artifacts")
    for folder in (killed, through):
        monkeypatch.chdir(folder)
        assert run_command(SWEEP) == 0
    assert runs_of(killed) == [path]
    facts = read(path / "run.json")
    assert facts["status"] == "done"
    assert 0 < facts["resumed_after_step"] < 100
    (other,) = runs_of(through)
    assert numbers(path) == numbers(other)
    for file in ("policy/model.safetensors", "samples.jsonl"):
        assert file_digest(path / file) == file_digest(other / file)
    summaries = [{**read(run / "summary.json"), "wall_s": None} for run in (path, other)]
    assert summaries[0] == summaries[1]


def test_only_the_same_code_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = [*SWEEP[1:], "trainer.max_steps=4", "trainer.eval_every=2"]
    assert run_command(words) == 0
    (path,) = runs_of(tmp_path)
    facts, study = read(path / "run.json"), to_study(composed(words))

    def can_go_on(**changed: Any) -> bool:
        (path / "run.json").write_text(json.dumps({**facts, "status": "failed", **changed}))
        return unfinished_run(study) is not None

    assert can_go_on()
    assert can_go_on(status="running")
    assert can_go_on(status="preempted")
    assert not can_go_on(status="done")
    assert not can_go_on(status="diverged")
    assert not can_go_on(threads=99)
    assert not can_go_on(code="0")
    assert not can_go_on(versions={})
    assert not can_go_on(config_key="0")
    assert not can_go_on(settings_key="0")
