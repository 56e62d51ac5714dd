"""Checkpoints of a training: each appears whole or not at all, and a run resumes from the newest good one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from dpo_lab.artifacts.directory import DamagedError, verify_directory, write_directory
from dpo_lab.artifacts.json_files import to_text, write_atomically
from dpo_lab.training.train_state import State, below, prefixed

FORMAT = 1
"""To be raised when a checkpoint holds something else: older ones are then set aside."""
WEIGHTS, NUMBERS, REST, INDEX = "model.safetensors", "state.json", "state.safetensors", "index.json"
OWN_FILE = ("optimizer", "reference")
"""Parts of a training's state that have a file of their own: they are as large as the model."""


@dataclass
class Checkpoint:
    """A checkpoint whose files have been verified."""

    path: Path
    step: int

    def weights(self) -> State:
        return load_file(self.path / WEIGHTS)

    def state(self) -> State:
        """The training's state, as `Checkpoints.save` was given it."""
        numbers = json.loads((self.path / NUMBERS).read_text(encoding="utf-8"))
        state = {name: torch.tensor(float(value), dtype=torch.float64) for name, value in numbers.items()}
        state |= load_file(self.path / REST)
        for part in OWN_FILE:
            if (self.path / f"{part}.safetensors").exists():
                state |= prefixed(part, load_file(self.path / f"{part}.safetensors"))
        return state


@dataclass
class Checkpoints:
    """The checkpoints of one run, in `root/step-<step>`; index.json beside them says which are the best and the last.

    A thread writes them, one at a time, from a copy of the state: training waits for the copy only. An error costs the
    checkpoint, not the training: the user is warned, and the checkpoints before it stay. None is deleted before a newer one has
    been read back and verified.
    """

    root: Path
    belongs_to: str
    """Key of the run: the checkpoints of another run are set aside."""
    warn: Callable[[str], None]
    keep_last: int = 1
    keep_every: int | None = None

    index: dict[str, dict[str, Any]] = field(default_factory=dict, init=False)
    step: int | None = field(default=None, init=False)
    """The step of the last checkpoint that was begun."""
    failures: list[str] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        self.thread = ThreadPoolExecutor(1, "checkpoints")
        self.pending: list[Future[None]] = []

    def save(
        self,
        kind: str,
        step: int,
        weights: Mapping[str, Tensor],
        state: Mapping[str, Tensor],
        describe: Callable[[Path], object],
        metrics: Mapping[str, float],
    ) -> None:
        """Keep this step as the "best" or the "last" one (`kind`). `describe` writes further files into its directory."""
        path, entry = self.root / f"step-{step:08}", {"checkpoint": f"step-{step:08}", "step": step, **metrics}
        if step != self.step:
            self.finish()
            files = {name: _copied(tensors) for name, tensors in _files(weights, state).items()}
            numbers = to_text({name: _number(tensor) for name, tensor in state.items() if _is_number(name, tensor)})

        def build(directory: Path) -> None:
            describe(directory)
            (directory / NUMBERS).write_text(numbers, encoding="utf-8")
            for name, tensors in files.items():
                save_file(tensors, directory / name)

        def write(new: bool = step != self.step) -> None:
            index = json.loads(to_text({**self.index, "last": entry, kind: entry}))
            try:
                if new:
                    facts = {"format": FORMAT, "belongs_to": self.belongs_to, "step": step, "index": index}
                    write_directory(path, build, **facts)
                    verify_directory(path)
                if path.is_dir():
                    self._settle(index)
            except Exception as error:  # a full disk is reported in several ways, by some libraries as a plain Exception
                self.failures.append(f"the checkpoint of step {step} could not be kept: {error}")

        self.step = step
        self.pending.append(self.thread.submit(write))

    def finish(self) -> None:
        """Wait until all is written, and warn of what could not be."""
        pending, self.pending = self.pending, []
        for future in pending:
            future.result()
        failures, self.failures = self.failures, []
        for failure in failures:
            last = self.index.get("last")
            self.warn(f"{failure}; " + (f"the last one is of step {last['step']}" if last else "there is none before it"))

    def newest(self) -> Checkpoint | None:
        """The newest good checkpoint. Newer ones that are damaged or of another run are set aside; what a killed writer left is
        removed.
        """
        for leftover in self.root.glob(".*"):
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
        for path in sorted(self.root.glob("step-*"), reverse=True):
            try:
                manifest = verify_directory(path)
                if (manifest.get("format"), manifest.get("belongs_to")) != (FORMAT, self.belongs_to):
                    raise DamagedError(f"{path}: of another run or format")
            except DamagedError as error:
                self.warn(f"{error}: set aside as {_set_aside(path).name}")
                continue
            self.index = {
                kind: entry for kind, entry in manifest["index"].items() if (self.root / entry["checkpoint"]).is_dir()
            }
            self.step = manifest["step"]
            write_atomically(self.root / INDEX, to_text(self.index))
            return Checkpoint(path, manifest["step"])
        return None

    def _settle(self, index: dict[str, dict[str, Any]]) -> None:
        """Make `index` the current one, and delete checkpoints that are not kept any more."""
        write_atomically(self.root / INDEX, to_text(index))
        self.index = index
        present = sorted(self.root.glob("step-*"))
        kept = {entry["checkpoint"] for entry in index.values()} | {path.name for path in present[-self.keep_last :]}
        for path in present:
            for_good = self.keep_every is not None and int(path.name.removeprefix("step-")) % self.keep_every == 0
            if path.name not in kept and not for_good:
                shutil.rmtree(path)


def _files(weights: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> dict[str, Mapping[str, Tensor]]:
    parts = {f"{part}.safetensors": below(part, state) for part in OWN_FILE}
    others = {name: tensor for name, tensor in state.items() if name.partition(".")[0] not in OWN_FILE}
    rest = {name: tensor for name, tensor in others.items() if not _is_number(name, tensor)}
    return {WEIGHTS: weights, REST: rest, **{name: tensors for name, tensors in parts.items() if tensors}}


def _copied(tensors: Mapping[str, Tensor]) -> State:
    """A copy in main memory: training changes the originals."""
    return {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}


def _is_number(name: str, tensor: Tensor) -> bool:
    return tensor.ndim == 0 and tensor.dtype == torch.float64 and name.partition(".")[0] not in OWN_FILE


def _number(tensor: Tensor) -> float | str:
    """inf and nan, which JSON does not have, as text."""
    value = float(tensor)
    return value if abs(value) < float("inf") else str(value)


def _set_aside(path: Path) -> Path:
    """Rename a directory so that it is no checkpoint any more."""
    count = 1
    while (aside := path.with_name(f"set-aside-{path.name}" + (f"-{count}" if count > 1 else ""))).exists():
        count += 1
    return path.rename(aside)
