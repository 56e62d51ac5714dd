"""Candidate sources: where the completions that a loss compares come from, and how they are labelled."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from dpo_lab.data.base import Feedback
from dpo_lab.data.tokenizers import Tokenizer
from dpo_lab.records import CandidateBatch
from dpo_lab.registry import Registry


@dataclass
class CandidatesSpec:
    """A candidate source: a GivenSource or a SampledSource."""

    name: str
    max_tokens: int = 32
    """Most tokens of a completion, its end token included."""

    sampled: ClassVar[bool] = False
    """Whether candidates are sampled, which needs a reward to label them."""

    @property
    def num_candidates(self) -> int | None:
        """Candidates of each prompt; None where the settings alone do not tell."""
        return None

    @property
    def most_rows(self) -> int | None:
        """An upper bound on the number of training rows; None where the settings alone do not tell."""
        return None

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise ValueError(f"candidates.max_tokens must be at least 1, got {self.max_tokens}")


@dataclass
class GivenSource(CandidatesSpec):
    """Completions and labels that come with the data, which `write` turns into tokens."""

    def write(
        self, feedback: Collection[Feedback], tokenizer: Tokenizer, path: Path, on_bad: Callable[[str], None] | None = None
    ) -> dict[str, int]:
        """Tokenise the rows into a CandidateBatch, saved to `path` as safetensors; numbers of rows left out, by reason.

        `on_bad` is told of each row that cannot become tokens, which is then left out. Raises ValueError for such a row where
        there is no `on_bad`, and where no row is left.
        """
        raise NotImplementedError


@dataclass
class SampledSource(CandidatesSpec):
    """Several samples of the base policy for each training prompt, which `pairs` turns into preferences by their rewards."""

    num_prompts: int = 2000
    """Training prompts that are sampled for."""
    samples_per_prompt: int = 8
    """Samples of each prompt."""
    temperature: float = 1.0
    """Divides the logits: 1 samples the base policy itself."""
    seed: int = 0
    """Seed of the prompts and the samples."""

    sampled: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.samples_per_prompt < 2:
            raise ValueError(f"candidates.samples_per_prompt must be at least 2 to make a pair, got {self.samples_per_prompt}")
        if self.num_prompts < 1:
            raise ValueError(f"candidates.num_prompts must be at least 1, got {self.num_prompts}")
        if not self.temperature > 0:
            raise ValueError(f"candidates.temperature must be > 0, got {self.temperature}")

    def pairs(self, samples: CandidateBatch, *, like: CandidateBatch | None = None) -> tuple[CandidateBatch, dict[str, int]]:
        """Preferences between scored samples, and counts of what was made and left out, to report (see `labelling`).

        `like`: the training samples, where `samples` are held out.
        """
        raise NotImplementedError


CANDIDATES: Registry[CandidatesSpec] = Registry("candidates", "dpo_lab.preferences")


def noun(num_candidates: int) -> str:
    """The word for prompts with that many candidates, in messages."""
    return {1: "completions", 2: "pairs"}.get(num_candidates, f"rankings of {num_candidates}")
