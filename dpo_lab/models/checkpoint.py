"""model=checkpoint: the policy of an earlier run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dpo_lab.models.base import MODELS, ModelSpec


@MODELS.register
@dataclass
class CheckpointSpec(ModelSpec):
    """The policy of an earlier run with its tokenizer: `path` is the run directory or a policy directory. Nothing is fitted."""

    name: str = "checkpoint"
    path: str = ""
    """A run directory, its policy/, or a checkpoint of it."""

    def weights(self) -> Path | None:
        if not self.path:
            raise ValueError("model.path is not set: model=checkpoint needs model.path=RUN_DIRECTORY")
        path = Path(self.path).expanduser()
        if not path.is_dir():
            raise ValueError(f"model.path: there is no directory {self.path}")
        return path
