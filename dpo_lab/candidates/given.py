"""Candidates as the data gives them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from einops import rearrange

from dpo_lab.candidates.base import CANDIDATES, CandidatesSpec, certain_utilities, from_rows, noun
from dpo_lab.data.base import Feedback
from dpo_lab.records import CandidateBatch
from dpo_lab.tokenizers import Tokenizer

LONG_PROMPT = "left out, prompt over max_prompt_tokens"
LONG_COMPLETION = "left out, completion over max_tokens"
EQUAL = "left out, equal after tokenisation"


@CANDIDATES.register
@dataclass
class GivenCandidates(CandidatesSpec):
    """The data's own pairs, rankings or labelled completions.

    Where the prompt or a completion is too long, the whole row is left out and counted.
    """

    name: str = "given"
    max_prompt_tokens: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_prompt_tokens < 1:
            raise ValueError(f"candidates.max_prompt_tokens must be at least 1, got {self.max_prompt_tokens}")

    def encode(self, feedback: Collection[Feedback], tokenizer: Tokenizer) -> tuple[CandidateBatch, dict[str, int]]:
        """The rows as tokens, and how many were left out for which reason.

        Raises ValueError where none is left, and for rows that do not all hold the same.
        """
        sizes = sorted({len(row.completions) for row in feedback})
        if len(sizes) != 1:
            raise ValueError(f"every row of the data must have equally many completions, found rows with {sizes}")
        kept, prompts, candidates = [], [], []
        counts = dict.fromkeys((LONG_PROMPT, LONG_COMPLETION, EQUAL), 0)
        for row in feedback:
            prompt, completions = tokenizer.encode_candidates(row.prompt, row.completions)
            if len(prompt) > self.max_prompt_tokens:
                counts[LONG_PROMPT] += 1
            elif max(map(len, completions)) > self.max_tokens:
                counts[LONG_COMPLETION] += 1
            elif len(set(map(tuple, completions))) < len(completions):
                counts[EQUAL] += 1
            else:
                kept.append(row)
                prompts.append(prompt)
                candidates.append(completions)
        if not kept:
            why = ", ".join(f"{count} {reason}" for reason, count in counts.items() if count)
            ways = ["raise candidates.max_tokens or candidates.max_prompt_tokens"] if len(feedback) > counts[EQUAL] else []
            ways += ["choose a tokenizer that tells them apart, such as tokenizer=byte"] if counts[EQUAL] else []
            raise ValueError(f"of {len(feedback)} {noun(sizes[0])} none is left ({why}); {'; '.join(ways)}")
        made = from_rows(prompts, candidates, torch.tensor([row.confidence for row in kept]))
        return replace(made, **_said_of(kept)), counts


def _said_of(rows: Sequence[Feedback]) -> dict[str, Any]:
    """The optional fields of a batch that these rows fill."""
    said: dict[str, Any] = {}
    if _stated(rows, "scores"):
        said["scores"] = rearrange(torch.tensor([row.scores for row in rows]), "b k -> k b")
        if len(rows[0].completions) > 2:  # of a pair the data says itself who wins
            said["utilities"] = certain_utilities(said["scores"])
    if _stated(rows, "margin"):
        said["margin"] = torch.tensor([row.margin for row in rows])
    if _stated(rows, "desirable"):
        said["desirable"] = torch.tensor([[row.desirable for row in rows]])
    return said


def _stated(rows: Sequence[Feedback], name: str) -> bool:
    found = {getattr(row, name) is not None for row in rows}
    if len(found) > 1:
        raise ValueError(f"some rows of the data have {name} and some have none: give it in all rows or in none")
    return found == {True}
