"""Tokenizers trained on the run's own text."""

from dpo_lab.tokenizers import bpe, word
from dpo_lab.tokenizers.base import TOKENIZERS, Tokenizer, TokenizerSpec

__all__ = ["TOKENIZERS", "Tokenizer", "TokenizerSpec", "bpe", "word"]
