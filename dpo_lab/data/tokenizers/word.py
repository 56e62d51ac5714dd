"""Lower-cased words and punctuation marks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as Backend

from dpo_lab.data.tokenizers.base import SPECIAL, TOKENIZERS, UNKNOWN, Tokenizer, TokenizerSpec


@TOKENIZERS.register
@dataclass
class WordTokenizer(TokenizerSpec):
    """The most frequent lower-cased words, clitics ('s, n't) kept whole; everything else is one unknown token."""

    name: str = "word"
    vocab_size: int = 3000
    """Tokens in all, the special tokens included."""

    def __post_init__(self) -> None:
        if self.vocab_size <= len(SPECIAL):
            raise ValueError(f"tokenizer.vocab_size must be over {len(SPECIAL)}, got {self.vocab_size}")

    def train(self, texts: Iterable[str]) -> Tokenizer:
        backend = Backend(models.WordLevel(unk_token=UNKNOWN))
        backend.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
        words = Regex(r"\w+(?:['-]\w+)*|[^\w\s]")
        backend.pre_tokenizer = pre_tokenizers.Split(words, behavior="removed", invert=True)
        # The WordPiece decoder joins by spaces and closes up punctuation.
        backend.decoder = decoders.WordPiece(prefix="##", cleanup=True)
        trainer = trainers.WordLevelTrainer(vocab_size=self.vocab_size, special_tokens=SPECIAL, show_progress=False)
        backend.train_from_iterator(texts, trainer)
        return Tokenizer(backend)
