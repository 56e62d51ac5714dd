"""A made-up language of a few words, for studies that take seconds and whose reward is known exactly."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch

from dpo_lab.data.base import DATA, Corpus, DataSource

EVAL_SHARE = 0.2


@DATA.register
@dataclass
class SyntheticSource(DataSource):
    """Sentences drawn from a random Markov chain over the given words. The first `prompt_words` of a sentence are a prompt."""

    name: str = "synthetic"
    words: list[str] = field(default_factory=lambda: list("abcdefgh"))
    num_sentences: int = 4000
    num_words: int = 10
    """Words in each sentence."""
    prompt_words: int = 2
    sharpness: float = 1.0
    """Standard deviation of the chain's logits: 0 is uniform noise, larger is more predictable."""
    seed: int = 0

    def __post_init__(self) -> None:
        if len(set(self.words)) < 2:
            raise ValueError(f"data.words must hold at least 2 different words, got {self.words}")
        if not 0 < self.prompt_words < self.num_words:
            raise ValueError(f"data.prompt_words must be in 1..{self.num_words - 1}, got {self.prompt_words}")
        if not 0 <= self.sharpness < math.inf:
            raise ValueError(f"data.sharpness must be >= 0 and finite, got {self.sharpness}")
        if self.num_sentences < 10:
            raise ValueError(f"data.num_sentences must be at least 10, got {self.num_sentences}")

    def load(self) -> Corpus:
        generator = torch.Generator().manual_seed(self.seed)
        chain = (self.sharpness * torch.randn(len(self.words), len(self.words), generator=generator)).softmax(dim=-1)
        columns = [torch.randint(len(self.words), (self.num_sentences,), generator=generator)]
        for _ in range(self.num_words - 1):
            columns.append(torch.multinomial(chain[columns[-1]], 1, generator=generator)[:, 0])
        sentences = [[self.words[i] for i in row] for row in torch.stack(columns, dim=1).tolist()]
        prompts = [" ".join(words[: self.prompt_words]) for words in sentences]
        cut = int(len(sentences) * EVAL_SHARE)
        return Corpus(
            text=[" ".join(words) for words in sentences[cut:]],
            train_prompts=prompts[cut:],
            eval_prompts=prompts[:cut],
            counts={"sentences": len(sentences)},
        )
