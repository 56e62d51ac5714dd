"""The format of rankings: a list of completions of one prompt, best first, scored, ranked or rated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dpo_lab.data.base import Feedback
from dpo_lab.data.formats.conversations import is_conversation
from dpo_lab.data.formats.fields import answer, prompt_of
from dpo_lab.data.formats.values import BadRowError, beats, number, numbers, required, short, text
from dpo_lab.data.messages import Completion, Prompt

TEXTS = ("text", "response", "answer", "completion", "content", "value")
SCORES = ("score", "overall_score", "rating", "reward")
"""Where completions are objects: the fields that may hold their text and their score; the first that is there counts."""


def read_ranking(fields: Mapping[str, Any]) -> Feedback:
    prompt, items = prompt_of(fields), required(fields, "completions")
    if not isinstance(items, list) or len(items) < 2:
        raise BadRowError(f"'completions' must be a list of 2 or more, best first, found {short(items)}")
    completions = tuple(_completion_of(item, f"completions[{i}]") for i, item in enumerate(items))
    if fields.get("ratings") is not None:
        return _rated(prompt, completions, fields["ratings"])
    scores = None
    if fields.get("scores") is not None:
        scores = numbers(fields["scores"], "scores", len(items))
    elif fields.get("ranks") is not None:
        scores = tuple(-rank for rank in numbers(fields["ranks"], "ranks", len(items)))
    elif all(isinstance(item, Mapping) for item in items):
        scores = _scores_of(items)
    return Feedback(prompt, completions, scores=scores)


def _completion_of(item: Any, name: str) -> Completion:
    if isinstance(item, Mapping) and not is_conversation(item):
        field = next((name for name in TEXTS if name in item), None)
        if field is None:
            raise BadRowError(f"'{name}' has none of {', '.join(TEXTS)}; found {short(sorted(map(str, item)))}")
        return text(item[field], f"{name}.{field}")
    return answer(item, name)


def _scores_of(items: Sequence[Mapping[str, Any]]) -> tuple[float, ...] | None:
    """The score, or minus the rank, in each completion; None where some completion has none."""
    for name in (*SCORES, "rank"):
        if all(item.get(name) is not None for item in items):
            sign = -1 if name == "rank" else 1
            return tuple(sign * number(item[name], f"completions[{i}].{name}") for i, item in enumerate(items))
    return None


def _rated(prompt: Prompt, completions: tuple[Completion, ...], ratings: Any) -> Feedback:
    """A ranking by lists of individual ratings: by their means, and for two completions with the confidence they give."""
    if not isinstance(ratings, list) or len(ratings) != len(completions):
        raise BadRowError(
            f"'ratings' must be a list of {len(completions)} lists, one for each completion, found {short(ratings)}"
        )
    per_completion = [numbers(values, f"ratings[{i}]") for i, values in enumerate(ratings)]
    if len(per_completion) > 2:
        return Feedback(prompt, completions, scores=tuple(sum(values) / len(values) for values in per_completion))
    return Feedback(prompt, completions, confidence=beats(*per_completion))
