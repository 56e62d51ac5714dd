"""Listing the artifacts of a store with the runs that used them, and removing some."""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from dpo_lab.artifacts.directory import MANIFEST, DamagedError, verify_directory
from dpo_lab.artifacts.store import last_used_file, lock_file
from dpo_lab.tracking import read_run

DAY = 86400.0


@dataclass
class StoredArtifact:
    """An artifact in a store, or the unfinished directory that a killed builder has left."""

    path: Path
    kind: str
    key: str
    size: int
    """Bytes."""
    days: float
    """Since it was last asked for."""
    runs: int
    """How many runs say that they used it."""
    left_over: bool = False
    """No artifact: what a builder had begun."""

    @property
    def damage(self) -> str:
        """What is wrong with it, "" if nothing is. Every byte is read."""
        if self.left_over:
            return "left by a builder that was killed"
        try:
            verify_directory(self.path)
        except DamagedError as error:
            return str(error).removeprefix(f"{self.path}: ")
        return ""


def list_artifacts(root: Path, runs: Path) -> list[StoredArtifact]:
    """Everything in the store, by kind and age, with how many runs below `runs` name it. Links are not followed."""
    used = uses(runs)
    artifacts = []
    for kind in _folders(root):
        for path in _folders(kind):
            begun = path.name.startswith(".")
            key = path.name.lstrip(".").partition("-")[0]
            size = sum(file.lstat().st_size for file in path.rglob("*") if not file.is_dir())
            artifacts.append(
                StoredArtifact(path, kind.name, key, size, _days(path, key), 0 if begun else used[kind.name, key], begun)
            )
    return sorted(artifacts, key=lambda artifact: (artifact.kind, artifact.days))


def uses(runs: Path) -> Counter[tuple[str, str]]:
    """By kind and key, how many runs at or below a directory have used an artifact."""
    counts: Counter[tuple[str, str]] = Counter()
    for file in runs.rglob("run.json"):
        try:
            named = read_run(file.parent).get("artifacts") or {}
        except (ValueError, OSError):
            continue  # somebody's broken file keeps nothing
        for kind, keys in named.items() if isinstance(named, dict) else ():
            counts.update((kind, key) for key in ([keys] if isinstance(keys, str) else keys))
    return counts


def remove_artifact(artifact: StoredArtifact) -> bool:
    """Remove it; false if a process is building or reading it, or has asked for it in the meantime."""
    try:
        with FileLock(lock_file(artifact.path.parent, artifact.key), timeout=0):
            if _days(artifact.path, artifact.key) < artifact.days:
                return False
            # The name goes first: a kill on the way leaves something that is begun, and no half artifact.
            doomed = artifact.path
            if not artifact.left_over:
                doomed = doomed.rename(doomed.with_name(f".{artifact.key}-taken-out"))
            shutil.rmtree(doomed)
            last_used_file(artifact.path.parent, artifact.key).unlink(missing_ok=True)
    except (Timeout, FileNotFoundError):
        return False
    return True


def _days(path: Path, key: str) -> float:
    """Since it was last asked for; since it was made, if it never was."""
    dates = [file.stat().st_mtime for file in (last_used_file(path.parent, key), path / MANIFEST, path) if file.exists()]
    return max(time.time() - dates[0], 0) / DAY


def _folders(folder: Path) -> Iterator[Path]:
    if folder.is_dir():
        yield from (path for path in sorted(folder.iterdir()) if path.is_dir() and not path.is_symlink())
