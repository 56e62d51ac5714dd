"""Text to token ids and back, by the `tokenizers` library."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from tokenizers import Tokenizer as Backend

from dpo_lab.registry import Registry

START, END, UNKNOWN = "<s>", "</s>", "<unk>"
SPECIAL = [START, END, UNKNOWN]

FILE = "tokenizer.json"


class Tokenizer:
    """A trained tokenizer. A prompt begins with the start token; a finished completion ends with the end token."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        backend.encode_special_tokens = True  # "</s>" in a text is text
        self.start, self.end, self.unknown = (self._special(token) for token in SPECIAL)

    @property
    def vocab_size(self) -> int:
        return self.backend.get_vocab_size()

    def encode(self, text: str) -> list[int]:
        return self.encode_many([text])[0]

    def encode_many(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text alone: no start token, no end token."""
        return [encoding.ids for encoding in self.backend.encode_batch_fast(list(texts), add_special_tokens=False)]

    def encode_candidates(self, prompt: str, completions: Sequence[str]) -> tuple[list[int], list[list[int]]]:
        """Ids of the prompt, start token first, and of each completion, end token last.

        Prompt and completion are tokenised together and cut where all candidates and the prompt still agree, so that no
        token is one that the model would never see in running text.
        """
        alone, *joint = self.encode_many([prompt, *(prompt + completion for completion in completions)])
        agreeing = takewhile(lambda column: len(set(column)) == 1, zip(alone, *joint, strict=False))
        cut = sum(1 for _ in agreeing)
        return [self.start, *alone[:cut]], [[*ids[cut:], self.end] for ids in joint]

    def decode(self, ids: Iterable[int]) -> str:
        return self.decode_many([list(ids)])[0]

    def decode_many(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """Text of each row of ids, without start and end tokens."""
        hidden = {self.start, self.end}
        return self.backend.decode_batch([[i for i in row if i not in hidden] for row in rows], skip_special_tokens=False)

    def save(self, directory: Path) -> None:
        self.backend.save(str(directory / FILE))

    @classmethod
    def load(cls, directory: Path) -> Tokenizer:
        return cls(Backend.from_file(str(directory / FILE)))

    def _special(self, token: str) -> int:
        found = self.backend.token_to_id(token)
        if found is None:
            raise ValueError(f"the tokenizer has no token {token}")
        return found


@dataclass
class TokenizerSpec:
    """How a tokenizer is made from the training text."""

    name: str

    def train(self, texts: Iterable[str]) -> Tokenizer:
        raise NotImplementedError


TOKENIZERS: Registry[TokenizerSpec] = Registry("tokenizer")
