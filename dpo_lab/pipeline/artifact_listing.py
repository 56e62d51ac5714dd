"""What lies in an artifact store, what uses it, and taking out what nobody needs."""

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
    """An artifact, or what a builder that was killed has left of one."""

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
    found = []
    for kind in _folders(root):
        for path in _folders(kind):
            begun = path.name.startswith(".")
            key = path.name.lstrip(".").partition("-")[0]
            size = sum(file.lstat().st_size for file in path.rglob("*") if not file.is_dir())
            found.append(
                StoredArtifact(path, kind.name, key, size, _days(path, key), 0 if begun else used[kind.name, key], begun)
            )
    return sorted(found, key=lambda one: (one.kind, one.days))


def uses(runs: Path) -> Counter[tuple[str, str]]:
    """By kind and key, how many runs at or below a directory have used an artifact."""
    found: Counter[tuple[str, str]] = Counter()
    for file in runs.rglob("run.json"):
        try:
            named = read_run(file.parent).get("artifacts") or {}
        except (ValueError, OSError):
            continue  # somebody's broken file keeps nothing
        for kind, keys in named.items() if isinstance(named, dict) else ():
            found.update((kind, key) for key in ([keys] if isinstance(keys, str) else keys))
    return found


def remove_artifact(one: StoredArtifact) -> bool:
    """Remove it; false if a process is at it, or has asked for it in the meantime."""
    try:
        with FileLock(lock_file(one.path.parent, one.key), timeout=0):
            if _days(one.path, one.key) < one.days:
                return False
            # The name goes first: a kill on the way leaves something that is begun, and no half artifact.
            aside = one.path if one.left_over else one.path.rename(one.path.with_name(f".{one.key}-taken-out"))
            shutil.rmtree(aside)
            last_used_file(one.path.parent, one.key).unlink(missing_ok=True)
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
