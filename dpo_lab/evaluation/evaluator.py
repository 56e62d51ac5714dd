"""Judging a policy by its own samples for held-out prompts."""

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
from dpo_lab.evaluation.ideal import IdealShare, frontier_of, ideal_share
from dpo_lab.evaluation.policy import sample_metrics, wins
from dpo_lab.preferences.rewards import Scorer
from dpo_lab.preferences.sampled import draw, prompts_of, texts_of
from dpo_lab.records import CandidateBatch, Logps
from dpo_lab.scoring.logps import Scoring, evaluating, score
from dpo_lab.scoring.micro_batches import inference_micro_batches, largest_micro_batch


@dataclass
class Judgement:
    """What was found of a policy: its metrics, for each prompt its samples side by side, and what they were computed from."""

    metrics: dict[str, float]
    rows: list[dict[str, Any]]
    samples: CandidateBatch
    logps: Logps

    def summary(self) -> dict[str, float]:
        """The metrics, and how many different prompts they rest on."""
        return {**self.metrics, "num_prompts": int(prompt_clusters(self.samples)[0].max()) + 1}


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
        prompts = held_out.prompt, held_out.prompt_mask
        return draw(policy, self.tokenizer, self.proxy, *prompts, 1, self.max_tokens, seed=self.seed, purpose="policy")

    def judge(self, policy: nn.Module, num_prompts: int) -> Judgement:
        """A policy on the first `num_prompts` prompts."""
        num_prompts = min(num_prompts, len(self.reference_samples))
        samples = self.samples(policy, num_prompts)
        logps = self._logps(policy, samples)
        theirs = self.reference_samples.select(torch.arange(num_prompts))
        gold = None if self.gold is None else self.gold(texts_of(samples, self.tokenizer)[0])
        reference_gold = None if self.gold_of_reference is None else self.gold_of_reference[:, :num_prompts]
        metrics = sample_metrics(samples, logps, gold, reference_gold, theirs.scores)
        first = replace(theirs, completions=theirs.completions[:1], mask=theirs.mask[:1], scores=None)
        texts = [prompts_of(samples, self.tokenizer), *(texts_of(batch, self.tokenizer)[0] for batch in (samples, first))]
        of_prompts = {"kl": logps.logratios()[0]}  # whose means are metrics: compare finds from them what runs share
        if gold is not None and reference_gold is not None and samples.scores is not None and theirs.scores is not None:
            of_prompts |= {"proxy/policy": samples.scores[0], "proxy/reference": theirs.scores.mean(dim=0)}
            of_prompts["win_rate"] = wins(gold, reference_gold)
        rows = []
        for i, (prompt, sample, other) in enumerate(zip(*texts, strict=True)):
            row: dict[str, Any] = {"prompt": prompt, "policy": sample, "reference": other}
            if gold is not None and reference_gold is not None:
                row |= {"reward/policy": float(gold[i]), "reward/reference": float(reference_gold[0, i])}
            rows.append(row | {name: float(values[i]) for name, values in of_prompts.items()})
        return Judgement(metrics, rows, samples, logps)

    def best_of_n(self, sizes: Sequence[int]) -> list[dict[str, float | int]]:
        """What choosing among n reference samples would reach; nothing without a reward."""
        if self.gold_of_reference is None or self.reference_samples.scores is None:
            return []
        clusters = prompt_clusters(self.reference_samples)[0]
        return [best_of_n(self.reference_samples.scores, self.gold_of_reference, n, clusters) for n in sizes]

    def ideal(self, judgement: Judgement, *more: CandidateBatch) -> dict[str, Any]:
        """The ideal frontier in the training scorer's reward, and the share of it that the policy has at its KL.

        The frontier is of the reference's samples for the held-out prompts, and of `more` of its samples at temperature 1.
        """
        scores, reference = judgement.samples.scores, self.reference_samples.scores
        assert scores is not None, "there is no reward"
        assert reference is not None, "there is no reward"
        frontier, clusters = frontier_of(self.reference_samples, *more)
        num, start = len(judgement.samples), judgement.metrics["proxy/reference"]
        found = ideal_share(scores[0], judgement.logps.logratios()[0], reference[:, :num], clusters[:num], frontier)
        points = [{"kl": point.kl, "proxy": start + point.reward} for point in frontier.points]
        return {"ideal_frontier": points, **_shown(found)}

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
        self._logps(policy, largest_micro_batch(longest, self.scoring.micro_batch_size, self.scoring.micro_batch_tokens))

    @torch.no_grad()
    def _logps(self, policy: nn.Module, samples: CandidateBatch) -> Logps:
        device = next(policy.parameters()).device
        ours, theirs = (torch.zeros(samples.mask.shape) for _ in range(2))
        with evaluating(policy), evaluating(self.reference):
            for rows in inference_micro_batches(samples, self.scoring.micro_batch_size, self.scoring.micro_batch_tokens):
                part = samples.select(rows).to(device)
                for model, scores in ((policy, ours), (self.reference, theirs)):
                    real = score(model, part, self.scoring)[part.mask].cpu()
                    scores[:, rows] = scores[:, rows].masked_scatter(samples.mask[:, rows], real)
        return Logps(ours, theirs, samples.mask)


def _shown(found: IdealShare) -> dict[str, Any]:
    if found.share is None:
        return {"ideal_share": None, "ideal_share_reason": found.reason}
    error = {} if found.error is None else {"ideal_share_se": found.error}
    return {"ideal_share": found.share, **error, "ideal_extrapolated": found.extrapolated}
