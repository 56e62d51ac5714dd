"""The ledger of a sweep: the state of each job, as its run directory shows it, wherever it runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from threading import RLock
from typing import Any

from filelock import FileLock, Timeout

from dpo_lab.artifacts.json_files import to_text, write_atomically
from dpo_lab.pipeline.study import Study
from dpo_lab.pipeline.study_keys import config_key
from dpo_lab.tracking import read_run
from dpo_lab.tracking.run_directory import path_below


class JobState(StrEnum):
    """The state of a job."""

    waiting = "waiting"
    running = "running"
    done = "done"
    reused = "finished before"
    failed = "failed"
    preempted = "interrupted"
    diverged = "diverged"

    @property
    def bad(self) -> bool:
        return self in (JobState.failed, JobState.preempted, JobState.diverged)


STATES = {"running": JobState.running, "done": JobState.done, "failed": JobState.failed}
STATES |= {"preempted": JobState.preempted, "diverged": JobState.diverged}
"""The state of a job by the status in its run.json."""


@dataclass
class Entry:
    """A job of a sweep: its override words, its run, and its state."""

    words: list[str]
    key: str
    folder: Path
    """The directory that holds runs of its study's name."""
    lock: Path
    state: JobState = JobState.waiting
    run: Path | None = None
    reason: str = ""


@dataclass
class Ledger:
    """The state of each job of a sweep."""

    entries: list[Entry] = field(default_factory=list)
    seen: dict[Path, tuple[int, int]] = field(default_factory=dict)
    """Time and inode of each run.json when it was last read."""
    finished: dict[str, Path] = field(default_factory=dict)
    """The newest finished run of each key that was there before the sweep."""
    guard: RLock = field(default_factory=RLock)
    """A display polls from a thread of its own."""

    def add(self, words: Sequence[str], study: Study) -> Entry:
        """Add a job. It counts as finished before if its study trains and a finished run of exactly this study exists."""
        folder = path_below(Path(study.runs), study.name)
        if all(entry.folder != folder for entry in self.entries):
            for path, facts in self._news(folder):
                if facts.get("status") == JobState.done and (path / "summary.json").is_file():
                    self.finished[str(facts.get("config_key"))] = path
        key = config_key(study)
        finished = self.finished.get(key) if study.runner.trains else None
        entry = Entry(list(words), key, folder, job_lock(study, key), run=finished)
        entry.state = JobState.waiting if entry.run is None else JobState.reused
        if entry.run is not None and (bound := read_run(entry.run).get("bounded_by")):
            entry.reason = f"stopped by {bound} where this machine was by then"
        self.entries.append(entry)
        return entry

    def poll(self) -> None:
        """Bring the entries up to date."""
        with self.guard:
            for folder in {entry.folder for entry in self.entries}:
                for path, facts in self._news(folder):
                    for entry in self.of(JobState.waiting, JobState.running):
                        if entry.key == facts.get("config_key"):
                            entry.run, entry.reason = path, str(facts.get("reason", ""))
                            entry.state = STATES[facts["status"]]

    def settle(self, words: Sequence[str], code: int | None) -> None:
        """Record the end of the job with these words; `code` is the exit status, None where there is none."""
        with self.guard:
            self.poll()
            for entry in (entry for entry in self.of(JobState.waiting, JobState.running) if entry.words == list(words)):
                if entry.run is not None and not entry.run.is_dir():  # it was refused: that leaves no run
                    entry.state, entry.run = JobState.waiting, None
                if entry.state is JobState.running and entry.run is not None and lock_is_free(entry.lock):
                    entry.state, entry.reason = JobState.failed, "its process was killed"
                    facts = {**read_run(entry.run), "status": entry.state.value, "reason": entry.reason}
                    write_atomically(entry.run / "run.json", to_text(facts))
                elif entry.state is JobState.waiting and code == 0:
                    entry.state = JobState.done
                elif entry.state is JobState.waiting:
                    entry.state, entry.reason = JobState.failed, "it never began" if code is None else f"exit status {code}"

    def of(self, *states: JobState) -> list[Entry]:
        return [entry for entry in self.entries if entry.state in states]

    @property
    def bad(self) -> list[Entry]:
        return [entry for entry in self.entries if entry.state.bad]

    def title(self, entry: Entry) -> str:
        """The words that distinguish the job from the others."""
        shared = set(self.entries[0].words).intersection(*(other.words for other in self.entries))
        return " ".join(word for word in entry.words if word not in shared) or " ".join(entry.words)

    def _news(self, folder: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
        """Runs whose run.json is new or has changed, the oldest first."""
        for file in sorted(folder.glob("*/run.json")):
            facts = file.stat()
            stamp = (facts.st_mtime_ns, facts.st_ino)
            if self.seen.get(file) != stamp:
                self.seen[file] = stamp
                yield file.parent, read_run(file.parent)


def job_lock(study: Study, key: str) -> Path:
    """The lock that a process holds while it runs the study; it is released when the process dies."""
    return Path(study.runs) / ".sweeps" / f"{key}.lock"


def lock_is_free(lock: Path) -> bool:
    lock.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(lock, timeout=0):
            return True
    except Timeout:
        return False
