"""Prompts: running text, or a conversation of messages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

ASSISTANT = "assistant"


class Message(NamedTuple):
    """One turn of a conversation."""

    role: str
    """system, user or assistant, as chat templates call them."""
    content: str


Prompt = str | tuple[Message, ...]
"""What a completion answers: running text that it continues, or the conversation so far."""


class UntokenizableError(ValueError):
    """A prompt or completion that cannot become tokens. The message says why, not yet in which row."""


def transcript(messages: Sequence[Message], reply: bool = False) -> str:
    r"""The conversation as plain text, a turn a line: "user: Hello!\nassistant: Hi.".

    `reply`: with the beginning of the assistant's next turn, up to its colon. This is also how a conversation is put to a
    policy whose tokenizer has no chat template.
    """
    turns = [f"{message.role}: {message.content}" for message in messages]
    return "\n".join([*turns, f"{ASSISTANT}:"] if reply else turns)


def plain(prompt: Prompt) -> str:
    """The prompt as the text that a completion is appended to."""
    return prompt if isinstance(prompt, str) else transcript(prompt, reply=True) + " "
