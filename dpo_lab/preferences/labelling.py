"""Scored samples become preferences: pairs, rankings, or single completions, labelled by their rewards."""

from __future__ import annotations

import math
from dataclasses import replace
from enum import Enum

import torch
from einops import rearrange, repeat
from jaxtyping import Float, Int
from torch import Tensor

from dpo_lab.records import CandidateBatch
from dpo_lab.seeding import Streams


class Labels(Enum):
    """How a pair is labelled from its rewards r, with P = sigmoid((r_chosen - r_rejected) / label_temperature).

    hard: the higher reward wins. soft: P is the pair's confidence. bradley_terry: the winner is drawn, with probability P.
    For a sample by itself, `desirable_above` takes the place of the rejected one's reward.
    """

    hard = "hard"
    soft = "soft"
    bradley_terry = "bradley_terry"


def label_pairs(
    samples: CandidateBatch,
    first: Int[Tensor, "q b"],
    second: Int[Tensor, "q b"],
    labels: Labels = Labels.hard,
    temperature: float = 1.0,
    streams: Streams | None = None,
) -> tuple[CandidateBatch, dict[str, int]]:
    """Pairs of samples: q for each of b prompts, by the samples' numbers. Those with equal rewards are left out.

    `streams`, one for each prompt, draws the labels of `bradley_terry`.
    """
    assert samples.scores is not None, "the samples have not been scored"
    num_pairs = first.shape[0]
    prompts = repeat(torch.arange(len(samples)), "b -> (q b)", q=num_pairs)
    sides = torch.stack((rearrange(first, "q b -> (q b)"), rearrange(second, "q b -> (q b)")))
    scores = samples.scores[sides, prompts]
    sides = torch.where(scores[0] >= scores[1], sides, sides.flip(0))
    scores = samples.scores[sides, prompts]
    keep = scores[0] > scores[1]
    sides, prompts, scores = sides[:, keep], prompts[keep], scores[:, keep]
    confidence = torch.ones(len(prompts))
    probability = torch.sigmoid((scores[0] - scores[1]) / temperature)
    if labels is Labels.soft:
        confidence = probability
    elif labels is Labels.bradley_terry:
        assert streams is not None, "bradley_terry labels are drawn"
        upset = rearrange(streams.uniform(num_pairs), "b q -> (q b)")[keep] > probability
        sides, scores = (torch.where(upset, t.flip(0), t) for t in (sides, scores))
    pairs = CandidateBatch(
        prompt=samples.prompt[prompts],
        prompt_mask=samples.prompt_mask[prompts],
        completions=samples.completions[sides, prompts],
        mask=samples.mask[sides, prompts],
        ids=torch.arange(len(prompts)),
        confidence=confidence,
        scores=scores,
    )
    return pairs, {"pairs": len(prompts), "left out, equal rewards": int((~keep).sum())}


def label_rankings(
    samples: CandidateBatch, labels: Labels, temperature: float, streams: Streams
) -> tuple[CandidateBatch, dict[str, int]]:
    """All samples of each prompt, best first; prompts whose samples all have one reward are left out."""
    assert samples.scores is not None, "the samples have not been scored"
    utilities = samples.scores / temperature
    if labels is Labels.bradley_terry:
        # Ordering by utility + Gumbel noise draws each pair's winner with probability sigmoid(difference).
        numbers = rearrange(streams.uniform(samples.num_candidates), "b k -> k b")
        utilities = utilities - (-torch.log1p(-numbers)).log()
    keep = (samples.scores != samples.scores[0]).any(dim=0).nonzero()[:, 0]
    order = utilities[:, keep].argsort(dim=0, descending=True, stable=True)
    known: Tensor | None = utilities[order, keep]
    if labels is Labels.bradley_terry:
        known = None  # the winners are drawn: the order is all there is
    elif labels is Labels.hard:
        known = certain_utilities(samples.scores[order, keep])
    rankings = replace(
        samples,
        prompt=samples.prompt[keep],
        prompt_mask=samples.prompt_mask[keep],
        completions=samples.completions[order, keep],
        mask=samples.mask[order, keep],
        ids=torch.arange(len(keep)),
        confidence=torch.ones(len(keep)),
        scores=samples.scores[order, keep],
        utilities=known,
    )
    counts = {"prompts": len(keep), "pairs": len(keep) * math.comb(samples.num_candidates, 2)}
    return rankings, {**counts, "prompts left out, equal rewards": len(samples) - len(keep)}


def label_singles(
    samples: CandidateBatch, threshold: float, temperature: float | None, streams: Streams
) -> tuple[CandidateBatch, dict[str, int]]:
    """Each sample by itself, desirable where its reward is above the threshold.

    With a temperature the label is drawn, from a stream for each prompt: desirable with probability
    sigmoid((reward - threshold) / temperature). Samples of one prompt stand far apart, so that a row's neighbour has another
    prompt.
    """
    assert samples.scores is not None, "the samples have not been scored"
    k, b = samples.scores.shape
    scores = rearrange(samples.scores, "k b -> 1 (k b)")
    desirable = scores.double() > threshold
    if temperature is not None:
        probability = torch.sigmoid((scores.double() - threshold) / temperature)
        desirable = rearrange(streams.uniform(k), "b k -> 1 (k b)") < probability
    singles = CandidateBatch(
        prompt=repeat(samples.prompt, "b p -> (k b) p", k=k),
        prompt_mask=repeat(samples.prompt_mask, "b p -> (k b) p", k=k),
        completions=rearrange(samples.completions, "k b m -> 1 (k b) m"),
        mask=rearrange(samples.mask, "k b m -> 1 (k b) m"),
        ids=torch.arange(k * b),
        confidence=torch.ones(k * b),
        scores=scores,
        desirable=desirable,
    )
    num_desirable = int(desirable.sum())
    return singles, {"completions": k * b, "desirable": num_desirable, "undesirable": k * b - num_desirable}


def certain_utilities(scores: Float[Tensor, "k b"]) -> Float[Tensor, "k b"]:
    """Utilities of candidates in best-first order, by which the higher score always wins and equal scores are no preference."""
    # Steps of 40 log-odds are certain in float32; equal scores stay at one half.
    steps = (scores.diff(dim=0) != 0).float().cumsum(dim=0)
    return torch.cat((torch.zeros(1, scores.shape[1]), -40 * steps))
