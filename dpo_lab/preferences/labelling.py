"""How scored samples become feedback: which are compared, and what their rewards say."""

from __future__ import annotations

from enum import Enum

import torch
from einops import rearrange, repeat

from dpo_lab.records import CandidateBatch
from dpo_lab.seeding import Streams


class Pairing(Enum):
    """Which samples of a prompt are compared.

    all: each with each, scored together in one pass (the most signal for the compute). extremes (best with worst, second best
    with second worst, ...), best_worst and random make pairs, a sample in one at most. unpaired: none; each is desirable or
    not.
    """

    all = "all"
    extremes = "extremes"
    best_worst = "best_worst"
    random = "random"
    unpaired = "unpaired"


class Labels(Enum):
    """What the rewards r of a pair say of it, with P = sigmoid((r_chosen - r_rejected) / label_temperature).

    hard: the higher reward wins. soft: P is the pair's confidence. bradley_terry: chance decides, with probability P.
    Of an unpaired sample, `desirable_above` takes the place of the rejected one's reward.
    """

    hard = "hard"
    soft = "soft"
    bradley_terry = "bradley_terry"


def unpaired(
    samples: CandidateBatch, threshold: float, temperature: float | None, chance: Streams
) -> tuple[CandidateBatch, dict[str, int]]:
    """One row for each sample, and how many are desirable: whose reward is above the threshold.

    With a temperature chance, a stream for each prompt, decides instead, with probability sigmoid((reward - threshold) /
    temperature). Samples of one prompt stand far apart, so that a row's neighbour has another prompt.
    """
    assert samples.scores is not None, "the samples have not been scored"
    k, b = samples.scores.shape
    scores = rearrange(samples.scores, "k b -> 1 (k b)")
    desirable = scores.double() > threshold
    if temperature is not None:
        probability = torch.sigmoid((scores.double() - threshold) / temperature)
        desirable = rearrange(chance.uniform(k), "b k -> 1 (k b)") < probability
    made = CandidateBatch(
        prompt=repeat(samples.prompt, "b p -> (k b) p", k=k),
        prompt_mask=repeat(samples.prompt_mask, "b p -> (k b) p", k=k),
        completions=rearrange(samples.completions, "k b m -> 1 (k b) m"),
        mask=rearrange(samples.mask, "k b m -> 1 (k b) m"),
        ids=torch.arange(k * b),
        confidence=torch.ones(k * b),
        scores=scores,
        desirable=desirable,
    )
    good = int(desirable.sum())
    return made, {"completions": k * b, "desirable": good, "undesirable": k * b - good}
