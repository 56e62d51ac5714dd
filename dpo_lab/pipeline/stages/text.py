"""The study's text, which every stage begins with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from dpo_lab.artifacts.fingerprint import Code, code_of, component_classes
from dpo_lab.artifacts.store import Key
from dpo_lab.data import Corpus
from dpo_lab.data.messages import Prompt
from dpo_lab.pipeline.context import Context
from dpo_lab.pipeline.study import Study
from dpo_lab.seeding import permutation
from dpo_lab.tracking.console import Stage

FORMAT = 1
"""Raised when a stage computes something else from the same settings: old artifacts are then left alone."""


@dataclass
class Text:
    """The text of a run's study, and how a stage's result is taken from the artifact store or built from it."""

    context: Context

    @property
    def study(self) -> Study:
        return self.context.study

    @property
    def key(self) -> dict[str, Any]:
        """What determines the text."""
        return {"format": FORMAT, "data": self.study.data, "files": self.study.data.fingerprint()}

    @cached_property
    def corpus(self) -> Corpus:
        """Read only when a stage must be built: a second run of the same study does not."""
        corpus = self.study.data.load()
        for note in [*corpus.notes, ", ".join(f"{count:,} {what}" for what, count in corpus.counts.items())]:
            self.context.console.note(f"  {note}")
        return corpus

    @property
    def was_read(self) -> bool:
        return "corpus" in vars(self)

    def prompts(self, split: str, count: int, seed: int) -> list[Prompt]:
        """`count` prompts. Raises ValueError where there are too few to train on; held-out ones may be fewer."""
        prompts = self.corpus.train_prompts if split == "train" else self.corpus.eval_prompts
        order = permutation(len(prompts), seed, "prompts", split).tolist()
        if len(prompts) < count and split == "train":
            raise ValueError(f"candidates.num_prompts={count}, but the data has only {len(prompts)} training prompts")
        if len(prompts) < count:
            self.context.console.note(
                f"  evaluated on all {len(prompts)} held-out prompts, fewer than evaluation.num_prompts={count}"
            )
        place = {row: i for i, row in enumerate(order[:count])}
        chosen = ((place[row], prompt) for row, prompt in enumerate(prompts) if row in place)
        return [prompt for _, prompt in sorted(chosen, key=lambda item: item[0])]

    def code(self, *components: object) -> Code:
        """The code behind the data and these components of the study."""
        return code_of(*{cls for part in (self.study.data, *components) for cls in component_classes(part)})

    def artifact(
        self,
        stage: Stage,
        kind: str,
        determined_by: Mapping[str, Any],
        build: Callable[[Path], object],
        code: Code,
        rounding: Mapping[str, Any] | None = None,
    ) -> tuple[Path, Key]:
        """The directory of a stage's result, built where the store does not have it, and its key."""
        self.context.follow_artifacts(stage)
        return self.context.store.get(kind, determined_by, build, code | code_of(build), rounding)
