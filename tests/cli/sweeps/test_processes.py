"""Jobs in several processes: a killed one costs itself only, and none outlives the sweep."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from processes import ENVIRONMENT, LAB, QUICKSTART, run, runs_of

pytestmark = pytest.mark.slow
SWEEP = ["-m", *QUICKSTART, "trainer.max_steps=2", "evaluation.best_of=[2]", "hydra.launcher.n_jobs=2"]

DEADLY = '''
"""A loss that takes its process down."""
import os, signal
from dataclasses import dataclass
from dpo_lab.losses import LOSSES
from dpo_lab.losses.dpo import DPOLoss


@LOSSES.register
@dataclass
class Deadly(DPOLoss):
    name: str = "deadly"

    def per_pair(self, diff):
        if self.beta == 0.2:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.beta == 0.3:
            raise RuntimeError("out of memory")
        return super().per_pair(diff)
'''


def facts(path: Path) -> dict[str, Any]:
    return json.loads((path / "run.json").read_text())


def test_a_killed_job_and_a_crashed_one_fail_alone(tmp_path: Path) -> None:
    (tmp_path / "deadly.py").write_text(DEADLY)
    words = [*SWEEP, "user_modules=[deadly]", "loss=deadly", "loss.beta=0.1,0.2,0.3"]
    done = run(tmp_path, words, status=1)
    shown = " ".join(done.stdout.split())
    assert "sweep: 1 done, 2 failed" in shown
    assert "loss.beta=0.2 failed (its process was killed)" in shown
    assert "loss.beta=0.3 failed (RuntimeError: out of memory)" in shown
    assert done.stderr == ""
    ended = {facts(path)["overrides"][-1]: facts(path) for path in runs_of(tmp_path)}
    assert {word: how["status"] for word, how in ended.items()} == {
        "loss.beta=0.1": "done",
        "loss.beta=0.2": "failed",
        "loss.beta=0.3": "failed",
    }
    assert any("RuntimeError: out of memory" in log.read_text() for log in tmp_path.glob("runs/.sweeps/*/job-*.log"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=lambda number: number.name)
def test_no_job_outlives_its_sweep(number: signal.Signals, tmp_path: Path) -> None:
    words = [*SWEEP, "trainer.max_steps=100000", "trainer.eval_every=null", "loss.beta=0.1,0.2"]
    sweep = subprocess.Popen([*LAB, *words], cwd=tmp_path, env=ENVIRONMENT, start_new_session=True, text=True)
    try:
        until(lambda: len(list(tmp_path.glob("runs/**/metrics.jsonl"))) == 2)
        pids = {int(pid) for pid in children(sweep.pid)}
        assert len(pids) >= 2
        if number is signal.SIGINT:
            os.killpg(sweep.pid, number)  # as a terminal does it
            assert sweep.wait(60) == 130
        else:
            sweep.kill()
        until(lambda: not any(alive(pid) for pid in pids))
    finally:  # whatever went wrong, nothing is waited for
        with suppress(ProcessLookupError):
            os.killpg(sweep.pid, signal.SIGKILL)
        sweep.wait(60)
    assert [facts(path)["status"] for path in runs_of(tmp_path)] == ["preempted", "preempted"]


def until(happens: Any) -> None:
    deadline = time.monotonic() + 180
    while not happens():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def children(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False
