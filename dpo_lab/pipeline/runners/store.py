"""Look after the artifact store."""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import ClassVar

from dpo_lab.artifacts.directory import MANIFEST
from dpo_lab.artifacts.fingerprint import as_file, flat
from dpo_lab.pipeline.artifact_listing import StoredArtifact, list_artifacts, remove_artifact
from dpo_lab.pipeline.base import RUNNERS, RunnerSpec
from dpo_lab.pipeline.study import Study
from dpo_lab.tracking import Console


class StoreAction(Enum):
    """Show what there is; show what one artifact was made of; read every byte of all; take out what is asked for."""

    list = "list"
    show = "show"
    verify = "verify"
    prune = "prune"


@RUNNERS.register
@dataclass
class StoreRunner(RunnerSpec):
    """List, show, verify or prune the artifacts in `store`. Makes no run of its own.

    What is pruned meets every condition that is given; nothing is removed without `delete`. What a process is building or has
    just asked for is left alone. An artifact that is needed again is built again.
    """

    name: str = "store"
    do: StoreAction = StoreAction.list
    key: str = ""
    """Show the artifacts whose key begins so: settings, code, versions, threads and device that made them."""
    unused: bool = False
    """Prune what no run below `runs` has used."""
    damaged: bool = False
    """Prune what is damaged, and what killed builders have left."""
    days: float | None = None
    """Prune what was not asked for in so many days; None: unused artifacts are left a day, others have no limit."""
    delete: bool = False
    """Do it. Without, it is only said what would go."""

    leaves_run: ClassVar[bool] = False
    reads: ClassVar[tuple[str, ...] | None] = ()

    def __post_init__(self) -> None:
        if self.days is not None and not self.days >= 0:
            raise ValueError(f"runner.days must be >= 0, got {self.days}")
        asked = self.unused or self.damaged or self.days is not None
        if self.do is StoreAction.prune and not asked:
            raise ValueError("runner.do=prune needs a condition: runner.unused=true, runner.damaged=true or runner.days=30")
        if (self.do is StoreAction.show) != bool(self.key):
            raise ValueError("runner.do=show and runner.key=KEY go together: the key is that of the artifact to show")
        if self.do is not StoreAction.prune and (asked or self.delete):
            raise ValueError(f"conditions and runner.delete are for runner.do=prune, not for runner.do={self.do.value}")

    def run_without_directory(self, study: Study, console: Console) -> int:
        """Exit status 1 where something is damaged."""
        if not Path(study.store).is_dir():
            raise ValueError(f"store: there is no directory {study.store}; store=DIRECTORY names another")
        found = list_artifacts(Path(study.store), Path(study.runs))
        if self.do is StoreAction.prune:
            self._prune(found, console)
            return 0
        if self.do is StoreAction.show:
            self._show_one([one for one in found if one.key.startswith(self.key) and not one.left_over], console)
            return 0
        states = [one.damage or "whole" if self.do is StoreAction.verify else "begun" if one.left_over else "" for one in found]
        _show(console, f"{study.store}: {_sum(found)}", found, states)
        damaged = sum(state != "whole" for state in states) if self.do is StoreAction.verify else 0
        if damaged:
            console.warn(f"{damaged} damaged: built again when needed; runner.do=prune runner.damaged=true takes them out")
        return int(damaged > 0)

    def _show_one(self, found: list[StoredArtifact], console: Console) -> None:
        if not found:
            raise ValueError(f"runner.key: the store has no artifact whose key begins with '{self.key}'")
        for one in found:
            manifest = json.loads((one.path / MANIFEST).read_bytes())
            code = manifest.get("code", {})
            made_of = {
                "settings and inputs": manifest.get("determined_by", {}),
                "code": {as_file(name): digest for name, digest in code.get("modules", {}).items()},
                "versions": code.get("versions", {}),
                "device and threads": manifest.get("rounding", {}),
            }
            rows = [[part, name, value] for part, values in made_of.items() for name, value in flat(values)]
            console.table(f"{one.kind} {one.key}", ["", "name", "value"], rows)

    def _prune(self, found: list[StoredArtifact], console: Console) -> None:
        chosen = [one for one in found if self._chooses(one)]
        if not self.delete:
            _show(console, f"would go: {_sum(chosen)} of {_sum(found)}", chosen, ["" for _ in chosen])
            console.note("nothing is removed without runner.delete=true")
            return
        gone = [one for one in chosen if remove_artifact(one)]
        _show(console, f"gone: {_sum(gone)} of {_sum(found)}", gone, ["" for _ in gone])
        if len(gone) < len(chosen):
            console.note(f"{len(chosen) - len(gone)} in use were left")

    def _chooses(self, one: StoredArtifact) -> bool:
        days = self.days if self.days is not None else 1.0 if self.unused else 0.0
        if one.days < days or (self.unused and one.runs):
            return False
        return bool(one.damage) if self.damaged else not one.left_over


def _show(console: Console, title: str, found: list[StoredArtifact], states: list[str]) -> None:
    rows = [
        [one.kind, one.key, f"{one.size / 1e6:.2f}", f"{one.days:.1f}", one.runs, state]
        for one, state in zip(found, states, strict=True)
    ]
    console.table(title, ["kind", "key", "MB", "days since use", "runs", "state"], rows)


def _sum(found: list[StoredArtifact]) -> str:
    return f"{len(found)} artifacts, {sum(one.size for one in found) / 1e6:,.1f} MB"
