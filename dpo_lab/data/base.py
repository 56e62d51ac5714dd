"""What a data source yields: text only. Tokens come later."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar

from dpo_lab.data.messages import Prompt
from dpo_lab.registry import Registry

T = TypeVar("T")


@dataclass
class Feedback:
    """A prompt, completions of it, and what somebody has said of them.

    A completion of a text is appended to it as it is; of a conversation it is what the assistant says next.
    Several completions are ordered, best first: two are a pair (chosen, rejected), more a ranking. Of a single one it is said
    whether it is `desirable`.
    """

    prompt: Prompt
    completions: tuple[str, ...]
    confidence: float = 1.0
    """P(first beats second)."""
    scores: tuple[float, ...] | None = None
    """One for each completion; higher is better."""
    margin: float | None = None
    """How much better the first should be than the second, in rewards."""
    desirable: bool | None = None

    def __post_init__(self) -> None:
        assert self.completions, self
        assert self.scores is None or len(self.scores) == len(self.completions), self


class Reread(Collection[T]):
    """Items that are read again each time they are gone through, so that they need not fit into memory."""

    def __init__(self, read: Callable[[], Iterator[T]], count: int) -> None:
        self._read, self._count = read, count

    def __iter__(self) -> Iterator[T]:
        return self._read()

    def __len__(self) -> int:
        return self._count

    def __contains__(self, item: object) -> bool:
        return any(item == other for other in self)


@dataclass
class Corpus:
    """The text of one study. Which parts are filled depends on the source."""

    text: Collection[str] = field(default_factory=list)
    """What the tokenizer and the base policy are fitted on; each ends where it ends."""
    fragments: Collection[str] = field(default_factory=list)
    """The same for texts that break off: no end token follows them."""
    train_prompts: Collection[Prompt] = field(default_factory=list)
    eval_prompts: Collection[Prompt] = field(default_factory=list)
    """Prompts to sample completions for. No eval prompt comes from a document that anything is fitted on."""
    train: Collection[Feedback] = field(default_factory=list)
    eval: Collection[Feedback] = field(default_factory=list)
    """What somebody has labelled: all pairs, or all single completions, or all rankings of one length."""
    labelled: list[tuple[str, bool]] = field(default_factory=list)
    """Documents with a class, for rewards that are fitted."""
    counts: dict[str, int] = field(default_factory=dict)
    """What was read, and what was left out and why: reported to the user."""
    notes: list[str] = field(default_factory=list)
    """What else the user should know of the data: how it was read, and what is odd about it."""


@dataclass
class DataSource:
    """Where text comes from."""

    name: str

    has_pairs: ClassVar[bool] = False
    """Whether pairs, rankings or single completions that somebody has labelled come with the text."""

    def load(self) -> Corpus:
        """Deterministic. Raises ValueError, naming file and line, for what cannot be read."""
        raise NotImplementedError

    def first(self) -> Feedback | None:
        """The first labelled row, which all others are like; None where it cannot be had before everything is read."""
        return None

    def fingerprint(self) -> dict[str, Any]:
        """Whatever determines the text beside the settings: digests of the files read. Part of every artifact's key."""
        return {}


def share_of(text: str, salt: str = "") -> float:
    """A number in [0, 1) that depends on the text alone: splits made by it never change as data is added or reordered."""
    return int.from_bytes(hashlib.sha256((salt + text).encode()).digest()[:8], "big") / 2**64


DATA: Registry[DataSource] = Registry("data", "dpo_lab.data")
