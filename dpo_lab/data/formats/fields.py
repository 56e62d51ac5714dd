"""Fields that all formats share: the prompt, a system message, a completion's text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dpo_lab.data.formats.conversations import conversation, is_conversation
from dpo_lab.data.formats.values import BadRowError, required, text
from dpo_lab.data.messages import ASSISTANT, Message, Prompt


def context_of(fields: Mapping[str, Any]) -> Any:
    """The prompt as it is in the row; None where there is none."""
    return next((fields[name] for name in ("prompt", "conversations") if fields.get(name) is not None), None)


def with_system(fields: Mapping[str, Any], prompt: Prompt) -> Prompt:
    """With a field `system`, the prompt as a conversation that begins with that system message, unless it is empty."""
    if fields.get("system") is None:
        return prompt
    system = text(fields["system"], "system")
    messages = (Message("user", prompt),) if isinstance(prompt, str) else prompt
    return (Message("system", system), *messages) if system and messages[0].role != "system" else messages


def prompt_of(fields: Mapping[str, Any]) -> Prompt:
    """Text, or the conversation so far."""
    value = context_of(fields)
    if value is None:
        value = required(fields, "prompt")
    prompt = text(value, "prompt") if isinstance(value, str) else conversation(value, "prompt")
    return with_system(fields, prompt)


def answer(value: Any, name: str) -> str:
    """A completion's text, which may be written as a single message of the assistant's."""
    if not is_conversation(value):
        return text(value, name)
    messages = conversation(value, name)
    if len(messages) != 1 or messages[0].role != ASSISTANT:
        raise BadRowError(f"'{name}' must be one message of the assistant's, found {', '.join(m.role for m in messages)}")
    return messages[0].content
