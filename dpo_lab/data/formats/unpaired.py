"""The format of single completions: one completion, and whether it is desirable."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dpo_lab.data.base import Feedback
from dpo_lab.data.formats.conversations import conversation, is_conversation, split_last
from dpo_lab.data.formats.fields import answer, prompt_of, with_opening
from dpo_lab.data.formats.values import required, truth


def read_unpaired(fields: Mapping[str, Any]) -> Feedback:
    """The completion is a field of its own, or the last message of a conversation."""
    label = truth(required(fields, "label"), "label")
    completion = fields.get("completion")
    if completion is not None and not (fields.get("prompt") is None and is_conversation(completion)):
        return Feedback(prompt_of(fields), (answer(completion, "completion"),), desirable=label)
    name = next((name for name in ("completion", "messages", "conversations") if fields.get(name) is not None), "completion")
    history, answers = split_last([conversation(required(fields, name), name)])
    return Feedback(with_opening(fields, history), answers, desirable=label)
