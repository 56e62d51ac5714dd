"""Formats of pairs: chosen and rejected as text, as messages, or as transcripts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import Any

from dpo_lab.data.base import Feedback
from dpo_lab.data.formats.conversations import conversation, from_transcript, split_last
from dpo_lab.data.formats.fields import context_of, prompt_of, with_opening
from dpo_lab.data.formats.values import BadRowError, beats, is_number, number, numbers, required, short, text
from dpo_lab.data.messages import ASSISTANT, Completion, Message, Prompt


def read_text_pair(fields: Mapping[str, Any]) -> Feedback:
    sides = [text(required(fields, name), name) for name in ("chosen", "rejected")]
    if context_of(fields) is None and "prompt" not in fields:
        prompt = _shared_words(*sides)
        if not prompt.strip():
            raise BadRowError(
                f"no 'prompt' field, and chosen and rejected do not begin alike; found {short(sorted(fields))}; "
                "name the prompt's column with data.columns={prompt: ...}"
            )
        return _labelled(fields, with_opening(fields, prompt), [side[len(prompt) :] for side in sides])
    return _labelled(fields, prompt_of(fields), sides)


def _shared_words(chosen: str, rejected: str) -> str:
    """The longest common beginning, up to the last white space in it."""
    length = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(chosen, rejected, strict=False)))
    while length and not chosen[length - 1].isspace():
        length -= 1
    return chosen[:length].rstrip()


def read_chat_pair(fields: Mapping[str, Any]) -> Feedback:
    prompt = context_of(fields)
    sides = [_side(required(fields, name), name) for name in ("chosen", "rejected")]
    sides_hold_prompt = all(side[0].role != ASSISTANT for side in sides)
    context: tuple[Message, ...] = ()
    if isinstance(prompt, str) and not sides_hold_prompt:
        context = (Message("user", text(prompt, "prompt")),)
    elif prompt is not None and not isinstance(prompt, str):
        context = conversation(prompt, "prompt")
        if sides_hold_prompt:
            context = context[: len(context) - _num_repeated(context, sides)]
    history, answers = split_last([(*context, *side) for side in sides])
    return _labelled(fields, with_opening(fields, history), answers)


def _num_repeated(context: Sequence[Message], sides: Sequence[Sequence[Message]]) -> int:
    """Messages at the end of the prompt with which all sides begin again."""
    counts = range(len(context), 0, -1)
    return next((n for n in counts if all(tuple(side[:n]) == tuple(context[-n:]) for side in sides)), 0)


def _side(value: Any, name: str) -> tuple[Message, ...]:
    return (Message(ASSISTANT, text(value, name)),) if isinstance(value, str) else conversation(value, name)


def read_transcript_pair(fields: Mapping[str, Any]) -> Feedback:
    sides = [from_transcript(text(required(fields, name), name), name) for name in ("chosen", "rejected")]
    history, answers = split_last(sides)
    return _labelled(fields, with_opening(fields, history), answers)


def _labelled(fields: Mapping[str, Any], prompt: Prompt, sides: Sequence[Completion]) -> Feedback:
    """The pair with its labels: confidence or ratings, scores, margin."""
    confidence = 1.0 if fields.get("confidence") is None else fields["confidence"]
    if not is_number(confidence, 0.5, 1.0):
        raise BadRowError(f"'confidence' must be a number in [0.5, 1], found {short(confidence)}")
    if any(fields.get(f"ratings_{side}") is not None for side in ("chosen", "rejected")):
        chosen, rejected = (numbers(required(fields, name), name) for name in ("ratings_chosen", "ratings_rejected"))
        confidence = beats(chosen, rejected)
    scores = None
    if any(fields.get(f"score_{side}") is not None for side in ("chosen", "rejected")):
        scores = tuple(number(required(fields, name), name) for name in ("score_chosen", "score_rejected"))
    margin = None if fields.get("margin") is None else number(fields["margin"], "margin")
    return Feedback(prompt, tuple(sides), confidence=float(confidence), scores=scores, margin=margin)
