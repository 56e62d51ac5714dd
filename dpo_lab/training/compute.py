"""Compute settings: device, precision, threads and determinism, which are decided here and nowhere else."""

from __future__ import annotations

import os
import re
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch
from torch import nn

from dpo_lab.scoring.layouts import Layout


class Precision(Enum):
    """The number format of forward passes. Weights and scores are float32 with either."""

    fp32 = "fp32"
    bf16 = "bf16"


class Determinism(Enum):
    """What happens when an algorithm may give other bits every time: nothing, a warning, or an error."""

    off = "off"
    warn = "warn"
    strict = "strict"


@dataclass
class Compute:
    """The settings of the machine: where and how a run computes."""

    device: str = "auto"
    """auto (cuda, else mps, else cpu), or a torch device such as cpu, cuda:1, mps."""
    precision: Precision = Precision.fp32
    """What the forward pass computes in; weights and scores are float32 in either."""
    threads: int | None = None
    """CPU threads of this process; None leaves torch's choice. Bits on a CPU depend on it."""
    workers: int | None = None
    """Micro-batches that a CPU computes at once, each with threads / workers threads. None: a thread each, where that pays."""
    layout: Layout = Layout.auto
    """How prompts and completions are laid out for the model, each token scored once. Changes speed, not the result."""
    head_portion: int | None = None
    """Positions whose logits exist at a time; they are computed once more in the backward pass. None: all."""
    checkpointing: bool = False
    """Keep only what goes into each block of the policy, and compute the rest again in the backward pass: a third more time."""
    determinism: Determinism = Determinism.off
    """Only algorithms that give the same bits every time: warn names each operation without one, strict ends the run there."""
    compile: bool = False
    """torch.compile the policy's layers. A minute at first on an accelerator, where it pays; on a CPU it hardly does."""

    def __post_init__(self) -> None:
        for name, count in (("threads", self.threads), ("workers", self.workers), ("head_portion", self.head_portion)):
            if count is not None and count < 1:
                raise ValueError(f"compute.{name} must be at least 1, got {count}")
        if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", self.device):
            raise ValueError(f"compute.device must be auto, cpu, cuda, cuda:N or mps, got '{self.device}'")
        kind, _, index = self.device.partition(":")
        missing = (kind == "cuda" and int(index or 0) >= torch.cuda.device_count()) or (
            kind == "mps" and not torch.backends.mps.is_available()
        )
        if missing:
            raise ValueError(f"compute.device={self.device}, but this machine has no such device; use compute.device=auto")

    def set_up(self) -> None:
        """Apply threads and determinism to this process."""
        if self.threads is not None:
            torch.set_num_threads(self.threads)
        strict, off = self.determinism is Determinism.strict, self.determinism is Determinism.off
        torch.use_deterministic_algorithms(not off, warn_only=not strict)
        torch.backends.cudnn.benchmark = False  # it would choose algorithms by how fast they were a moment ago
        if not off:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA is first used

    @property
    def torch_device(self) -> torch.device:
        if self.device != "auto":
            return torch.device(self.device)
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")

    def workers_for(self, model: nn.Module) -> int:
        """How many micro-batches of a model run at once: 1 on an accelerator, which is busy with one, and with dropout, whose
        draws would depend on which thread comes first.
        """
        return self.num_workers(model.training)

    def num_workers(self, training: bool) -> int:
        """The same, given whether dropout is on."""
        if self.torch_device.type != "cpu" or self.compile or training:
            return 1
        return torch.get_num_threads() if self.workers is None else self.workers

    def rounding(self) -> dict[str, Any]:
        """The facts of process and device that decide the last bits of what a model computes."""
        facts = rounding_on(self.torch_device)
        return facts if self.determinism is Determinism.off else {**facts, "determinism": self.determinism.name}

    @property
    def reading_waits(self) -> bool:
        """Reading a number of the device waits until the device has computed it, as on an accelerator."""
        return self.torch_device.type != "cpu"

    @property
    def autocast_is_off(self) -> bool:
        return self.precision is Precision.fp32

    def autocast(self) -> AbstractContextManager[object]:
        if self.autocast_is_off:
            return nullcontext()
        return torch.autocast(self.torch_device.type, dtype=torch.bfloat16)


def rounding_on(device: torch.device) -> dict[str, Any]:
    """The facts that decide the last bits of sums on a device: its kind, and on a CPU its instructions and the threads."""
    if device.type == "cuda":
        return {"device": torch.cuda.get_device_name(device)}
    if device.type != "cpu":
        return {"device": device.type}
    return {"device": f"cpu {torch.backends.cpu.get_cpu_capability()}", "threads": torch.get_num_threads()}
