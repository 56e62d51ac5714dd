"""Pairs as the data gives them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from dpo_lab.candidates.base import CANDIDATES, CandidatesSpec, from_rows
from dpo_lab.data.base import Preference
from dpo_lab.records import CandidateBatch
from dpo_lab.tokenizers import Tokenizer


@CANDIDATES.register
@dataclass
class GivenCandidates(CandidatesSpec):
    """The data's own labelled pairs. A pair with a prompt or a completion that is too long is left out and counted."""

    name: str = "given"
    max_prompt_tokens: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_prompt_tokens < 1:
            raise ValueError(f"candidates.max_prompt_tokens must be at least 1, got {self.max_prompt_tokens}")

    def encode(self, pairs: Sequence[Preference], tokenizer: Tokenizer) -> tuple[CandidateBatch, dict[str, int]]:
        """The pairs as tokens, and how many were left out for which reason. Raises ValueError where none is left."""
        rows, confidence = [], []
        counts = {"left out, prompt over max_prompt_tokens": 0, "left out, completion over max_tokens": 0}
        counts["left out, equal after tokenisation"] = 0
        for pair in pairs:
            prompt, completions = tokenizer.encode_candidates(pair.prompt, [pair.chosen, pair.rejected])
            if len(prompt) > self.max_prompt_tokens:
                counts["left out, prompt over max_prompt_tokens"] += 1
            elif max(map(len, completions)) > self.max_tokens:
                counts["left out, completion over max_tokens"] += 1
            elif completions[0] == completions[1]:
                counts["left out, equal after tokenisation"] += 1
            else:
                rows.append((prompt, completions))
                confidence.append(pair.confidence)
        if not rows:
            why = ", ".join(f"{count} {reason}" for reason, count in counts.items() if count)
            raise ValueError(
                f"no pair of {len(pairs)} is left ({why}); raise candidates.max_tokens or candidates.max_prompt_tokens"
            )
        prompts, candidates = zip(*rows, strict=True)
        return from_rows(prompts, candidates, torch.tensor(confidence)), counts
