"""Sample from a trained policy."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn

from dpo_lab.models.policies import starting_policy
from dpo_lab.pipeline.base import RUNNERS, RunnerSpec
from dpo_lab.pipeline.context import Context
from dpo_lab.pipeline.study import Study
from dpo_lab.preferences.batches import padded
from dpo_lab.preferences.sampling import draw, texts_of

USUAL_TOKENS = 32
"""Sampled at most, where nothing else is asked for."""


@RUNNERS.register
@dataclass
class SampleRunner(RunnerSpec):
    """Completions of one prompt by the policy at `model.path`."""

    name: str = "sample"
    prompt: str = ""
    """Text to continue."""
    num_samples: int = 4
    """Completions to draw."""
    max_tokens: int | None = None
    """Most tokens of a completion. None: 32, or what the model's context leaves if that is less."""
    temperature: float = 1.0
    """Divides the logits: 1 samples the policy itself, 0 takes the likeliest token each time."""

    trains: ClassVar[bool] = False
    reads: ClassVar[tuple[str, ...] | None] = ("model", "seed")

    def __post_init__(self) -> None:
        if self.num_samples < 1 or (self.max_tokens is not None and self.max_tokens < 1):
            raise ValueError(
                f"runner.num_samples and runner.max_tokens must be at least 1, got {self.num_samples} and {self.max_tokens}"
            )
        if not 0 <= self.temperature < math.inf:
            raise ValueError(f"runner.temperature must be >= 0 and finite, got {self.temperature}")

    def check(self, study: Study) -> None:
        if study.model.weights() is None:
            raise ValueError("runner=sample needs a trained policy: model=checkpoint model.path=RUN_DIRECTORY")

    def run(self, context: Context) -> dict[str, Any]:
        loaded = starting_policy(context.study.model)
        assert loaded is not None, "checked"
        policy, _ = loaded
        device = context.study.compute.torch_device
        starts = padded([policy.tokenizer.encode_prompt(self.prompt)])
        samples = draw(
            policy.module.to(device),
            policy.tokenizer,
            None,
            *starts,
            self.num_samples,
            self._most_tokens(policy.module, starts[0].shape[1]),
            temperature=self.temperature,
            seed=context.study.seed,
            purpose="sample",
        )
        texts = [texts[0] for texts in texts_of(samples, policy.tokenizer)]
        for text in texts:
            context.console.note(text)
        context.run.write_samples([{"prompt": self.prompt, "policy": text} for text in texts])
        return {"num_samples": len(texts)}

    def _most_tokens(self, model: nn.Module, prompt_tokens: int) -> int:
        """How many tokens are sampled. Raises ValueError where the context has no room for so many behind the prompt."""
        context = getattr(model, "max_seq_len", None)
        room = USUAL_TOKENS if context is None else context - prompt_tokens + 1  # the last token is not read
        if context is not None and room < (self.max_tokens or 1):
            raise ValueError(
                f"runner.prompt has {prompt_tokens} tokens, and the model's context of {context} leaves room for "
                f"{max(room, 0)} more, not {self.max_tokens or 1}: give a shorter prompt, or a smaller runner.max_tokens"
            )
        return self.max_tokens or min(USUAL_TOKENS, room)
