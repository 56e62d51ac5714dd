"""Peak memory of a step above the models: as the device measures it, or in a new process."""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from dpo_lab.registry import load_user_modules
from experiments.throughput.benchmark.base import Step
from experiments.throughput.benchmark.cases import Case
from experiments.throughput.benchmark.prepared import Terms, prepared

STATUS = Path("/proc/self/status")
SMALL = Case(prompt=4, completion=4, pairs=2)
"""A step on it comes first, so that what libraries set up once does not count."""


def of_step(step: Step, model: nn.Module, device: torch.device) -> int:
    """Bytes of one step at its peak, gradients included, on a GPU."""
    model.zero_grad(set_to_none=True)
    torch.cuda.synchronize(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    step()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


def in_cold_process(terms: Terms, name: str, case: Case, user_modules: Sequence[str]) -> int | None:
    """Bytes of resident memory that a step adds to its process at the peak. None where the system does not tell."""
    if not STATUS.exists():
        return None
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        return process.submit(_added, terms, name, case, list(user_modules), torch.get_num_threads()).result()


def _added(terms: Terms, name: str, case: Case, user_modules: list[str], threads: int) -> int:
    torch.set_num_threads(threads)
    load_user_modules(user_modules)
    small = replace(SMALL, vocab=case.vocab)
    prepared(terms, name, small).step()
    step = prepared(terms, name, case).step
    with suppress(OSError):  # forget the peak so far, where that is allowed; preparing takes less than the step
        Path("/proc/self/clear_refs").write_text("5")
    before = _memory("VmRSS")
    step()
    return _memory("VmHWM") - before


def _memory(field: str) -> int:
    """Bytes, of those lines that Linux gives in kB."""
    (line,) = (line for line in STATUS.read_text().splitlines() if line.startswith(f"{field}:"))
    return int(line.split()[1]) * 1024
