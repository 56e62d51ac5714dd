"""Judging a policy by its own samples for held-out prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dpo_lab.candidates.sampled import draw, prompts_of, texts_of
from dpo_lab.evaluation.frontier import best_of_n
from dpo_lab.evaluation.policy import sample_metrics
from dpo_lab.portions import largest_portion, without_gradients
from dpo_lab.records import CandidateBatch, Logps
from dpo_lab.rewards import Scorer
from dpo_lab.scoring import Scoring, evaluating, score
from dpo_lab.tokenizers import Tokenizer


@dataclass
class Judge:
    """Compares a policy with the reference on the prompts of `reference_samples` (k reference samples of each)."""

    tokenizer: Tokenizer
    reference: nn.Module
    reference_samples: CandidateBatch
    proxy: Scorer | None
    gold: Scorer | None
    max_tokens: int
    seed: int
    scoring: Scoring = field(default_factory=Scoring)

    def samples(self, policy: nn.Module, num_prompts: int) -> CandidateBatch:
        """One sample of the policy for each of the first prompts."""
        held_out = self.reference_samples.select(torch.arange(num_prompts))
        return draw(
            policy, self.tokenizer, self.proxy, held_out.prompt, held_out.prompt_mask, 1, self.max_tokens, seed=self.seed
        )

    def judge(self, policy: nn.Module, num_prompts: int) -> tuple[dict[str, float], list[dict[str, Any]]]:
        """Metrics over the first `num_prompts` prompts, and for each prompt its samples side by side with their rewards."""
        num_prompts = min(num_prompts, len(self.reference_samples))
        samples = self.samples(policy, num_prompts)
        logps = self._logps(policy, samples)
        gold = None if self.gold is None else self.gold(texts_of(samples, self.tokenizer)[0])
        others = None if self.gold_of_reference is None else self.gold_of_reference[0, :num_prompts]
        metrics = sample_metrics(samples, logps, gold, others)
        if self.reference_samples.scores is not None:
            metrics["proxy/reference"] = float(self.reference_samples.scores[0, :num_prompts].mean())
        shown = self.reference_samples.select(torch.arange(num_prompts))
        texts = [prompts_of(samples, self.tokenizer), *(texts_of(batch, self.tokenizer)[0] for batch in (samples, shown))]
        rows = []
        for i, (prompt, ours, theirs) in enumerate(zip(*texts, strict=True)):
            row: dict[str, Any] = {"prompt": prompt, "policy": ours, "reference": theirs}
            if gold is not None and others is not None:
                row |= {"reward/policy": float(gold[i]), "reward/reference": float(others[i])}
            rows.append(row)
        return metrics, rows

    def best_of_n(self, sizes: Sequence[int]) -> list[dict[str, float | int]]:
        """What choosing among n reference samples would reach; nothing without a reward."""
        if self.gold_of_reference is None or self.reference_samples.scores is None:
            return []
        return [best_of_n(self.reference_samples.scores, self.gold_of_reference, n) for n in sizes]

    @cached_property
    def gold_of_reference(self) -> Float[Tensor, "k b"] | None:
        if self.gold is None:
            return None
        return torch.stack([self.gold(texts) for texts in texts_of(self.reference_samples, self.tokenizer)])

    def rehearse(self, policy: nn.Module) -> None:
        """The largest pass that judging a policy can take: completions of full length, scored for the sake of their memory."""
        held_out, shape = self.reference_samples, (1, len(self.reference_samples), self.max_tokens)
        longest = CandidateBatch(
            prompt=held_out.prompt,
            prompt_mask=held_out.prompt_mask,
            completions=torch.zeros(shape, dtype=torch.long),
            mask=torch.ones(shape, dtype=torch.bool),
            ids=held_out.ids,
            confidence=held_out.confidence,
        )
        self._logps(policy, largest_portion(longest, self.scoring.micro_batch_size, self.scoring.micro_batch_tokens))

    @torch.no_grad()
    def _logps(self, policy: nn.Module, samples: CandidateBatch) -> Logps:
        device = next(policy.parameters()).device
        found = [torch.zeros(samples.mask.shape) for _ in range(2)]
        with evaluating(policy), evaluating(self.reference):
            for rows in without_gradients(samples, self.scoring.micro_batch_size, self.scoring.micro_batch_tokens):
                part = samples.select(rows).to(device)
                for model, scores in zip((policy, self.reference), found, strict=True):
                    real = score(model, part, self.scoring)[part.mask].cpu()
                    scores[:, rows] = scores[:, rows].masked_scatter(samples.mask[:, rows], real)
        return Logps(*found, samples.mask)
