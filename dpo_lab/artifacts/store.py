"""The artifact store: a cache of stage results on disk, each under a key made of everything that determines it."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock

from dpo_lab.artifacts.digests import digest, json_value
from dpo_lab.artifacts.directory import MANIFEST, DamagedError, verify_directory, write_directory
from dpo_lab.artifacts.fingerprint import Code, describe_changes

SEVERAL_IN_A_RUN = ("reward", "reference_scores")
"""Kinds of artifacts of which one run may use several."""


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

    `on_event(kind, key, what)` is told of each artifact that is "reused", "built" or "damaged"; `on_note` of why one is built
    again though its settings are the same.
    """

    root: Path
    on_event: Callable[[str, str, str], None] = lambda kind, key, what: None
    used: dict[str, list[str]] = field(default_factory=dict)
    """By kind, the keys that were asked for: a run records them."""
    on_note: Callable[[str], None] = lambda text: None
    accept: Sequence[str] = ()
    """Kinds, or keys, of artifacts that are taken though they were made by other code, with other versions or rounding."""
    accepted: dict[str, list[str]] = field(default_factory=dict)
    """By kind, the keys that were taken so."""

    def get(
        self,
        kind: str,
        determined_by: Mapping[str, Any],
        build: Callable[[Path], object],
        code: Code | None = None,
        rounding: Mapping[str, Any] | None = None,
    ) -> tuple[Path, Key]:
        """The directory and key of an artifact, built now by `build(empty directory)` unless it is there, whole.

        Its key is made of the settings and inputs that it is `determined_by`, of the `code` behind `build`, and of what decides
        its last bits (`rounding`: device, threads, ...); the manifest holds all three. Of several processes that ask at once
        one builds, the others wait for it. A lock dies with the process that holds it.
        """
        made_by = {"code": (code or Code()).to_json(), "rounding": dict(rounding or {})}
        known = code is not None or rounding is not None
        key = Key(digest([determined_by, made_by] if known else determined_by), digest(_recipe(determined_by)))
        folder = self.root / kind
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / key).exists() or any(map(is_key, self.accept)):
            key = self._accepted_instead(kind, key, made_by) or key
        if key not in self.used.setdefault(kind, []):
            self.used[kind].append(key)
        with FileLock(lock_file(folder, key)):
            if not self._is_whole(kind, key):
                for left in folder.glob(f".{key}-*/"):
                    shutil.rmtree(left)  # from a builder that was killed: under the lock there is no other
                facts = {"kind": kind, "key": key, "recipe": key.recipe, "determined_by": json_value(determined_by), **made_by}
                write_directory(folder / key, build, **facts)
                self.on_event(kind, key, "built")
        return folder / key, key

    def _is_whole(self, kind: str, key: Key) -> bool:
        """Whether an artifact is there and undamaged."""
        if not (self.root / kind / key).exists():
            return False
        try:
            verify_directory(self.root / kind / key)
        except DamagedError:
            self.on_event(kind, key, "damaged")
            return False
        with suppress(OSError):  # a store that is read only is of use all the same
            last_used_file(self.root / kind, key).touch()
        self.on_event(kind, key, "reused")
        return True

    def _accepted_instead(self, kind: str, key: Key, made_by: Mapping[str, Any]) -> Key | None:
        """The key of the newest accepted artifact of the same recipe; if there is none, a note says why one is built."""
        others, name = sorted(self._same_recipe(kind, key), key=lambda other: -other[0]), kind.replace("_", " ")
        is_there = (self.root / kind / key).exists()
        for _, path, manifest in others:
            if path.name in self.accept or (kind in self.accept and not is_there):
                try:
                    verify_directory(path)
                except DamagedError as error:
                    self.on_note(f"{name}: {path.name} cannot be accepted ({error})")
                    continue
                self.accepted.setdefault(kind, []).append(path.name)
                self.on_note(f"{name}: {path.name} is accepted, although {_what_changed(manifest, made_by)}")
                return Key(path.name, key.recipe)
        if others and not is_there:
            nearest = min((_what_changed(manifest, made_by) for _, _, manifest in others), key=len)
            self.on_note(f"{name}: built again, {nearest}")
        return None

    def _same_recipe(self, kind: str, key: Key) -> Iterator[tuple[float, Path, dict[str, Any]]]:
        """Date, directory and manifest of the other artifacts that were made from the same settings and input files.

        One from before recipes were kept counts if `accept` has its key, and a run uses one of its kind.
        """
        for file in (self.root / kind).glob(f"[!.]*/{MANIFEST}"):  # what begins with a dot is not finished
            with suppress(OSError, ValueError):
                manifest = json.loads(file.read_bytes())
                if not isinstance(manifest, dict) or file.parent.name == key:
                    continue
                is_named = manifest.get("key") in self.accept and kind not in SEVERAL_IN_A_RUN
                if manifest["recipe"] == key.recipe if "recipe" in manifest else is_named:
                    yield file.stat().st_mtime, file.parent, manifest

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


def lock_file(folder: Path, key: str) -> Path:
    """The lock of an artifact in a folder, held by the process that builds or removes it."""
    return folder / f".{key}.lock"


def last_used_file(folder: Path, key: str) -> Path:
    """An empty file whose date is when a finished artifact was last asked for."""
    return folder / f".{key}.used"


def _what_changed(then: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """The difference between two `made_by`, in words."""
    if "code" not in then:
        return "it is from before artifacts said what made them"
    made = ({"code": each["code"]["modules"], **each["code"]["versions"], **each["rounding"]} for each in (then, now))
    return "; ".join(describe_changes(*made)) or "what it is made from was built again"


def _recipe(value: Any) -> Any:
    """`determined_by` with the recipes of other artifacts in the place of their keys."""
    if isinstance(value, Key):
        return value.recipe
    if isinstance(value, Mapping):
        return {str(name): _recipe(item) for name, item in value.items()}
    return [_recipe(item) for item in value] if isinstance(value, list | tuple) else value
