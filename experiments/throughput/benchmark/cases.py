"""Cases: batches of random tokens with given lengths, on which contenders are timed."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from dpo_lab.records import CandidateBatch
from dpo_lab.seeding import generator


@dataclass
class Case:
    """Pairs of random tokens."""

    name: str = "pairs"
    prompt: int = 256
    """Mean tokens of a prompt."""
    completion: int = 256
    """Mean tokens of a completion."""
    vocab: int = 4096
    pairs: int = 8
    spread: float = 0.5
    """Lengths are uniform within this share of the mean, below and above."""

    def __post_init__(self) -> None:
        for name, least in (("prompt", 2), ("completion", 2), ("vocab", 8), ("pairs", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"runner.cases: {name} must be at least {least}, got {getattr(self, name)}")
        if not 0 <= self.spread <= 0.5:
            raise ValueError(f"runner.cases: spread must be in [0, 0.5], got {self.spread}")

    @property
    def context(self) -> int:
        """The longest that a prompt and a completion can be together, in tokens."""
        return sum(mean + int(self.spread * mean) for mean in (self.prompt, self.completion))

    def draw(self, seed: int, candidates: int = 2) -> CandidateBatch:
        """A batch, the same for the same seed. Tokens 0 to 3 do not occur: contenders may use them as special ones."""
        draw = generator(seed, "batch to time")
        prompts, prompt_mask = self._texts(draw, (self.pairs,), self.prompt)
        completions, mask = self._texts(draw, (candidates, self.pairs), self.completion)
        return CandidateBatch(
            prompt=prompts,
            prompt_mask=prompt_mask,
            completions=completions,
            mask=mask,
            ids=torch.arange(self.pairs),
            confidence=torch.ones(self.pairs),
        )

    def _texts(
        self, draw: torch.Generator, shape: tuple[int, ...], mean: int
    ) -> tuple[Int[Tensor, "*shape n"], Bool[Tensor, "*shape n"]]:
        most = int(self.spread * mean)
        lengths = torch.randint(mean - most, mean + most + 1, (*shape, 1), generator=draw)
        mask = torch.arange(int(lengths.max())) < lengths
        return torch.randint(4, self.vocab, mask.shape, generator=draw) * mask, mask
