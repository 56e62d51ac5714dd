"""Conversations in data files: lists of messages in two dialects, and Human/Assistant transcripts."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from dpo_lab.data.formats.values import BadRowError, short, text
from dpo_lab.data.messages import ASSISTANT, Completion, Message, as_completion

ROLES = {
    ASSISTANT: ("assistant", "gpt", "chatgpt", "model", "bot", "ai", "chosen", "rejected", "function_call", "tool_call"),
    "user": ("user", "human", "prompter"),
    "system": ("system", "developer"),
    "tool": ("tool", "observation", "function", "function_response", "tool_response", "tool_result", "ipython"),
}
KNOWN_ROLES = {name: role for role, names in ROLES.items() for name in names}
DIALECTS = (("role", "content"), ("from", "value"))
"""Names of the fields for speaker and text: OpenAI's and ShareGPT's."""
CONTENTS = tuple(content for _, content in DIALECTS)
SPEAKING = frozenset(("tool_calls", "function_call", "reasoning_content", "reasoning", "thinking"))
"""Fields of a message by which it says something without words."""
TEXT_PARTS = ("text", "input_text", "output_text")
TURN = re.compile(r"(?:^|\n\n)(Human|Assistant):")


def is_conversation(value: Any) -> bool:
    """Whether the value is meant as messages: one, or a list of them."""
    first = value[0] if isinstance(value, list) and value else value
    return isinstance(first, Mapping) and any(speaker in first for speaker, _ in DIALECTS)


def conversation(value: Any, name: str) -> tuple[Message, ...]:
    """The messages of a conversation: one, or a list of at least one."""
    rows = value if isinstance(value, list) else [value]
    if not rows:
        raise BadRowError(f"'{name}' must hold at least one message, found []")
    return tuple(_message(row, f"{name}[{i}]" if isinstance(value, list) else name) for i, row in enumerate(rows))


def _message(row: Any, name: str) -> Message:
    if not isinstance(row, Mapping):
        raise BadRowError(f"'{name}' must be a message with role and content, or from and value; found {type(row).__name__}")
    row = {field: value for field, value in row.items() if value is not None} or row
    for speaker, content in DIALECTS:
        if speaker in row:
            role = row[speaker]
            if not isinstance(role, str) or role.lower() not in KNOWN_ROLES:
                raise BadRowError(f"'{name}.{speaker}' must be one of {', '.join(KNOWN_ROLES)}; found {short(role)}")
            content = next((field for field in (content, *CONTENTS) if field in row), content)
            return _filled(KNOWN_ROLES[role.lower()], row, speaker, content, name)
    raise BadRowError(f"'{name}' has neither 'role' nor 'from'; found {short(sorted(map(str, row)))}")


def _filled(role: str, row: Mapping[str, Any], speaker: str, content: str, name: str) -> Message:
    """The message with everything that its row carries. It may go without words where it carries a call or reasoning."""
    rest = {str(field): row[field] for field in sorted(row, key=str) if field not in (speaker, content)}
    rest = {field: value for field, value in rest.items() if value not in ("", [], {})}
    more = text(json.dumps(rest, ensure_ascii=False, default=str), f"{name}") if rest else ""
    if content not in row and SPEAKING & rest.keys():
        return Message(role, "", more)
    return Message(role, _content(row.get(content), f"{name}.{content}", role), more)


def _content(value: Any, name: str, role: str) -> str:
    """A message's text, which may be a list of parts; a tool's result may be any JSON."""
    is_parts = isinstance(value, list) and all(map(_is_text, value))
    if role == "tool" and not is_parts and not isinstance(value, str | None):
        return text(json.dumps(value, ensure_ascii=False, default=str), name)
    if not isinstance(value, list):
        return text(value, name)
    texts = []
    for part in value:
        if not _is_text(part):
            raise BadRowError(f"'{name}' must be text, found a part {short(part)}")
        texts.append(
            part
            if isinstance(part, str)
            else next((part[field] for field in ("text", "value") if part.get(field) is not None), None)
        )
    return "".join(text(part, name) for part in texts)


def _is_text(part: Any) -> bool:
    if isinstance(part, Mapping):
        return part.get("type", "text") in TEXT_PARTS and ("text" in part or "value" in part)
    return isinstance(part, str)


def is_transcript(value: Any) -> bool:
    return isinstance(value, str) and value.lstrip().startswith("Human:")


def from_transcript(value: str, name: str) -> tuple[Message, ...]:
    r"""The turns of "\n\nHuman: ... \n\nAssistant: ..." (Bai et al. 2022, arXiv:2204.05862), without white space around."""
    before, *parts = TURN.split(text(value, name).lstrip("\n "))
    if before or not parts:
        raise BadRowError(f"'{name}' must begin with Human: or Assistant:, found {short(value)}")
    speakers, contents = parts[::2], parts[1::2]
    return tuple(
        Message("user" if speaker == "Human" else ASSISTANT, content.strip())
        for speaker, content in zip(speakers, contents, strict=True)
    )


def split_last(sides: Sequence[Sequence[Message]]) -> tuple[tuple[Message, ...], tuple[Completion, ...]]:
    """The history that all sides share, and the last turn of each, which must be the assistant's.

    Raises BadRowError for sides that differ before their last turn: only that can be compared.
    """
    for side in sides:
        if side[-1].role != ASSISTANT:
            raise BadRowError(f"the last message must be the assistant's, found the {side[-1].role}'s")
    history = tuple(sides[0][:-1])
    if any(tuple(side[:-1]) != history for side in sides):
        at = next(i for i, turns in enumerate(zip(*sides, strict=False)) if len(set(turns)) > 1)
        raise BadRowError(f"the sides part at message {at + 1}, before their last turn; only the last turn can be compared")
    if not history:
        raise BadRowError("nothing is said before the assistant's answer; expected a prompt")
    return history, tuple(as_completion(side[-1]) for side in sides)
