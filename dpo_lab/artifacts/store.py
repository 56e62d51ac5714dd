"""Results of stages, kept on disk under a key made of everything that determines them."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from functools import lru_cache
from pathlib import Path
from typing import Any

from filelock import FileLock

from dpo_lab.artifacts.identity import Code, changed

MANIFEST = "manifest.json"
SEVERAL_IN_A_RUN = ("reward", "reference_scores")
"""Kinds of artifacts of which a run may have more than one."""


class DamagedError(Exception):
    """A directory does not hold what its manifest says."""


def digest(value: Any) -> str:
    """16 hexadecimal digits that depend on the value alone: dataclasses, enums, paths and JSON types."""
    return hashlib.sha256(json.dumps(plain(value), sort_keys=True).encode()).hexdigest()[:16]


def file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def remembered_digest(path: Path) -> str:
    """The same, read once in a process as long as size and date stay: a model of gigabytes is asked for by every job."""
    facts = path.stat()
    return _remembered(path, facts.st_size, facts.st_mtime_ns)


@lru_cache(maxsize=256)
def _remembered(path: Path, size: int, changed: int) -> str:
    return file_digest(path)


def flush(path: Path) -> None:
    """A file, or the names in a directory, are on the disk when this returns."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_directory(path: Path, build: Callable[[Path], object], **facts: Any) -> None:
    """Make `path` by `build(temporary directory)`: it appears whole, with a manifest of sizes and sha256 sums, or not at all.

    An existing `path` is replaced. `facts` go into the manifest.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    umask = os.umask(0)
    os.umask(umask)
    temporary.chmod(0o777 & ~umask)  # mkdtemp closes it to everybody else
    try:
        build(temporary)
        found = sorted(p for p in temporary.rglob("*") if p.is_file())
        listed = {str(p.relative_to(temporary)): {"size": p.stat().st_size, "sha256": file_digest(p)} for p in found}
        manifest = {**facts, "files": listed}
        (temporary / MANIFEST).write_text(json.dumps({**manifest, "manifest_digest": digest(manifest)}, indent=1))
        for file in [*found, temporary / MANIFEST, *(p for p in temporary.rglob("*") if p.is_dir()), temporary]:
            flush(file)
        _replace(temporary, path)
        flush(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def verify_directory(path: Path) -> dict[str, Any]:
    """The manifest of a directory made by `write_directory`. Raises DamagedError for a missing, truncated or altered file."""
    try:
        manifest = json.loads((path / MANIFEST).read_bytes())
        own = manifest.pop("manifest_digest")
        listed = {name: (facts["size"], facts["sha256"]) for name, facts in manifest["files"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedError(f"{path}: no readable {MANIFEST}") from error
    if own != digest(manifest):
        raise DamagedError(f"{path}: {MANIFEST} is altered")
    for name, (size, sha256) in listed.items():
        file = path / name
        if not file.is_file() or file.stat().st_size != size or file_digest(file) != sha256:
            raise DamagedError(f"{path}: {name} is missing or altered")
    return dict(manifest)


class Key(str):
    """The key of an artifact: 16 hexadecimal digits that depend on everything that can change its bits.

    `recipe` depends on the settings and the input files alone: artifacts that share it differ in code, library versions or
    the machine's rounding.
    """

    recipe: str

    def __new__(cls, key: str, recipe: str) -> Key:
        made = super().__new__(cls, key)
        made.recipe = recipe
        return made


@dataclass
class Store:
    """A directory of artifacts, `root/kind/key/`, shared by any number of processes.

    `used` collects, by kind, the keys that were asked for: a run records them. `on_event(kind, key, what)` is told of each
    artifact that is "reused", "built" or "damaged"; `on_note` of why one is built again though its settings are the same.
    """

    root: Path
    on_event: Callable[[str, str, str], None] = lambda kind, key, what: None
    used: dict[str, list[str]] = field(default_factory=dict)
    on_note: Callable[[str], None] = lambda text: None
    accept: Sequence[str] = ()
    """Kinds, or keys, of artifacts that are taken though they were made by other code, with other versions or rounding."""
    accepted: dict[str, list[str]] = field(default_factory=dict)
    """What was taken so, by kind."""

    def get(
        self,
        kind: str,
        determined_by: Mapping[str, Any],
        build: Callable[[Path], object],
        code: Code | None = None,
        rounding: Mapping[str, Any] | None = None,
    ) -> tuple[Path, Key]:
        """The directory and key of an artifact, built now by `build(empty directory)` if it is not there whole.

        Its key is made of the settings and inputs that it is `determined_by`, of the `code` behind `build`, and of what decides
        its last bits (`rounding`: device, threads, ...); the manifest holds all three. Of several processes that ask at once
        one builds, the others wait for it. A lock dies with the process that holds it.
        """
        made_by = {"code": (code or Code()).plain(), "rounding": dict(rounding or {})}
        known = code is not None or rounding is not None
        key = Key(digest([determined_by, made_by] if known else determined_by), digest(_recipe(determined_by)))
        path = self.root / kind / key
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or any(map(is_key, self.accept)):
            path, key = self._other(kind, key, made_by) or (path, key)
        if key not in self.used.setdefault(kind, []):
            self.used[kind].append(key)
        with FileLock(lock_of(path.parent, key)):
            if path.exists():
                try:
                    verify_directory(path)
                    with suppress(OSError):  # a store that is read only is of use all the same
                        asked_for(path.parent, key).touch()
                    self.on_event(kind, key, "reused")
                    return path, key
                except DamagedError:
                    self.on_event(kind, key, "damaged")
            for left in path.parent.glob(f".{key}-*/"):
                shutil.rmtree(left)  # from a builder that was killed: under the lock there is no other
            facts = {"kind": kind, "key": key, "recipe": key.recipe, "determined_by": plain(determined_by), **made_by}
            write_directory(path, build, **facts)
            self.on_event(kind, key, "built")
        return path, key

    def _other(self, kind: str, key: Key, made_by: Mapping[str, Any]) -> tuple[Path, Key] | None:
        """The artifact of the same recipe that is accepted instead; without one, it is said why this one is built again."""
        others = []
        for file in (self.root / kind).glob(f"[!.]*/{MANIFEST}"):  # what begins with a dot is not finished
            with suppress(OSError, ValueError):
                manifest = json.loads(file.read_bytes())
                if isinstance(manifest, dict) and file.parent.name != key and self._is_of(manifest, kind, key):
                    others.append((file.stat().st_mtime, file.parent, manifest))
        others.sort(key=lambda other: other[0], reverse=True)
        there = (self.root / kind / key).exists()
        for _, path, manifest in others:
            if path.name in self.accept or (kind in self.accept and not there):
                try:
                    verify_directory(path)
                except DamagedError as error:
                    self.on_note(f"{_named(kind)}: {path.name} cannot be accepted ({error})")
                    continue
                self.accepted.setdefault(kind, []).append(path.name)
                self.on_note(f"{_named(kind)}: {path.name} is accepted, although {_why(manifest, made_by)}")
                return path, Key(path.name, key.recipe)
        if others and not there:
            nearest = min((_why(manifest, made_by) for _, _, manifest in others), key=len)
            self.on_note(f"{_named(kind)}: built again, {nearest}")
        return None

    def _is_of(self, manifest: Mapping[str, Any], kind: str, key: Key) -> bool:
        """Whether an artifact is of the same recipe. One from before recipes were kept is if it is named, and it is
        of a kind that a run has one of.
        """
        if "recipe" in manifest:
            return bool(manifest["recipe"] == key.recipe)
        return manifest.get("key") in self.accept and kind not in SEVERAL_IN_A_RUN

    def check_accepted(self) -> None:
        """Raises ValueError for a key to accept that no artifact has."""
        for accepted in filter(is_key, self.accept):
            if not any(self.root.glob(f"*/{accepted}/{MANIFEST}")):
                raise ValueError(f"store.accept: {self.root} has no artifact {accepted}; runner=store lists what there is")

    def not_taken(self) -> list[str]:
        """What was to be accepted although nothing asked for it: kinds of which there was none, keys of other settings."""
        kinds, keys = set(self.used), {key for keys in self.used.values() for key in keys}
        return [accepted for accepted in self.accept if accepted not in (keys if is_key(accepted) else kinds)]


def is_key(text: str) -> bool:
    """Whether a text is the key of an artifact, and not a kind."""
    return re.fullmatch("[0-9a-f]{16}", text) is not None


def _named(kind: str) -> str:
    return kind.replace("_", " ")


def _why(then: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What the maker of an artifact had otherwise."""
    if "code" not in then:
        return "it is from before artifacts said what made them"
    made = ({"code": each["code"]["modules"], **each["code"]["versions"], **each["rounding"]} for each in (then, now))
    return "; ".join(changed(*made)) or "what it is made from was built again"


def _recipe(value: Any) -> Any:
    """`determined_by` with the recipes of other artifacts in the place of their keys."""
    if isinstance(value, Key):
        return value.recipe
    if isinstance(value, Mapping):
        return {str(name): _recipe(item) for name, item in value.items()}
    return [_recipe(item) for item in value] if isinstance(value, list | tuple) else value


def lock_of(folder: Path, key: str) -> Path:
    """Held by the process that builds the artifact `key` in a folder, or takes it out."""
    return folder / f".{key}.lock"


def asked_for(folder: Path, key: str) -> Path:
    """An empty file whose date is when a finished artifact was last asked for."""
    return folder / f".{key}.used"


def plain(value: Any) -> Any:
    """The value as JSON types."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    assert value is None or isinstance(value, str | int | float | bool), f"{type(value)} cannot be part of a key"
    return value


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
