"""What an oracle sees: plain Python numbers, and how options that all losses share look in them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from einops import rearrange

from dpo_lab.losses.divergences import Divergence
from dpo_lab.records import Aggregate, CandidateBatch, Logps


@dataclass
class Completion:
    """Of each token: log-probability under policy and reference, KL of the next-token distributions, log collision."""

    policy: list[float]
    reference: list[float]
    kl: list[float] = field(default_factory=list)
    collision: list[float] = field(default_factory=list)
    score: float = 0.0
    desirable: bool = True


@dataclass
class Prompt:
    """A prompt's candidates, best first, and what is known of them."""

    candidates: list[Completion]
    confidence: float = 1.0
    margin: float = 0.0
    mismatched: Completion | None = None


Oracle = Callable[[Any, list[Prompt]], list[float]]
"""(loss, all prompts of the step) -> the loss of each prompt, without the nll term."""


def softplus(x: float) -> float:
    """-log sigmoid(-x)"""
    return x + math.log1p(math.exp(-x)) if x > 0 else math.log1p(math.exp(x))


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x > 0 else math.exp(x) / (1 + math.exp(x))


def aggregated(loss: Any, tokens: list[float], shortest: int) -> float:
    """Sum, mean or shared aggregate; `shortest` is the length of the prompt's shortest candidate."""
    if loss.aggregate is Aggregate.mean:
        return sum(tokens) / len(tokens)
    if loss.aggregate is Aggregate.shared:
        return sum(tokens[:shortest]) + loss.shared_rest * sum(tokens[shortest:])
    assert loss.aggregate is Aggregate.sum
    return sum(tokens)


def exponential(x: float) -> float:
    """e^x, on its tangent at 20 beyond it."""
    return math.exp(x) if x < 20 else math.exp(20) + math.exp(20) * (x - 20)


def ratio(loss: Any, completion: Completion, shortest: int) -> float:
    """The aggregated log-ratio, under the divergence's link."""
    rho = aggregated(loss, [p - r for p, r in zip(completion.policy, completion.reference, strict=True)], shortest)
    a = loss.divergence_alpha
    return {
        Divergence.reverse_kl: lambda: rho,
        Divergence.forward_kl: lambda: 1 - exponential(-rho),
        Divergence.js: lambda: math.log(2) - softplus(-rho),
        Divergence.alpha: lambda: (1 - exponential(-a * rho)) / a,
        Divergence.chi_squared: lambda: exponential(rho) + rho,
    }[loss.divergence]()


@dataclass
class PlainPair:
    """Numbers of one pair: aggregated log-probabilities, log-ratios (linked), token counts, scores, summed KLs, margin."""

    chosen_logp: float
    rejected_logp: float
    chosen_ratio: float
    rejected_ratio: float
    chosen_length: int
    rejected_length: int
    chosen_score: float
    rejected_score: float
    chosen_kl: float
    rejected_kl: float
    margin: float

    @property
    def gap(self) -> float:
        return self.chosen_ratio - self.rejected_ratio


def margin_of(loss: Any, prompt: Prompt, chosen: Completion, rejected: Completion) -> float:
    total = loss.margin.constant + loss.margin.length_penalty * (len(rejected.policy) - len(chosen.policy))
    if loss.margin.score:
        total += loss.margin.score * math.log(chosen.score - rejected.score)
    return total + loss.margin.data * prompt.margin


def of_pairs(of_pair: Callable[[Any, PlainPair], float]) -> Oracle:
    """An oracle from the equation of one certain pair (which must subtract `pair.margin` from its own reward margin).

    Adds what a pair loss shares with all others: the mean over all pairs, labels that may be wrong, WPO weights.
    """

    def oracle(loss: Any, prompts: list[Prompt]) -> list[float]:
        return [one_prompt(loss, prompt) for prompt in prompts]

    def one_prompt(loss: Any, prompt: Prompt) -> float:
        found = []
        shortest = min(len(completion.policy) for completion in prompt.candidates)
        for i, chosen in enumerate(prompt.candidates):
            for rejected in prompt.candidates[i + 1 :]:
                margin = margin_of(loss, prompt, chosen, rejected)
                sure = prompt.confidence if len(prompt.candidates) == 2 and loss.reads_confidence else 1.0
                right = sure * (1 - loss.label_smoothing) + (1 - sure) * loss.label_smoothing
                value = right * of_pair(loss, plain(loss, chosen, rejected, shortest, margin))
                if right < 1:
                    value += (1 - right) * of_pair(loss, plain(loss, rejected, chosen, shortest, -margin))
                if loss.weighting.value == "wpo":
                    for one in (chosen, rejected):
                        value *= math.exp(sum(p - c for p, c in zip(one.policy, one.collision, strict=True)) / len(one.policy))
                found.append(value)
        return sum(found) / len(found)

    return oracle


def plain(loss: Any, chosen: Completion, rejected: Completion, shortest: int, margin: float = 0.0) -> PlainPair:
    two = (chosen, rejected)
    numbers: list[Any] = [aggregated(loss, one.policy, shortest) for one in two]
    numbers += [ratio(loss, one, shortest) for one in two]
    numbers += [len(one.policy) for one in two]
    numbers += [one.score for one in two]
    numbers += [sum(one.kl) for one in two]
    return PlainPair(*numbers, margin=margin)


def tensors(prompts: list[Prompt]) -> tuple[Logps, CandidateBatch]:
    """The same as the records that a loss takes, float64, padded at the right; unknown KLs and collisions are left out."""
    k = len(prompts[0].candidates)
    completions = [prompt.candidates[c] for c in range(k) for prompt in prompts]

    def block(rows: list[list[float]], num: int) -> torch.Tensor:
        width = max(map(len, rows))
        filled = torch.tensor([[*row, *[0.0] * (width - len(row))] for row in rows], dtype=torch.float64)
        return rearrange(filled, "(k b) m -> k b m", k=num)

    def of(name: str, rows: list[Completion], num: int) -> torch.Tensor | None:
        found = [getattr(row, name) for row in rows]
        return block(found, num) if all(found) else None

    mask = block([[1.0] * len(row.policy) for row in completions], k).bool()
    policy, reference = of("policy", completions, k), of("reference", completions, k)
    assert policy is not None
    b = len(prompts)
    batch = CandidateBatch(
        prompt=torch.zeros(b, 1, dtype=torch.long),
        prompt_mask=torch.ones(b, 1, dtype=torch.bool),
        completions=torch.zeros(mask.shape, dtype=torch.long),
        mask=mask,
        ids=torch.arange(b),
        confidence=torch.tensor([prompt.confidence for prompt in prompts], dtype=torch.float64),
        scores=rearrange(torch.tensor([row.score for row in completions], dtype=torch.float64), "(k b) -> k b", k=k),
        desirable=rearrange(torch.tensor([row.desirable for row in completions]), "(k b) -> k b", k=k),
        margin=torch.tensor([prompt.margin for prompt in prompts], dtype=torch.float64),
    )
    others = [prompt.mismatched for prompt in prompts if prompt.mismatched is not None]
    mismatched = None
    if len(others) == b:
        other_policy = of("policy", others, 1)
        assert other_policy is not None
        other_mask = block([[1.0] * len(row.policy) for row in others], 1).bool()
        mismatched = Logps(other_policy, of("reference", others, 1), other_mask)
    kl, collision = of("kl", completions, k), of("collision", completions, k)
    return Logps(policy, reference, mask, kl=kl, collision=collision, mismatched=mismatched), batch
