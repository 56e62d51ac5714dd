"""Tokenizers: text to token ids and back, by the `tokenizers` library."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Backend

from dpo_lab.data.messages import (
    TOOLS,
    Completion,
    Message,
    Prompt,
    UntokenizableError,
    as_message,
    carried,
    transcript,
    written,
)
from dpo_lab.data.tokenizers import files
from dpo_lab.data.tokenizers.chat import OPAQUE, ChatTemplate
from dpo_lab.data.tokenizers.spelling import MARKS, marked
from dpo_lab.data.tokenizers.turn_ends import REPLIES, turn_end
from dpo_lab.registry import Registry

START, END, UNKNOWN = "<s>", "</s>", "<unk>"
SPECIAL = [START, END, UNKNOWN]


class Tokenizer:
    """A trained tokenizer. Prompts begin with the start token, if there is one; finished completions end with an end token.

    The text of a special token is never that token in plain text, and in a conversation only where the chat template put it.
    """

    def __init__(
        self,
        backend: Backend,
        start: str | None = START,
        end: str = END,
        unknown: str | None = UNKNOWN,
        chat_template: str | None = None,
        stops: Collection[int] = (),
    ) -> None:
        self.backend = backend
        backend.encode_special_tokens = True  # "</s>" in a text is text
        backend.no_padding()
        backend.no_truncation()
        self.names = {"bos_token": start, "eos_token": end, "unk_token": unknown}
        self.start, self.unknown = (None if token is None else self._special(token) for token in (start, unknown))
        self.end = self._special(end)
        self.chat_template = chat_template
        self._stops = stops

    @property
    def vocab_size(self) -> int:
        return self.backend.get_vocab_size()

    def fingerprint(self) -> dict[str, Any]:
        """Everything that determines the ids of a text, and where it ends."""
        return {
            "backend": self.backend.to_str(),
            "tokens": self.names,
            "chat_template": self.chat_template,
            "ends": list(self.ends),
        }

    @cached_property
    def ends(self) -> tuple[int, ...]:
        """The tokens that end a completion: the end token first, those of the model's generation settings (of which ordinary
        tokens do not count: any text may hold them), and the one that the chat template ends a turn with.
        """
        added = self.backend.get_added_tokens_decoder().keys()
        ends = dict.fromkeys([self.end, *(i for i in self._stops if i in added)])
        turn = None if self.chat_template is None else turn_end(self.encode_chat, ends, self._specials, added)
        return (*ends, *([] if turn is None else [turn]))

    def encode(self, text: str) -> list[int]:
        return self.encode_many([text])[0]

    def encode_many(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text alone: no start token, no end token."""
        return [encoding.ids for encoding in self.backend.encode_batch_fast(list(texts), add_special_tokens=False)]

    def encode_prompt(self, prompt: Prompt) -> list[int]:
        """Ids of a prompt to sample a completion of: the start token and the text, or the conversation up to the reply.

        Raises ValueError for an empty prompt where there is no start token.
        """
        if isinstance(prompt, str):
            return self._with_start(self.encode(prompt))
        if self._chat is None:
            return self._with_start(self.encode(transcript(prompt, reply=True)))
        return self._asked(prompt)

    def encode_candidates(self, prompt: Prompt, completions: Sequence[Completion]) -> tuple[list[int], list[list[int]]]:
        """Ids of the prompt, start token first, and of each completion, end token last.

        Prompt and completion are tokenised together and cut where all candidates and the prompt still agree, so that no
        token is one that the model would never see in running text. In a conversation a completion is what the assistant says
        next, and ends with the token by which the chat template ends a turn; what the template writes after that is left out.
        """
        if not isinstance(prompt, str):
            if self._chat is not None:
                return self._chat_candidates(prompt, completions)
            prompt, completions = transcript(prompt, reply=True), [f" {written(said)}" for said in completions]
        alone, *joint = self.encode_many([prompt, *(prompt + written(completion) for completion in completions)])
        cut = _common_length([alone, *joint])
        return self._with_start(alone[:cut]), [[*ids[cut:], self.end] for ids in joint]

    def encode_chat(self, messages: Sequence[Message], reply: bool = False) -> list[int]:
        """Ids of a conversation as the chat template lays it out; `reply`: with the beginning of the assistant's next turn.

        They are those of transformers' `apply_chat_template`, but that the text of a special token in a message stays text.
        """
        if self._chat is None:
            raise ValueError("the tokenizer has no chat template")
        text, marked = self._chat.render_marked(messages, self._hide, reply)
        self.backend.encode_special_tokens = False
        try:
            encoding = self.backend.encode(text, add_special_tokens=False)
        finally:
            self.backend.encode_special_tokens = True
        ids: list[int] = []
        for i, (first, after) in zip(encoding.ids, encoding.offsets, strict=True):
            ids += self.encode(text[first:after]) if i in self._specials and OPAQUE in marked[first:after] else [i]
        return ids

    def unread(self, prompt: Prompt, completions: Sequence[Completion]) -> set[str]:
        """Names of fields that these messages carry and the chat template does not read. Without one all are written out."""
        if isinstance(prompt, str) or self._chat is None:
            return set()
        names = carried(prompt, completions) | {TOOLS for message in prompt if message.role == TOOLS}
        return {name for name in names if not self._chat.reads(name)}

    def decode(self, ids: Iterable[int]) -> str:
        return self.decode_many([list(ids)])[0]

    def decode_many(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """Text of each row of ids, without start and end tokens."""
        hidden = {self.start, *self.ends}
        return self.backend.decode_batch([[i for i in row if i not in hidden] for row in rows], skip_special_tokens=False)

    def spelled(self, ids: Sequence[int]) -> str:
        """Text of the ids, start and end tokens included."""
        return self.backend.decode(list(ids), skip_special_tokens=False)

    def pieces(self, ids: Sequence[int], after: Sequence[int] = ()) -> list[str]:
        """The text that each id adds. Ids within a character add none, the one that completes it adds it whole."""
        pieces, before = [], self.spelled(after)
        for end in range(1, len(ids) + 1):
            text = self.spelled([*after, *ids[:end]])
            whole = end == len(ids) or not text.endswith("\N{REPLACEMENT CHARACTER}")
            pieces.append(text[len(before) :] if whole else "")
            before = text if whole else before
        return pieces

    def told_apart(self, ids: Sequence[int], after: Sequence[int] = ()) -> list[str]:
        r"""The pieces, with a backslash before the text of a special token that is spelled in characters: "\</s>"."""
        return marked(self.pieces(ids, after), [i in self._specials for i in ids], self._special_texts)

    def spelled_in(self, text: str) -> set[str]:
        """Special tokens, and other marks of widespread chat templates, that the text spells in characters."""
        return {*self._special_texts.findall(text), *(mark for mark in MARKS if mark in text)}

    def save(self, directory: Path) -> None:
        """Write the files that `transformers.AutoTokenizer` loads: tokenizer.json and tokenizer_config.json."""
        files.write(directory, self.backend, self.names, self.chat_template, self.ends)

    @classmethod
    def load(cls, directory: Path) -> Tokenizer:
        """The tokenizer in a directory of Hugging Face's files. Raises ValueError for one that cannot be used."""
        backend, names, chat_template = files.read(directory)
        start, end, unknown = names.get("bos_token"), names.get("eos_token") or END, names.get("unk_token")
        return cls(backend, start, end, unknown, chat_template, files.stops(directory))

    def _with_start(self, ids: list[int]) -> list[int]:
        if self.start is not None:
            return [self.start, *ids]
        if not ids:
            raise UntokenizableError(
                "an empty prompt, and the tokenizer has no start token: nothing would predict the first token"
            )
        return ids

    def _chat_candidates(
        self, prompt: tuple[Message, ...], completions: Sequence[Completion]
    ) -> tuple[list[int], list[list[int]]]:
        alone = self._asked(prompt)
        joint = [self.encode_chat([*prompt, as_message(said)]) for said in completions]
        cut = _common_length([alone, *joint])
        if cut == 0:
            raise UntokenizableError(
                "the chat template puts nothing before the assistant's words that would predict the first token"
            )
        return alone[:cut], [self._up_to_end(ids[cut:]) for ids in joint]

    def _asked(self, prompt: tuple[Message, ...]) -> list[int]:
        """Ids of a conversation up to the assistant's words: with the header before them, where the template knows of no prompt
        to generate from and writes one with a special token.
        """
        alone = self.encode_chat(prompt, reply=True)
        if self._chat is None or "add_generation_prompt" in self._chat.source:
            return alone
        try:
            opened = _common_length(rows := [self.encode_chat([*prompt, reply]) for reply in REPLIES])
        except ValueError:  # a template that refuses this reply may take another
            return alone
        more = rows[0][len(alone) : opened]
        return alone + more if rows[0][: len(alone)] == alone and self._specials.intersection(more) else alone

    def _up_to_end(self, ids: list[int]) -> list[int]:
        """The ids up to the first end token, or else to the last special token; with an end token where there is neither."""
        for i, token in enumerate(ids):
            if token in self.ends:
                return ids[: i + 1]
        last = max((i for i, token in enumerate(ids) if token in self._specials), default=None)
        return [*ids, self.end] if last is None else ids[: last + 1]

    def _hide(self, text: str) -> str:
        """The text with the text of special tokens made opaque."""
        return self._special_texts.sub(lambda match: OPAQUE * len(match.group()), text)

    @cached_property
    def _chat(self) -> ChatTemplate | None:
        if self.chat_template is None:
            return None
        return ChatTemplate(self.chat_template, {name: token for name, token in self.names.items() if token is not None})

    @cached_property
    def _specials(self) -> frozenset[int]:
        return frozenset(i for i, token in self.backend.get_added_tokens_decoder().items() if token.special)

    @cached_property
    def _special_texts(self) -> re.Pattern[str]:
        """The longest first: one may begin with another. In any case: some tokenizers normalise before they look for them."""
        added = self.backend.get_added_tokens_decoder().values()
        texts = sorted((token.content for token in added if token.special), key=len, reverse=True)
        return re.compile("|".join(map(re.escape, texts)) or "(?!)", re.IGNORECASE)

    def _special(self, token: str) -> int:
        token_id = self.backend.token_to_id(token)
        if token_id is None:
            raise ValueError(f"the tokenizer has no token {token}")
        return token_id


def _common_length(rows: Sequence[Sequence[int]]) -> int:
    """The number of first ids that all rows share."""
    return sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, zip(*rows, strict=False)))


@dataclass
class TokenizerSpec:
    """A kind of tokenizer, trained on the study's text."""

    name: str

    def train(self, texts: Iterable[str]) -> Tokenizer:
        raise NotImplementedError


TOKENIZERS: Registry[TokenizerSpec] = Registry("tokenizer", "dpo_lab.data.tokenizers")
