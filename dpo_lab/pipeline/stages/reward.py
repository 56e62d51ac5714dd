"""The scorers that a reward is fitted as."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from dpo_lab.artifacts.store import Key
from dpo_lab.data.base import share_of
from dpo_lab.pipeline.stages.text import Text
from dpo_lab.preferences.rewards import Scorer


@dataclass
class Scorers:
    """The training reward, which labels samples, and the gold reward, which only evaluations see."""

    proxy: Scorer | None
    gold: Scorer | None
    keys: list[Key] = field(default_factory=list)
    """Of both, if they were fitted."""


def scorers_of(text: Text) -> Scorers:
    """Each fitted on one half of the labelled documents, where the reward is fitted at all."""
    spec = text.study.reward
    if not spec.needs_labels:
        return Scorers(spec.load(Path()), spec.load(Path()))
    code, scorers, keys = text.code(spec), [], []
    for half, title in enumerate(("proxy reward", "gold reward")):
        with text.context.stage(title, f"{spec.name}, fitted on one half of the labels") as stage:

            def build(directory: Path, half: int = half) -> None:
                labelled = text.corpus.labelled
                spec.fit([row for row in labelled if (share_of(row[0], "reward") < 0.5) == (half == 0)], directory)

            determined_by = {"text": text.key, "reward": spec, "files": spec.fingerprint(), "half": half}
            path, key = text.artifact(stage, "reward", determined_by, build, code)
            scorers.append(spec.load(path))
            keys.append(key)
    return Scorers(scorers[0], scorers[1], keys)
