"""Losses that compare nothing."""

from __future__ import annotations

from typing import Any

from losses.oracles.base import Completion, Oracle, Prompt, aggregated

from dpo_lab.records import Aggregate


def sft(loss: Any, prompts: list[Prompt]) -> list[float]:
    return [one_prompt(loss, prompt.candidates) for prompt in prompts]


def one_prompt(loss: Any, candidates: list[Completion]) -> float:
    if len(candidates) == 1 and not candidates[0].desirable:
        return 0.0
    return -aggregated(loss, candidates[0].policy, min(len(c.policy) for c in candidates))


ORACLES: dict[str, Oracle] = {"sft": sft}

NUMBERS: list[tuple[str, dict[str, Any], float]] = [("sft", {}, 1.5), ("sft", {"aggregate": Aggregate.sum}, 3.0)]
