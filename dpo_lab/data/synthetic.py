"""A made-up language of a few words, for studies that take seconds and whose reward is known exactly."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from einops import rearrange
from jaxtyping import Float64, Int
from torch import Tensor

from dpo_lab.data.base import DATA, Corpus, DataSource
from dpo_lab.seeding import permutation, stream, uniform

EVAL_SHARE = 0.2


@DATA.register
@dataclass
class SyntheticSource(DataSource):
    """Sentences drawn from a random Markov chain over the given words. The first `prompt_words` of a sentence are a prompt.

    A fifth of the different prompts is held out, with all sentences that begin with them. Prompts come as often as sentences
    begin with them.
    """

    name: str = "synthetic"
    words: list[str] = field(default_factory=lambda: list("abcdefgh"))
    """The vocabulary of the language."""
    num_sentences: int = 4000
    """Sentences to draw. A fifth of their different prompts is held out."""
    num_words: int = 12
    """Words in each sentence."""
    prompt_words: int = 4
    """A sentence's first words, which are its prompt."""
    sharpness: float = 1.0
    """Standard deviation of the chain's logits: 0 is uniform noise, larger is more predictable."""
    seed: int = 0
    """Seed of the chain and the sentences."""

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
        sentences = [[self.words[i] for i in row] for row in self._sentences().tolist()]
        prompts = [" ".join(words[: self.prompt_words]) for words in sentences]
        different = sorted(set(prompts))
        if len(different) < 2:
            raise ValueError("data=synthetic: all sentences have one prompt, so none can be held out; raise data.num_sentences")
        order = permutation(len(different), self.seed, "held-out prompts").tolist()
        held_out = {different[i] for i in order[: max(round(len(different) * EVAL_SHARE), 1)]}
        return Corpus(
            text=[" ".join(words) for words, prompt in zip(sentences, prompts, strict=True) if prompt not in held_out],
            train_prompts=[prompt for prompt in prompts if prompt not in held_out],
            eval_prompts=[prompt for prompt in prompts if prompt in held_out],
            counts={
                "sentences": len(sentences),
                "different prompts to train on": len(different) - len(held_out),
                "different prompts held out": len(held_out),
            },
        )

    def chain(self) -> Float64[Tensor, "v v"]:
        """How likely each word is after each."""
        numbers = uniform(len(self.words) ** 2, self.seed, "language").clamp(min=2.0**-54)
        return (self.sharpness * torch.special.ndtri(numbers)).reshape(len(self.words), -1).softmax(dim=-1)

    def _sentences(self) -> Int[Tensor, "n m"]:
        """The first word of each is any, the others come from the chain. More sentences begin with the same ones."""
        reached = self.chain().cumsum(dim=-1)
        numbers = stream(self.seed, "sentences").branches(self.num_sentences).uniform(self.num_words)
        columns = [(numbers[:, 0] * len(self.words)).long()]
        for column in numbers[:, 1:].unbind(dim=1):
            after = reached[columns[-1]]
            columns.append((rearrange(column, "n -> n 1") * after[:, -1:] >= after[:, :-1]).sum(dim=-1))
        return torch.stack(columns, dim=1)
