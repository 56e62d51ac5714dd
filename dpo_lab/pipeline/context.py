"""The context of a run, which is given to its runner."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from dpo_lab.artifacts.store import Store
from dpo_lab.pipeline.stopping import Stopping
from dpo_lab.pipeline.study import Study
from dpo_lab.tracking import Console, RunDirectory
from dpo_lab.tracking.console import Stage
from dpo_lab.training.checkpoints import Checkpoint, Checkpoints


@dataclass
class Context:
    """A run under way: its study, its directory, its store, and the console."""

    study: Study
    console: Console
    run: RunDirectory
    store: Store
    checkpoints: Checkpoints
    stopping: Stopping = field(default_factory=Stopping)
    checkpoint: Checkpoint | None = None
    """The checkpoint that an interrupted run resumes from."""
    stage_seconds: dict[str, float] = field(default_factory=dict)
    """Seconds that each stage took, in order."""

    @contextmanager
    def stage(self, title: str, detail: str) -> Iterator[Stage]:
        """A stage: one line on the console, and its seconds kept."""
        with self.timed(title), self.console.stage(title, detail) as stage:
            yield stage

    def follow_artifacts(self, stage: Stage) -> None:
        """From now on `stage` counts as reused while every artifact asked for is; a damaged one is reported."""
        events: set[str] = set()

        def on_event(kind: str, key: str, what: str) -> None:
            events.add(what)
            stage.reused = events == {"reused"}
            if what == "damaged":
                self.console.warn(f"artifact {kind}/{key} is incomplete or damaged: it is built again")

        self.store.on_event = on_event

    @contextmanager
    def timed(self, title: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        self.stage_seconds[title] = round(time.monotonic() - began, 2)
