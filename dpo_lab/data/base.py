"""What a data source yields: text only. Tokens come later."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any, ClassVar

from dpo_lab.registry import Registry


@dataclass
class Preference:
    """A prompt and two completions of it, to be appended as they are. `confidence`: P(chosen beats rejected)."""

    prompt: str
    chosen: str
    rejected: str
    confidence: float = 1.0


@dataclass
class Corpus:
    """The text of one study. Which parts are filled depends on the source."""

    text: list[str] = field(default_factory=list)
    """What the tokenizer and the base policy are fitted on; each ends where it ends."""
    fragments: list[str] = field(default_factory=list)
    """The same for texts that break off: no end token follows them."""
    train_prompts: list[str] = field(default_factory=list)
    eval_prompts: list[str] = field(default_factory=list)
    """Prompts to sample completions for. No eval prompt comes from a document that anything is fitted on."""
    train: list[Preference] = field(default_factory=list)
    eval: list[Preference] = field(default_factory=list)
    """Pairs that somebody has labelled."""
    labelled: list[tuple[str, bool]] = field(default_factory=list)
    """Documents with a class, for rewards that are fitted."""
    counts: dict[str, int] = field(default_factory=dict)
    """What was read, and what was left out and why: reported to the user."""


@dataclass
class DataSource:
    """Where text comes from."""

    name: str

    has_pairs: ClassVar[bool] = False
    """Whether pairs that somebody has labelled come with the text."""

    def load(self) -> Corpus:
        """Deterministic. Raises ValueError, naming file and line, for what cannot be read."""
        raise NotImplementedError

    def fingerprint(self) -> dict[str, Any]:
        """Whatever determines the text beside the settings: digests of the files read. Part of every artifact's key."""
        return {}


def share_of(text: str, salt: str = "") -> float:
    """A number in [0, 1) that depends on the text alone: splits made by it never change as data is added or reordered."""
    return int.from_bytes(hashlib.sha256((salt + text).encode()).digest()[:8], "big") / 2**64


DATA: Registry[DataSource] = Registry("data")
