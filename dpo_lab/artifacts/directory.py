"""Directories that are written whole or not at all, with a manifest by which every byte can be verified."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dpo_lab.artifacts.digests import digest, file_digest

MANIFEST = "manifest.json"


class DamagedError(Exception):
    """A directory's files do not match its manifest."""


def write_directory(path: Path, build: Callable[[Path], object], **facts: Any) -> None:
    """Create or replace `path` atomically: `build` fills a temporary directory, which then takes its name.

    A manifest of sizes and sha256 sums is added; `facts` go into it. If anything fails, `path` is what it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    umask = os.umask(0)
    os.umask(umask)
    temporary.chmod(0o777 & ~umask)  # mkdtemp closes it to everybody else
    try:
        build(temporary)
        files = sorted(p for p in temporary.rglob("*") if p.is_file())
        for file in files:
            file.chmod(file.stat().st_mode | 0o666 & ~umask)  # some libraries close theirs to everybody else
        listed = {str(p.relative_to(temporary)): {"size": p.stat().st_size, "sha256": file_digest(p)} for p in files}
        manifest = {**facts, "files": listed}
        (temporary / MANIFEST).write_text(json.dumps({**manifest, "manifest_digest": digest(manifest)}, indent=1))
        for file in [*files, temporary / MANIFEST, *(p for p in temporary.rglob("*") if p.is_dir()), temporary]:
            flush(file)
        _replace(temporary, path)
        flush(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def verify_directory(path: Path) -> dict[str, Any]:
    """The manifest of a directory made by `write_directory`. Raises DamagedError for a missing, truncated or altered file."""
    try:
        manifest = json.loads((path / MANIFEST).read_bytes())
        recorded = manifest.pop("manifest_digest")
        listed = {name: (facts["size"], facts["sha256"]) for name, facts in manifest["files"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedError(f"{path}: no readable {MANIFEST}") from error
    if recorded != digest(manifest):
        raise DamagedError(f"{path}: {MANIFEST} is altered")
    for name, (size, sha256) in listed.items():
        file = path / name
        if not file.is_file() or file.stat().st_size != size or file_digest(file) != sha256:
            raise DamagedError(f"{path}: {name} is missing or altered")
    return dict(manifest)


def flush(path: Path) -> None:
    """Wait until a file, or the list of names in a directory, is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _replace(new: Path, path: Path) -> None:
    """Put `new` where `path` is; if that fails, `path` is what it was."""
    if not path.exists():
        os.replace(new, path)
        return
    aside = new.with_name(f"{new.name}-old")
    os.replace(path, aside)
    try:
        os.replace(new, path)
    except BaseException:
        os.replace(aside, path)
        raise
    shutil.rmtree(aside)
