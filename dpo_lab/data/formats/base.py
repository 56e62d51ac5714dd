"""The formats of rows: which fields hold what. Detected from the first row, or chosen with data.format."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from enum import Enum
from typing import Any

from dpo_lab.data.base import Feedback
from dpo_lab.data.formats.conversations import is_conversation, is_transcript
from dpo_lab.data.formats.fields import context_of
from dpo_lab.data.formats.pairs import read_chat_pair, read_text_pair, read_transcript_pair
from dpo_lab.data.formats.rankings import read_ranking
from dpo_lab.data.formats.unpaired import read_unpaired
from dpo_lab.data.formats.values import BadRowError, short


class Format(Enum):
    """The format of a row.

    text: prompt, chosen, rejected are strings; without a prompt it is the words that both sides begin with. chat: they are
    messages, and the prompt may be part of both sides. transcript: both sides are "Human: ... Assistant: ..." from the
    beginning. ranking: prompt and a list of completions, best first or scored. unpaired: prompt, completion (or a
    conversation), and a label that says whether it is desirable. auto: by the first row's fields.
    """

    auto = "auto"
    text = "text"
    chat = "chat"
    transcript = "transcript"
    ranking = "ranking"
    unpaired = "unpaired"


EXPECTED = "prompt, chosen, rejected (a pair), or prompt, completion, label, or prompt, completions (a ranking)"
LABELS = ("confidence", "score_chosen", "score_rejected", "ratings_chosen", "ratings_rejected", "margin")
"""Fields with numbers that label a pair."""
PAIR = ("prompt", "conversations", "chosen", "rejected", "system", "tools", *LABELS)
FIELDS = {
    Format.text: PAIR,
    Format.chat: PAIR,
    Format.transcript: PAIR,
    Format.ranking: ("prompt", "conversations", "completions", "system", "tools", "scores", "ranks", "ratings"),
    Format.unpaired: ("prompt", "conversations", "messages", "completion", "system", "tools", "label"),
}
"""The fields that each format reads; others are counted and named."""


def detect(fields: Mapping[str, Any]) -> Format:
    """The format of a row by its fields that are not null. Raises BadRowError where they fit none, or two."""
    fitting = _fitting({name: value for name, value in fields.items() if value is not None}) or _fitting(fields)
    if len(fitting) > 1:
        raise BadRowError(f"fields of {' and of '.join(f.name for f in fitting)}; say which with data.format=")
    if not fitting:
        raise BadRowError(
            f"expected {EXPECTED}; found {short(sorted(fields))}; name the columns with data.columns={{prompt: ...}}"
        )
    return fitting[0]


def _fitting(fields: Mapping[str, Any]) -> list[Format]:
    fitting = []
    if "chosen" in fields or "rejected" in fields:
        fitting.append(_pair_format(fields))
    if "completions" in fields:
        fitting.append(Format.ranking)
    if "completion" in fields or ("label" in fields and ("messages" in fields or "conversations" in fields)):
        fitting.append(Format.unpaired)
    return fitting


def _pair_format(fields: Mapping[str, Any]) -> Format:
    context = context_of(fields)
    sides = [fields.get(name) for name in ("chosen", "rejected")]
    if is_conversation(context) or any(isinstance(side, list | Mapping) for side in sides):
        return Format.chat
    return Format.transcript if context is None and all(map(is_transcript, sides)) else Format.text


READERS: dict[Format, Callable[[Mapping[str, Any]], Feedback]] = {
    Format.text: read_text_pair,
    Format.chat: read_chat_pair,
    Format.transcript: read_transcript_pair,
    Format.ranking: read_ranking,
    Format.unpaired: read_unpaired,
}


def read_row(form: Format, fields: Mapping[str, Any]) -> Feedback:
    """The feedback in a row of that format. Raises BadRowError with what is wrong with it."""
    return READERS[form](fields)


def unread(form: Format, fields: Mapping[str, Any]) -> Iterator[str]:
    """Fields of a row that its format does not read."""
    return (name for name in fields if name not in FIELDS[form])
