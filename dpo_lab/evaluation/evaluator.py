"""The evaluator: a policy's own samples for held-out prompts, beside those of the reference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dpo_lab.data.tokenizers import Tokenizer
from dpo_lab.evaluation.best_of_n import best_of_n
from dpo_lab.evaluation.errors import prompt_clusters
from dpo_lab.evaluation.ideal import frontier_of, ideal_share
from dpo_lab.evaluation.policy import sample_metrics, win_rates
from dpo_lab.preferences.rewards import Scorer
from dpo_lab.preferences.sampling import draw, prompts_of, texts_of
from dpo_lab.records import CandidateBatch, Logps
from dpo_lab.scoring.logps import Scoring, evaluating, score
from dpo_lab.scoring.micro_batches import largest_micro_batch, split_for_inference


@dataclass
class Evaluation:
    """Result of evaluating a policy: metrics, a row of samples for each prompt, and the tensors that both come from."""

    metrics: dict[str, float]
    rows: list[dict[str, Any]]
    samples: CandidateBatch
    logps: Logps

    def summary(self) -> dict[str, float]:
        """The metrics, and the number of different prompts."""
        return {**self.metrics, "num_prompts": int(prompt_clusters(self.samples)[0].max()) + 1}


@dataclass
class Evaluator:
    """Compares a policy with the reference on the prompts of `reference_samples` (k reference samples of each).

    `proxy` is the reward that training used, `gold` the one that it did not see; both are None where there is no reward.
    """

    tokenizer: Tokenizer
    reference: nn.Module
    reference_samples: CandidateBatch
    proxy: Scorer | None
    gold: Scorer | None
    max_tokens: int
    seed: int
    scoring: Scoring = field(default_factory=Scoring)

    def evaluate(self, policy: nn.Module, num_prompts: int) -> Evaluation:
        """The policy on the first `num_prompts` prompts, one sample each."""
        num_prompts = min(num_prompts, len(self.reference_samples))
        reference = self.reference_samples.select(torch.arange(num_prompts))
        samples = self.samples(policy, num_prompts)
        logps = self._logps(policy, samples)
        texts = texts_of(samples, self.tokenizer)[0]
        gold = None if self.gold is None else self.gold(texts)
        reference_gold = None if self.gold_of_reference is None else self.gold_of_reference[:, :num_prompts]
        metrics = sample_metrics(samples, logps, gold, reference_gold, reference.scores)
        # compare reads from these, whose means are metrics, how far runs share their evaluation's error.
        per_prompt = {"kl": logps.logratios()[0]}
        if gold is not None and reference_gold is not None and samples.scores is not None and reference.scores is not None:
            per_prompt = {"reward/policy": gold, "reward/reference": reference_gold[0], **per_prompt}
            per_prompt |= {"proxy/policy": samples.scores[0], "proxy/reference": reference.scores.mean(dim=0)}
            per_prompt["win_rate"] = win_rates(gold, reference_gold)
        first = replace(reference, completions=reference.completions[:1], mask=reference.mask[:1], scores=None)
        shown = zip(prompts_of(samples, self.tokenizer), texts, texts_of(first, self.tokenizer)[0], strict=True)
        rows = [
            {
                "prompt": prompt,
                "policy": text,
                "reference": reference_text,
                **{name: float(values[i]) for name, values in per_prompt.items()},
            }
            for i, (prompt, text, reference_text) in enumerate(shown)
        ]
        return Evaluation(metrics, rows, samples, logps)

    def samples(self, policy: nn.Module, num_prompts: int) -> CandidateBatch:
        """One sample of the policy for each of the first prompts."""
        held_out = self.reference_samples.select(torch.arange(num_prompts))
        prompts = held_out.prompt, held_out.prompt_mask
        return draw(policy, self.tokenizer, self.proxy, *prompts, 1, self.max_tokens, seed=self.seed, purpose="policy")

    def best_of_n(self, sizes: Sequence[int]) -> list[dict[str, float | int]]:
        """Metrics of choosing the best of n reference samples, for each n; none without a reward."""
        if self.gold_of_reference is None or self.reference_samples.scores is None:
            return []
        clusters = prompt_clusters(self.reference_samples)[0]
        return [best_of_n(self.reference_samples.scores, self.gold_of_reference, n, clusters) for n in sizes]

    def ideal_frontier(self, evaluation: Evaluation, *more: CandidateBatch) -> dict[str, Any]:
        """The best possible proxy reward at each KL, and the share of that gain which the evaluated policy has.

        It is estimated from the reference's samples for the held-out prompts, and from `more` of its samples at temperature 1.
        """
        scores, reference = evaluation.samples.scores, self.reference_samples.scores
        assert scores is not None, "there is no reward"
        assert reference is not None, "there is no reward"
        frontier, clusters = frontier_of(self.reference_samples, *more)
        num, start = len(evaluation.samples), evaluation.metrics["proxy/reference"]
        share = ideal_share(scores[0], evaluation.logps.logratios()[0], reference[:, :num], clusters[:num], frontier)
        points = [{"kl": point.kl, "proxy": start + point.reward} for point in frontier.points]
        return {"ideal_frontier": points, **share.metrics()}

    @cached_property
    def gold_of_reference(self) -> Float[Tensor, "k b"] | None:
        if self.gold is None:
            return None
        return torch.stack([self.gold(texts) for texts in texts_of(self.reference_samples, self.tokenizer)])

    def rehearse(self, policy: nn.Module) -> None:
        """The largest pass that an evaluation can take, on completions of full length: memory that runs out does so here."""
        held_out, shape = self.reference_samples, (1, len(self.reference_samples), self.max_tokens)
        longest = CandidateBatch(
            prompt=held_out.prompt,
            prompt_mask=held_out.prompt_mask,
            completions=torch.zeros(shape, dtype=torch.long),
            mask=torch.ones(shape, dtype=torch.bool),
            ids=held_out.ids,
            confidence=held_out.confidence,
        )
        self._logps(policy, largest_micro_batch(longest, self.scoring.micro_batch_size, self.scoring.micro_batch_tokens))

    @torch.no_grad()
    def _logps(self, policy: nn.Module, samples: CandidateBatch) -> Logps:
        device = next(policy.parameters()).device
        policy_logps, reference_logps = (torch.zeros(samples.mask.shape) for _ in range(2))
        with evaluating(policy), evaluating(self.reference):
            for rows in split_for_inference(samples, self.scoring.micro_batch_size, self.scoring.micro_batch_tokens):
                part = samples.select(rows).to(device)
                for model, logps in ((policy, policy_logps), (self.reference, reference_logps)):
                    real = score(model, part, self.scoring)[part.mask].cpu()
                    logps[:, rows] = logps[:, rows].masked_scatter(samples.mask[:, rows], real)
        return Logps(policy_logps, reference_logps, samples.mask)
