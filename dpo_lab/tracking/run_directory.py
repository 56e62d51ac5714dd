"""A run directory: every file a run leaves behind, readable at any moment, whenever the run is killed."""

from __future__ import annotations

import json
import math
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
from dpo_lab.tracking.tensorboard import TensorBoard

MAX_LABEL = 80
LONGEST_PART = 200
"""Bytes of a directory's name: file systems end at 255."""
LOCK = ".lock"
"""In a run directory, held by the process that writes to it."""


class Status(StrEnum):
    """How a run stands, in run.json."""

    running = "running"
    done = "done"
    failed = "failed"
    preempted = "preempted"
    diverged = "diverged"


class RunDirectory:
    """The writer of one run's files.

    JSON has no nan and no inf: a number that is not finite is stored as null, and `read_metrics` gives nan for it.
    Without `trains` it has no event file: TensorBoard's tables are of trainings.
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
        """The run at `path`, to be continued after `step`: what it logged later is dropped, for it will be logged again.

        None: from its beginning. `changed` are facts that are not what they were.
        """
        run = cls(path, after_step=-1 if step is None else step, trains=trains)
        for left in path.glob(".*"):  # what a killed writer was at
            if left.name != LOCK:
                shutil.rmtree(left) if left.is_dir() else left.unlink()
        run._facts = {**read_run(path), **changed}
        run._started -= run._facts.get("wall_s", 0.0)
        kept = [row for row in read_lines(path / "metrics.jsonl") if step is not None and row["step"] <= step]
        write_atomically(path / "metrics.jsonl", "".join(to_line(row) for row in kept))
        run.update(status=Status.running, reason="", resumed_after_step=step)
        return run

    def write_config(self, yaml_text: str) -> None:
        """config.yaml: the resolved configuration."""
        write_atomically(self.path / "config.yaml", yaml_text)

    def start(self, facts: Mapping[str, Any]) -> None:
        """run.json: the run is running; `facts` join what the machine and the code say of themselves."""
        self._started = time.monotonic()
        started = datetime.now().astimezone().isoformat(timespec="seconds")
        self.update(status=Status.running, started=started, **{**provenance(), **facts})

    def update(self, **facts: Any) -> None:
        """run.json with `facts` added or replaced."""
        self._facts.update(facts)
        write_atomically(self.path / "run.json", to_text(self._facts))

    def finish(self, status: Status | str, **facts: Any) -> None:
        """run.json: how the run ended and its wall_s, summed over resumptions. Raises ValueError for an unknown status."""
        status = Status(status)
        if status is not Status.preempted:  # TensorBoard keeps the first end it reads, and a preempted run goes on later
            self.tensorboard.end_session(success=status is Status.done)
        self.update(status=status, wall_s=round(time.monotonic() - self._started, 3), **facts)

    def log(self, step: int, split: str, metrics: Mapping[str, float | int], **extra: Any) -> None:
        """One line of metrics.jsonl, on disk when this returns; `metrics` also go to TensorBoard as `<split>/<metric>`."""
        numbers = {name: float(value) for name, value in metrics.items()}
        clash = {"step", "split", *extra} & numbers.keys()
        assert not clash, f"one name for two things in a log line: {sorted(clash)}"
        append(self.path / "metrics.jsonl", to_line({"step": int(step), "split": split, **extra, **numbers}))
        self.tensorboard.scalars(step, {f"{split}/{name}": value for name, value in numbers.items()})

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """summary.json; its numbers also go to TensorBoard as `summary/<metric>`, which the HPARAMS table shows."""
        write_atomically(self.path / "summary.json", to_text(summary))
        numbers = {f"summary/{name}": float(v) for name, v in summary.items() if isinstance(v, (int, float))}
        self.tensorboard.scalars(int(summary.get("step", 0)), numbers)

    def write_samples(self, samples: list[dict[str, Any]]) -> None:
        """samples.jsonl, one object per prompt."""
        write_atomically(self.path / "samples.jsonl", "".join(to_line(sample) for sample in samples))

    def log_hparams(self, config: Mapping[str, Any], group_name: str) -> None:
        """This run's row of TensorBoard's HPARAMS table; runs that share `group_name` (the seeds) share the row."""
        self.tensorboard.start_session(config, group_name)

    def add_figure(self, tag: str, png_path: Path) -> None:
        """A PNG file, shown by TensorBoard."""
        self.tensorboard.image(tag, png_path)

    def add_text(self, tag: str, text: str) -> None:
        """Markdown, shown by TensorBoard."""
        self.tensorboard.text(tag, text)

    def flush(self) -> None:
        """What has been logged outlives the process and the machine when this returns."""
        self.tensorboard.flush()
        if (self.path / "metrics.jsonl").exists():
            flush(self.path / "metrics.jsonl")

    def close(self) -> None:
        """Close the event file, and leave the directory to others. Everything else is on disk already."""
        self.tensorboard.close()
        (self.path / LOCK).unlink(missing_ok=True)
        self._lock.release()

    def discard(self) -> None:
        """Take a closed directory away again, and its folder if that is empty then. What was there, or has metrics, stays."""
        if self.is_new and not (self.path / "metrics.jsonl").exists():
            shutil.rmtree(self.path, ignore_errors=True)
            with suppress(OSError):
                self.path.parent.rmdir()


def is_being_written(path: Path) -> bool:
    """A process is at this run. The lock dies with the process."""
    if not (path / LOCK).exists():
        return False
    try:
        with FileLock(path / LOCK, timeout=0):
            return False
    except Timeout:
        return True


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The events of a run directory (or of a metrics.jsonl) in order, nan where the file has null; [] without the file.

    A torn last line, as a kill leaves it, is left out. Raises ValueError for any other line that is no JSON object.
    """
    file = path / "metrics.jsonl" if path.is_dir() else path
    return [{key: math.nan if value is None else value for key, value in row.items()} for row in read_lines(file)]


def read_summary(path: Path) -> dict[str, Any]:
    """summary.json of a run directory, {} if the run has not written one."""
    return _read_object(path / "summary.json")


def read_run(path: Path) -> dict[str, Any]:
    """run.json of a run directory, {} if the run has not started."""
    return _read_object(path / "run.json")


def _read_object(file: Path) -> dict[str, Any]:
    found = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    if not isinstance(found, dict):
        raise ValueError(f"{file}: not a JSON object but {type(found).__name__}")
    return found


def sanitise(label: str) -> str:
    """`label` with every run of characters outside A-Z a-z 0-9 . _ - as one -, at most 80 characters.

    Such a name needs no quotes, neither in a shell nor as a value on this program's command line.
    """
    return re.sub(r"[^A-Za-z0-9._-]+", "-", label).strip("-")[:MAX_LABEL]


def path_below(root: Path, name: str) -> Path:
    parts = name.split("/")
    plain = all(part not in ("", ".", "..") and len(part.encode()) <= LONGEST_PART for part in parts) and name.isprintable()
    path = root / name
    if not plain or "\\" in name or not path.resolve().is_relative_to(root.resolve()):
        raise ValueError(f"name must be a plain relative path below {root}, such as 'imdb' or 'imdb/beta'; got {name[:80]!r}")
    return path
