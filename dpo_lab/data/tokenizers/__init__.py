"""Tokenizers: trained on the run's own text, or read from a directory."""

from dpo_lab.data.tokenizers.base import TOKENIZERS, Tokenizer, TokenizerSpec

__all__ = ["TOKENIZERS", "Tokenizer", "TokenizerSpec"]
