"""Fields that all formats share: the prompt, a system message, a completion's text."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from dpo_lab.data.formats.conversations import conversation, is_conversation
from dpo_lab.data.formats.values import BadRowError, required, short, text
from dpo_lab.data.messages import ASSISTANT, TOOLS, Completion, Message, Prompt, as_completion


def context_of(fields: Mapping[str, Any]) -> Any:
    """The prompt as it is in the row; None where there is none."""
    return next((fields[name] for name in ("prompt", "conversations") if fields.get(name) is not None), None)


def with_opening(fields: Mapping[str, Any], prompt: Prompt) -> Prompt:
    """With fields `system` or `tools`, the prompt as a conversation that begins with these, unless they are empty."""
    tools = _tools(fields.get("tools"))
    if fields.get("system") is None and not tools:
        return prompt
    system = text(fields.get("system") or "", "system")
    messages = (Message("user", prompt),) if isinstance(prompt, str) else prompt
    if system and messages[0].role != "system":
        messages = (Message("system", system), *messages)
    return (*(Message(TOOLS, tool) for tool in tools), *messages)


def _tools(value: Any) -> list[str]:
    """The functions that the assistant may call, as a JSON list, if there are any; they may be given as JSON text."""
    try:
        tools = json.loads(value) if isinstance(value, str) and value.strip() else value
    except (ValueError, RecursionError) as error:
        raise BadRowError(f"'tools' must be a list of functions, or one as JSON, found {short(value)}") from error
    if isinstance(tools, Mapping):
        tools = [tools]
    if not isinstance(tools, list | None) and tools != "":
        raise BadRowError(f"'tools' must be a list of functions, or one as JSON, found {short(value)}")
    return [text(json.dumps(tools, ensure_ascii=False, default=str), "tools")] if tools else []


def prompt_of(fields: Mapping[str, Any]) -> Prompt:
    """Text, or the conversation so far."""
    value = context_of(fields)
    if value is None:
        value = required(fields, "prompt")
    prompt = text(value, "prompt") if isinstance(value, str) else conversation(value, "prompt")
    return with_opening(fields, prompt)


def answer(value: Any, name: str) -> Completion:
    """A completion's text, which may be written as a single message of the assistant's."""
    if not is_conversation(value):
        return text(value, name)
    messages = conversation(value, name)
    if len(messages) != 1 or messages[0].role != ASSISTANT:
        raise BadRowError(f"'{name}' must be one message of the assistant's, found {', '.join(m.role for m in messages)}")
    return as_completion(messages[0])
