"""How a sweep stands is read from its run directories, and told in lines."""

from __future__ import annotations

import io
import json
import re
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from dpo_lab.cli.composing import composed
from dpo_lab.cli.main import sum_up
from dpo_lab.cli.sweeps.display import Display
from dpo_lab.cli.sweeps.ledger import JobState, Ledger
from dpo_lab.pipeline.study import Study
from dpo_lab.pipeline.study_config import to_study
from dpo_lab.pipeline.study_keys import config_key
from dpo_lab.tracking import Console


def study(seed: int) -> Study:
    return to_study(composed(["+experiment=quickstart", f"seed={seed}"]))


def write(name: str, seed: int, status: str, **facts: Any) -> None:
    folder = Path("runs/quickstart") / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "run.json").unlink(missing_ok=True)
    (folder / "run.json").write_text(json.dumps({"status": status, "config_key": config_key(study(seed)), **facts}))
    if status == "done":
        (folder / "summary.json").write_text("{}")


@pytest.fixture
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ledger:
    """Four jobs: the first finished before, the second failed before."""
    monkeypatch.chdir(tmp_path)
    write("a", 0, "done")
    write("b", 1, "failed")
    Path("runs/quickstart/b/summary.json").write_text("{}")
    ledger = Ledger()
    for seed in range(4):
        ledger.add(["+experiment=quickstart", f"seed={seed}"], study(seed))
    return ledger


def states(ledger: Ledger) -> list[str]:
    return [entry.state.value for entry in ledger.entries]


def test_what_was_there_before_counts_only_if_it_is_finished(ledger: Ledger) -> None:
    ledger.poll()
    assert states(ledger) == ["finished before", "waiting", "waiting", "waiting"]


def test_jobs_are_followed_by_their_settings_whatever_their_directory(ledger: Ledger) -> None:
    write("x", 2, "running")
    write("b", 1, "running")  # the old one goes on
    write("y", 77, "running")  # not of this sweep
    ledger.poll()
    assert states(ledger) == ["finished before", "running", "running", "waiting"]
    write("x", 2, "diverged", reason="loss became nan")
    write("b", 1, "done")
    ledger.poll()
    assert states(ledger) == ["finished before", "done", "diverged", "waiting"]
    assert ledger.bad[0].reason == "loss became nan"
    assert ledger.title(ledger.bad[0]) == "seed=2"


def test_a_job_whose_process_is_gone_has_failed_unless_another_holds_its_lock(ledger: Ledger) -> None:
    write("x", 2, "running")
    write("y", 3, "running")
    ledger.poll()
    elsewhere, killed = ledger.entries[2], ledger.entries[3]
    elsewhere.lock.parent.mkdir()
    with FileLock(elsewhere.lock):
        for entry in (elsewhere, killed):
            ledger.settle(entry.words, None)
    assert states(ledger)[2:] == ["running", "failed"]
    assert json.loads(Path("runs/quickstart/y/run.json").read_text())["status"] == "failed"


def test_a_job_without_a_run_is_judged_by_its_exit_status(ledger: Ledger) -> None:
    for entry, code in zip(ledger.entries, (0, 2, None, 0), strict=True):
        ledger.settle(entry.words, code)
    assert [(entry.state, entry.reason) for entry in ledger.entries[1:]] == [
        (JobState.failed, "exit status 2"),
        (JobState.failed, "it never began"),
        (JobState.done, ""),
    ]


def test_a_refused_job_leaves_no_run_and_has_failed(ledger: Ledger) -> None:
    """Whether or not its run was seen before it went."""
    write("x", 2, "running")
    ledger.poll()
    shutil.rmtree("runs/quickstart/x")
    ledger.settle(ledger.entries[2].words, 2)
    assert (ledger.entries[2].state, ledger.entries[2].reason) == (JobState.failed, "exit status 2")
    assert not Path("runs/quickstart/x").exists()


def test_every_end_is_told_once_with_what_is_still_to_do(ledger: Ledger) -> None:
    stream = io.StringIO()
    display = Display(ledger, Console(stream, width=200))
    write("x", 2, "done")
    write("y", 3, "running")
    display.update()
    display.update()
    write("y", 3, "failed", reason="OSError: disk full")
    write("b", 1, "done")
    display.update()
    lines = [re.sub(r"\d:\d\d left", "- left", line) for line in stream.getvalue().splitlines()]
    assert lines == [
        "seed=0: finished before, in runs/quickstart/a (delete it to run it again)",
        "sweep 2/4: seed=2 done, 1 running, - left",
        "sweep 3/4: seed=1 done, 1 failed, - left",
        "sweep 4/4: seed=3 failed (OSError: disk full), 1 failed",
    ]


def test_on_a_terminal_a_bar_counts_the_jobs(ledger: Ledger) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    display = Display(ledger, Console(stream, width=100))
    write("x", 2, "running")
    with display.watching():
        write("y", 3, "running")
        ledger.poll()
        deadline = time.monotonic() + 20
        while "2 running" not in stream.getvalue() and time.monotonic() < deadline:
            time.sleep(0.05)
    assert "1/4" in stream.getvalue()
    assert "2 running  0 failed" in stream.getvalue()


def test_a_run_that_the_clock_stopped_is_reused_and_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write("a", 0, "done", bounded_by="trainer.max_minutes")
    ledger = Ledger()
    ledger.add(["seed=0"], study(0))
    sum_up(ledger)
    assert "finished before: seed=0, stopped by trainer.max_minutes" in " ".join(capsys.readouterr().out.split())
