"""Writes a run directory: every file that a run leaves, readable at any moment, also after a kill."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from dpo_lab.artifacts.directory import flush
from dpo_lab.artifacts.json_files import append, read_lines, to_line, to_text, write_atomically
from dpo_lab.artifacts.provenance import provenance
from dpo_lab.tracking.reading import read_run
from dpo_lab.tracking.tensorboard import TensorBoard

MAX_LABEL = 80
LONGEST_PART = 200
"""Bytes of a directory's name at most: file systems allow 255."""
LOCK = ".lock"
"""The lock in a run directory, held by the process that writes to it."""


class RunStatus(StrEnum):
    """The `status` in run.json."""

    running = "running"
    done = "done"
    failed = "failed"
    preempted = "preempted"
    diverged = "diverged"


class RunDirectory:
    """Writes the files of one run.

    JSON has no nan and no inf: a number that is not finite is stored as null, and `read_metrics` gives nan for it.
    Without `trains` there is no event file: TensorBoard's tables are for training runs.
    """

    def __init__(self, path: Path, after_step: int | None = None, trains: bool = True) -> None:
        self.path = path
        self.is_new = after_step is None
        self.tensorboard = TensorBoard(path, purge_step=None if after_step is None else after_step + 1, off=not trains)
        self._facts: dict[str, Any] = {}
        self._started = time.monotonic()
        self._lock = FileLock(path / LOCK)
        self._lock.acquire(timeout=0)

    @classmethod
    def create(cls, root: Path, name: str, label: str = "", trains: bool = True) -> RunDirectory:
        """A new, empty `root/name/<YYYYmmdd-HHMMSS>[-label]`, with -2, -3, ... appended if that is taken.

        Raises ValueError unless `name` is a plain relative path that stays below `root`.
        """
        parent = path_below(root, name)
        parent.mkdir(parents=True, exist_ok=True)
        stem = "-".join(filter(None, [datetime.now().strftime("%Y%m%d-%H%M%S"), sanitise(label)]))
        count = 1
        while True:
            path = parent / (stem if count == 1 else f"{stem}-{count}")
            try:
                path.mkdir()  # exclusive: of two jobs of one sweep that start in the same second, one gets FileExistsError
            except FileExistsError:
                count += 1
            else:
                return cls(path, trains=trains)

    @classmethod
    def resume(cls, path: Path, step: int | None, trains: bool = True, **changed: Any) -> RunDirectory:
        """The run at `path`, resumed after `step` (None: from the start); what it logged later is dropped, to be logged again.

        `changed` replaces facts of run.json.
        """
        run = cls(path, after_step=-1 if step is None else step, trains=trains)
        for left in path.glob(".*"):  # what a killed writer was at
            if left.name != LOCK:
                shutil.rmtree(left) if left.is_dir() else left.unlink()
        run._facts = {**read_run(path), **changed}
        run._started -= run._facts.get("wall_s", 0.0)
        kept = [row for row in read_lines(path / "metrics.jsonl") if step is not None and row["step"] <= step]
        write_atomically(path / "metrics.jsonl", "".join(to_line(row) for row in kept))
        run.update(status=RunStatus.running, reason="", resumed_after_step=step)
        return run

    def write_config(self, yaml_text: str) -> None:
        """Write config.yaml: the resolved configuration."""
        write_atomically(self.path / "config.yaml", yaml_text)

    def start(self, facts: Mapping[str, Any]) -> None:
        """Write run.json: the run has started, with its provenance (command, git, versions, hardware) and `facts`."""
        self._started = time.monotonic()
        started = datetime.now().astimezone().isoformat(timespec="seconds")
        self.update(status=RunStatus.running, started=started, **{**provenance(), **facts})

    def update(self, **facts: Any) -> None:
        """Add or replace facts of run.json."""
        self._facts.update(facts)
        write_atomically(self.path / "run.json", to_text(self._facts))

    def finish(self, status: RunStatus | str, **facts: Any) -> None:
        """Write to run.json how the run ended and its wall_s, summed over resumes. Raises ValueError for an unknown status."""
        status = RunStatus(status)
        if status is not RunStatus.preempted:  # TensorBoard keeps the first end it reads, and a preempted run goes on later
            self.tensorboard.end_session(success=status is RunStatus.done)
        self.update(status=status, wall_s=round(time.monotonic() - self._started, 3), **facts)

    def log(self, step: int, split: str, metrics: Mapping[str, float | int], **extra: Any) -> None:
        """Append a line to metrics.jsonl, on disk when this returns; TensorBoard gets `metrics` as `<split>/<metric>`."""
        numbers = {name: float(value) for name, value in metrics.items()}
        clash = {"step", "split", *extra} & numbers.keys()
        assert not clash, f"one name for two things in a log line: {sorted(clash)}"
        append(self.path / "metrics.jsonl", to_line({"step": int(step), "split": split, **extra, **numbers}))
        self.tensorboard.scalars(step, {f"{split}/{name}": value for name, value in numbers.items()})

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Write summary.json; TensorBoard gets its numbers as `summary/<metric>`, which the HPARAMS table shows."""
        write_atomically(self.path / "summary.json", to_text(summary))
        numbers = {f"summary/{name}": float(v) for name, v in summary.items() if isinstance(v, (int, float))}
        self.tensorboard.scalars(int(summary.get("step", 0)), numbers)

    def write_samples(self, samples: list[dict[str, Any]]) -> None:
        """Write samples.jsonl, one object per prompt."""
        write_atomically(self.path / "samples.jsonl", "".join(to_line(sample) for sample in samples))

    def log_hparams(self, config: Mapping[str, Any], group_name: str) -> None:
        """Start this run's row of TensorBoard's HPARAMS table; runs that share `group_name` (the seeds) share the row."""
        self.tensorboard.start_session(config, group_name)

    def add_figure(self, tag: str, png_path: Path) -> None:
        """Show a PNG file in TensorBoard."""
        self.tensorboard.image(tag, png_path)

    def add_text(self, tag: str, text: str) -> None:
        """Show Markdown in TensorBoard."""
        self.tensorboard.text(tag, text)

    def flush(self) -> None:
        """Wait until everything logged is on the disk."""
        self.tensorboard.flush()
        if (self.path / "metrics.jsonl").exists():
            flush(self.path / "metrics.jsonl")

    def close(self) -> None:
        """Close the event file and release the directory's lock. Everything else is on disk already."""
        self.tensorboard.close()
        (self.path / LOCK).unlink(missing_ok=True)
        self._lock.release()

    def discard(self) -> None:
        """Delete a closed directory that is new and has no metrics, and its folder if that is empty then."""
        if self.is_new and not (self.path / "metrics.jsonl").exists():
            shutil.rmtree(self.path, ignore_errors=True)
            with suppress(OSError):
                self.path.parent.rmdir()


def is_being_written(path: Path) -> bool:
    """Whether a process writes to this run. The lock dies with the process."""
    if not (path / LOCK).exists():
        return False
    try:
        with FileLock(path / LOCK, timeout=0):
            return False
    except Timeout:
        return True


def sanitise(label: str) -> str:
    """`label` with every run of characters outside A-Z a-z 0-9 . _ - as one -, at most 80 characters.

    Such a name needs no quotes, neither in a shell nor as a value on this program's command line.
    """
    return re.sub(r"[^A-Za-z0-9._-]+", "-", label).strip("-")[:MAX_LABEL]


def path_below(root: Path, name: str) -> Path:
    """`root/name`. Raises ValueError unless `name` is a plain relative path that stays below `root`."""
    parts = name.split("/")
    plain = all(part not in ("", ".", "..") and len(part.encode()) <= LONGEST_PART for part in parts) and name.isprintable()
    path = root / name
    if not plain or "\\" in name or not path.resolve().is_relative_to(root.resolve()):
        raise ValueError(f"name must be a plain relative path below {root}, such as 'imdb' or 'imdb/beta'; got {name[:80]!r}")
    return path
