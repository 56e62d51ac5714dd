"""Prompts that the completions repeat, and prompts that are not what the conversation says."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from dpo_lab.data.base import Feedback
from dpo_lab.data.messages import Message

TAKEN_OFF = "begin every completion with the prompt again, which is taken off (data.repeated_prompt=keep leaves it there)"
LEFT = "begin every completion with the prompt again, which is left there: it is scored with the answer"
IN_SOME = "begin one completion with the prompt again, and not the other: the prompt is scored there"
DISAGREES = "have a 'prompt' that their messages do not say: it is not read"
FEWEST_WORDS = 3
"""Of a prompt that is taken off: shorter ones, such as a greeting, are also repeated by good answers."""


def prompt_once(row: Feedback, keep: bool) -> tuple[Feedback, str | None]:
    """The row without prompts that its completions begin with again, and what to tell the user about it.

    Of a conversation the prompt is the last user's words. White space need not agree.
    """
    text = row.prompt if isinstance(row.prompt, str) else row.prompt[-1].content
    if not text.strip():
        return row, None
    texts = [side for side in row.completions if isinstance(side, str)]  # a message that carries more is left as it is
    rests = [_after(text, side) for side in texts]
    if len(texts) < len(row.completions) or None in rests:
        return row, IN_SOME if any(rest is not None for rest in rests) and len(text.split()) >= FEWEST_WORDS else None
    if keep or len(text.split()) < FEWEST_WORDS:
        return row, LEFT
    is_text = isinstance(row.prompt, str)
    return replace(row, completions=tuple(rest if is_text else rest.lstrip() for rest in rests if rest is not None)), TAKEN_OFF


def _after(prompt: str, side: str) -> str | None:
    """What stands behind the prompt in a text that begins with it; None where it does not, or ends within a word."""
    if side.startswith(prompt):
        end = len(prompt)
    else:
        found = re.match(r"\s*" + r"\s+".join(map(re.escape, prompt.split())), side)
        if found is None:
            return None
        end = found.end()
        if prompt[-1].isspace():
            end += len(side[end:]) - len(side[end:].lstrip())
    if prompt[-1].isalnum() and side[end : end + 1].isalnum():
        return None
    return side[end:]


def disagreement(fields: Mapping[str, Any], prompt: str | tuple[Message, ...]) -> str | None:
    """What to tell the user of a prompt given as text beside a conversation that does not hold it."""
    given = fields.get("prompt")
    if not isinstance(given, str) or isinstance(prompt, str) or not given.strip():
        return None
    words = " ".join(given.split())
    said = (" ".join(message.content.split()) for message in prompt if message.content.strip())
    return None if any(words in text or text in words for text in said) else DISAGREES
