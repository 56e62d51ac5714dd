"""A run's provenance: command, git commit, library versions and hardware. Never the environment: it holds secrets."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "x-transformers", "hydra-core", "dpo_lab")


def provenance() -> dict[str, Any]:
    """The facts of run.json that no caller needs to give: command, git, versions, hardware."""
    return {"command": shlex.join(sys.orig_argv), "git": git_state(), "versions": versions(), "hardware": hardware()}


def git_state(folder: Path = Path(__file__).parent) -> dict[str, Any] | None:
    """Commit and dirty flag of the work tree that holds `folder` (by default this code); None outside of one.

    Untracked files count as dirty: a new loss is one.
    """
    sha = _git(folder, "rev-parse", "HEAD")
    changes = _git(folder, "status", "--porcelain")
    return None if sha is None or changes is None else {"sha": sha, "dirty": bool(changes)}


def _git(folder: Path, *arguments: str) -> str | None:
    """What git prints, or None where there is no git, no work tree or no commit."""
    command = ["git", "--no-optional-locks", "-C", str(folder), *arguments]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip()


def versions() -> dict[str, str | None]:
    """Versions of Python and of the packages that decide the numbers; None for one that is not installed."""
    versions: dict[str, str | None] = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = None
    return versions


def hardware() -> dict[str, Any]:
    """CPU name, cores this process may use, memory in GiB, names of the visible GPUs."""
    import torch  # here: comparing runs must not pay for it

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {"cpu": _cpu_name(), "cores": cores, "memory_gib": _memory_gib(), "gpus": gpus}


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # not Linux
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (AttributeError, ValueError, OSError):  # not POSIX
        return None
