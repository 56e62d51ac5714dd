"""List, show, verify and prune the artifact store."""

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
    """list: all artifacts; show: what determined one; verify: read every byte of all; prune: remove some."""

    list = "list"
    show = "show"
    verify = "verify"
    prune = "prune"


@RUNNERS.register
@dataclass
class StoreRunner(RunnerSpec):
    """List, show, verify or prune the artifacts in `store`. Makes no run of its own.

    Only what meets every given condition is pruned, and only with `delete`. What a process is building or has just asked for
    is left alone. An artifact that is needed again is built again.
    """

    name: str = "store"
    do: StoreAction = StoreAction.list
    """What to do with the artifacts. prune needs `unused`, `damaged` or `days`, and removes only with `delete`."""
    key: str = ""
    """Show the artifacts whose key begins so: settings, code, versions, threads and device that made them."""
    unused: bool = False
    """Prune what no run below `runs` has used."""
    damaged: bool = False
    """Prune what is damaged, and what killed builders have left."""
    days: float | None = None
    """Prune what was not asked for in this many days; None: unused artifacts are left a day, others have no limit."""
    delete: bool = False
    """Remove them. Without it, they are only listed."""

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
        """Do what `do` says; exit status 1 where something is damaged."""
        if not Path(study.store).is_dir():
            raise ValueError(f"store: there is no directory {study.store}; store=DIRECTORY names another")
        artifacts = list_artifacts(Path(study.store), Path(study.runs))
        if self.do is StoreAction.prune:
            self._prune(artifacts, console)
            return 0
        if self.do is StoreAction.show:
            self._show_one([item for item in artifacts if item.key.startswith(self.key) and not item.left_over], console)
            return 0
        verify = self.do is StoreAction.verify
        states = [item.damage or "whole" if verify else "begun" if item.left_over else "" for item in artifacts]
        _show(console, f"{study.store}: {_sum(artifacts)}", artifacts, states)
        damaged = sum(state != "whole" for state in states) if verify else 0
        if damaged:
            console.warn(f"{damaged} damaged: built again when needed; runner.do=prune runner.damaged=true takes them out")
        return int(damaged > 0)

    def _show_one(self, artifacts: list[StoredArtifact], console: Console) -> None:
        if not artifacts:
            raise ValueError(f"runner.key: the store has no artifact whose key begins with '{self.key}'")
        for item in artifacts:
            manifest = json.loads((item.path / MANIFEST).read_bytes())
            code = manifest.get("code", {})
            made_of = {
                "settings and inputs": manifest.get("determined_by", {}),
                "code": {as_file(name): digest for name, digest in code.get("modules", {}).items()},
                "versions": code.get("versions", {}),
                "device and threads": manifest.get("rounding", {}),
            }
            rows = [[part, name, value] for part, values in made_of.items() for name, value in flat(values)]
            console.table(f"{item.kind} {item.key}", ["", "name", "value"], rows)

    def _prune(self, artifacts: list[StoredArtifact], console: Console) -> None:
        chosen = [item for item in artifacts if self._chooses(item)]
        if not self.delete:
            _show(console, f"would go: {_sum(chosen)} of {_sum(artifacts)}", chosen, ["" for _ in chosen])
            console.note("nothing is removed without runner.delete=true")
            return
        gone = [item for item in chosen if remove_artifact(item)]
        _show(console, f"gone: {_sum(gone)} of {_sum(artifacts)}", gone, ["" for _ in gone])
        if len(gone) < len(chosen):
            console.note(f"{len(chosen) - len(gone)} in use were left")

    def _chooses(self, item: StoredArtifact) -> bool:
        days = self.days if self.days is not None else 1.0 if self.unused else 0.0
        if item.days < days or (self.unused and item.runs):
            return False
        return bool(item.damage) if self.damaged else not item.left_over


def _show(console: Console, title: str, artifacts: list[StoredArtifact], states: list[str]) -> None:
    rows = [
        [item.kind, item.key, f"{item.size / 1e6:.2f}", f"{item.days:.1f}", item.runs, state]
        for item, state in zip(artifacts, states, strict=True)
    ]
    console.table(title, ["kind", "key", "MB", "days since use", "runs", "state"], rows)


def _sum(artifacts: list[StoredArtifact]) -> str:
    return f"{len(artifacts)} artifacts, {sum(item.size for item in artifacts) / 1e6:,.1f} MB"
