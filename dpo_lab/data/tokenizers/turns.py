"""Messages as chat templates read them: each a dictionary, tool calls as objects, the functions on offer apart."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from dpo_lab.data.messages import ASSISTANT, TOOLS, Message

REASONING = ("reasoning_content", "reasoning", "thinking")
ALIASES = dict.fromkeys(REASONING, REASONING)
"""Fields that templates and data call by several names."""


def turns_of(messages: Sequence[Message], parse: bool, null: bool) -> tuple[list[dict[str, Any]], list[Any] | None]:
    """The turns, and the functions that the assistant may call.

    `parse`: with the arguments of calls as objects, where they are JSON text. `null`: an assistant's message without words that
    carries something else has None for content, as OpenAI's interface writes it.
    """
    tools = [tool for message in messages if message.role == TOOLS for tool in json.loads(message.content)]
    return [_turn(message, parse, null) for message in messages if message.role != TOOLS], tools or None


def _turn(message: Message, parse: bool, null: bool) -> dict[str, Any]:
    fields = message.fields()
    reasoning = next((fields[name] for name in REASONING if name in fields), None)
    if reasoning is not None:
        fields = dict.fromkeys(REASONING, reasoning) | fields
    if parse:
        for call in [*_list(fields.get("tool_calls")), fields.get("function_call")]:
            _parse_arguments(call)
    content = None if null and fields and message.role == ASSISTANT and not message.content else message.content
    return {**fields, "role": message.role, "content": content}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _parse_arguments(call: Any) -> None:
    """Put the object in the place of the text that holds it, in a call or in its function."""
    for owner in (call, call.get("function") if isinstance(call, dict) else None):
        if isinstance(owner, dict) and isinstance(owner.get("arguments"), str):
            try:
                value = json.loads(owner["arguments"])
            except ValueError:
                continue
            owner["arguments"] = value if isinstance(value, dict) else owner["arguments"]
