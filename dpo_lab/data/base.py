"""Data sources, and what they yield: text, prompts and labelled completions, not yet tokenised."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar

from dpo_lab.data.messages import Completion, Prompt
from dpo_lab.registry import Registry

T = TypeVar("T")


@dataclass
class Feedback:
    """A prompt with labelled completions: a pair, a ranking, or a single completion.

    A completion of a text is appended to it as it is; of a conversation it is the assistant's next message. Several completions
    are in order, best first: two are a pair (chosen, rejected), more a ranking. A single one is `desirable` or not.
    """

    prompt: Prompt
    completions: tuple[Completion, ...]
    confidence: float = 1.0
    """P(first beats second)."""
    scores: tuple[float, ...] | None = None
    """One for each completion; higher is better."""
    margin: float | None = None
    """How much better the first should be than the second, in rewards."""
    desirable: bool | None = None
    where: str = field(default="", compare=False, repr=False)
    """File and line, for messages; empty where the row comes from no file."""

    def __post_init__(self) -> None:
        assert self.completions, self
        assert self.scores is None or len(self.scores) == len(self.completions), self


class Reread(Collection[T]):
    """A collection that is read anew at each iteration, so that it need not fit into memory."""

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
    """Whole texts that the tokenizer and the base policy are fitted on; an end token follows each."""
    fragments: Collection[str] = field(default_factory=list)
    """The same for texts that break off: no end token follows them."""
    train_prompts: Collection[Prompt] = field(default_factory=list)
    eval_prompts: Collection[Prompt] = field(default_factory=list)
    """Prompts to sample completions of. No eval prompt comes from a document that anything is fitted on."""
    train: Collection[Feedback] = field(default_factory=list)
    eval: Collection[Feedback] = field(default_factory=list)
    """Labelled completions: all pairs, or all single ones, or all rankings of one length."""
    labelled: list[tuple[str, bool]] = field(default_factory=list)
    """Documents with a class, for rewards that are fitted."""
    counts: dict[str, int] = field(default_factory=dict)
    """Numbers of items read, and left out by reason: reported to the user."""
    notes: list[str] = field(default_factory=list)
    """What else is reported: how the data was read, and what is odd about it."""


@dataclass
class DataSource:
    """A data source. A new one is a registered subclass with `load`."""

    name: str

    has_pairs: ClassVar[bool] = False
    """Whether it yields labelled completions (`Corpus.train` and `Corpus.eval`)."""

    @property
    def skips_bad_rows(self) -> bool:
        """Whether rows that prove to be bad when they become tokens are left out, counted and listed; else they end the run."""
        return False

    def load(self) -> Corpus:
        """The corpus, the same at each call. Raises ValueError, naming file and line, for what cannot be read."""
        raise NotImplementedError

    def first(self) -> Feedback | None:
        """The first labelled row, whose kind all share; None where that needs reading everything."""
        return None

    def fingerprint(self) -> dict[str, Any]:
        """Digests of the files that are read: with the settings they determine the text. Part of every artifact's key."""
        return {}


def share_of(text: str, salt: str = "") -> float:
    """A number in [0, 1) that depends on the text alone: splits made by it never change as data is added or reordered."""
    return int.from_bytes(hashlib.sha256((salt + text).encode()).digest()[:8], "big") / 2**64


DATA: Registry[DataSource] = Registry("data", "dpo_lab.data")
