"""Byte-level tokenizers: every text has ids, and decoding gives the text back exactly."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers, trainers

from dpo_lab.data.tokenizers.base import SPECIAL, TOKENIZERS, Tokenizer, TokenizerSpec

NUM_BYTES = 256


@TOKENIZERS.register
@dataclass
class BPETokenizer(TokenizerSpec):
    """Byte-level byte pair encoding, as GPT-2's, trained on the run's own text."""

    name: str = "bpe"
    vocab_size: int = 4096
    """Tokens in all, the 256 bytes and the special tokens included."""

    def __post_init__(self) -> None:
        if self.vocab_size < NUM_BYTES + len(SPECIAL):
            raise ValueError(f"tokenizer.vocab_size must be at least {NUM_BYTES + len(SPECIAL)}, got {self.vocab_size}")

    def train(self, texts: Iterable[str]) -> Tokenizer:
        backend = Backend(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=self.vocab_size,
            special_tokens=SPECIAL,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        backend.train_from_iterator(texts, trainer)
        return Tokenizer(backend)


@TOKENIZERS.register
@dataclass
class ByteTokenizer(TokenizerSpec):
    """One token for each UTF-8 byte; nothing to train."""

    name: str = "byte"

    def train(self, texts: Iterable[str]) -> Tokenizer:
        return BPETokenizer(vocab_size=NUM_BYTES + len(SPECIAL)).train([])
