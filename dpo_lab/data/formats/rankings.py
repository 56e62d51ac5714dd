"""Rows with a list of completions of one prompt: best first, scored, ranked or rated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dpo_lab.data.base import Feedback
from dpo_lab.data.formats.conversations import is_conversation
from dpo_lab.data.formats.fields import answer, prompt_of
from dpo_lab.data.formats.values import BadRowError, beats, number, numbers, required, short, text
from dpo_lab.data.messages import Prompt

WORDS = ("text", "response", "answer", "completion", "content", "value")
SCORES = ("score", "overall_score", "rating", "reward")
"""In rankings whose completions are objects: where their text and score stand, the first that is there."""


def read_ranking(fields: Mapping[str, Any]) -> Feedback:
    prompt, given = prompt_of(fields), required(fields, "completions")
    if not isinstance(given, list) or len(given) < 2:
        raise BadRowError(f"'completions' must be a list of 2 or more, best first, found {short(given)}")
    completions = tuple(_completion_of(item, f"completions[{i}]") for i, item in enumerate(given))
    if fields.get("ratings") is not None:
        return _rated(prompt, completions, fields["ratings"])
    scores = None
    if fields.get("scores") is not None:
        scores = numbers(fields["scores"], "scores", len(given))
    elif fields.get("ranks") is not None:
        scores = tuple(-rank for rank in numbers(fields["ranks"], "ranks", len(given)))
    elif all(isinstance(item, Mapping) for item in given):
        scores = _scores_of(given)
    return Feedback(prompt, completions, scores=scores)


def _completion_of(item: Any, name: str) -> str:
    if isinstance(item, Mapping) and not is_conversation(item):
        found = next((word for word in WORDS if word in item), None)
        if found is None:
            raise BadRowError(f"'{name}' has none of {', '.join(WORDS)}; found {short(sorted(map(str, item)))}")
        return text(item[found], f"{name}.{found}")
    return answer(item, name)


def _scores_of(items: Sequence[Mapping[str, Any]]) -> tuple[float, ...] | None:
    """Scores, or negative ranks, that stand in all of the completions."""
    for name in (*SCORES, "rank"):
        if all(item.get(name) is not None for item in items):
            sign = -1 if name == "rank" else 1
            return tuple(sign * number(item[name], f"completions[{i}].{name}") for i, item in enumerate(items))
    return None


def _rated(prompt: Prompt, completions: tuple[str, ...], ratings: Any) -> Feedback:
    """By lists of individual ratings: the mean orders them, and of two the ratings say how sure that is."""
    if not isinstance(ratings, list) or len(ratings) != len(completions):
        raise BadRowError(
            f"'ratings' must be a list of {len(completions)} lists, one for each completion, found {short(ratings)}"
        )
    given = [numbers(one, f"ratings[{i}]") for i, one in enumerate(ratings)]
    if len(given) > 2:
        return Feedback(prompt, completions, scores=tuple(sum(one) / len(one) for one in given))
    return Feedback(prompt, completions, confidence=beats(*given))
