"""Prompts: running text, or a conversation of messages."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

ASSISTANT = "assistant"
TOOLS = "tools"


class Message(NamedTuple):
    """One turn of a conversation."""

    role: str
    """system, user, assistant or tool, as chat templates call them; or tools: the functions on offer, as JSON, no turn."""
    content: str
    more: str = ""
    """What else the message carries (tool calls, reasoning), as a JSON object; "" where that is nothing."""

    def fields(self) -> dict[str, Any]:
        return dict(json.loads(self.more)) if self.more else {}


Prompt = str | tuple[Message, ...]
"""What a completion answers: running text that it continues, or the conversation so far."""
Completion = str | Message
"""Text, or a message of the assistant's that carries more."""


def written(completion: Completion) -> str:
    """A completion or a message as text, with what else it carries as JSON behind its words."""
    if isinstance(completion, str):
        return completion
    return " ".join(part for part in (completion.content, completion.more) if part)


def carried(prompt: Prompt, completions: Sequence[Completion]) -> set[str]:
    """Names of the fields that messages carry besides role and content."""
    messages = [*(prompt if not isinstance(prompt, str) else ()), *(said for said in completions if not isinstance(said, str))]
    return {name for message in messages if message.more for name in message.fields()}


def as_message(completion: Completion) -> Message:
    return Message(ASSISTANT, completion) if isinstance(completion, str) else completion


def as_completion(message: Message) -> Completion:
    return message if message.more else message.content


class UntokenizableError(ValueError):
    """A prompt or completion that cannot become tokens. The message says why, not yet in which row."""


def transcript(messages: Sequence[Message], reply: bool = False) -> str:
    r"""The conversation as plain text, a turn a line: "user: Hello!\nassistant: Hi.".

    `reply`: with the beginning of the assistant's next turn, up to its colon. This is also how a conversation is put to a
    policy whose tokenizer has no chat template.
    """
    turns = [f"{message.role}: {written(message)}" for message in messages]
    return "\n".join([*turns, f"{ASSISTANT}:"] if reply else turns)


def plain(prompt: Prompt) -> str:
    """The prompt as the text that a completion is appended to."""
    return prompt if isinstance(prompt, str) else transcript(prompt, reply=True) + " "
