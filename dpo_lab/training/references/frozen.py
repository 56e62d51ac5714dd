"""The frozen reference."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dpo_lab.training.references.base import REFERENCES, LiveReference, existing_directory


@REFERENCES.register
@dataclass
class FrozenReference(LiveReference):
    """The initial policy, run beside it on every batch. Under an adapter both share all weights but the adapter's."""

    name: str = "frozen"
    path: str = ""
    """Another policy instead: a run, a policy directory, or a Hugging Face model with the same tokenizer."""

    def weights(self) -> Path | None:
        return existing_directory(self.path)
