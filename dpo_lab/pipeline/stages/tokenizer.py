"""The tokenizer, where none comes with the model."""

from __future__ import annotations

from itertools import chain
from pathlib import Path

from dpo_lab.artifacts.store import Key
from dpo_lab.data.tokenizers import Tokenizer
from dpo_lab.pipeline.stages.text import Text


def fitted_tokenizer(text: Text) -> tuple[Tokenizer, Key]:
    """A tokenizer fitted to the text, and its artifact's key."""
    spec = text.study.tokenizer

    def build(directory: Path) -> None:
        spec.train(chain(text.corpus.text, text.corpus.fragments)).save(directory)

    with text.context.stage("tokenizer", spec.name) as stage:
        path, key = text.artifact(stage, "tokenizer", {"text": text.key, "tokenizer": spec}, build, text.code(spec))
        tokenizer = Tokenizer.load(path)
        stage.detail = f"{spec.name}, {tokenizer.vocab_size:,} tokens"
    return tokenizer, key
