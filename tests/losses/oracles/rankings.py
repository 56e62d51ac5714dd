"""Losses of several candidates of a prompt at once."""

from __future__ import annotations

import math
from typing import Any

from losses.oracles.base import Oracle, PlainPair, Prompt, of_pairs, ratio, softplus


def rewards(loss: Any, prompt: Prompt) -> list[float]:
    shortest = min(len(completion.policy) for completion in prompt.candidates)
    return [loss.beta * ratio(loss, completion, shortest) for completion in prompt.candidates]


def nca(loss: Any, prompts: list[Prompt]) -> list[float]:
    return [nca_of_one(loss, prompt) for prompt in prompts]


def nca_of_one(loss: Any, prompt: Prompt) -> float:
    k = len(prompt.candidates)
    targets = [prompt.confidence, 1 - prompt.confidence] if k == 2 else [1.0] + [0.0] * (k - 1)
    return sum(w * softplus(-r) + softplus(r) / k for w, r in zip(targets, rewards(loss, prompt), strict=True))


def plackett_luce(loss: Any, prompts: list[Prompt]) -> list[float]:
    return [plackett_luce_of_one(rewards(loss, prompt)) for prompt in prompts]


def plackett_luce_of_one(found: list[float]) -> float:
    """The best is chosen among all, then the next among the rest: -log of the product of these softmax probabilities."""
    total = 0.0
    for j in range(len(found)):
        highest = max(found[j:])
        total += highest + math.log(sum(math.exp(r - highest) for r in found[j:])) - found[j]
    return total


def lipo_lambda(loss: Any, prompts: list[Prompt]) -> list[float]:
    return [lipo_of_one(loss, prompt) for prompt in prompts]


def lipo_of_one(loss: Any, prompt: Prompt) -> float:
    found = rewards(loss, prompt)
    scores = [completion.score for completion in prompt.candidates]
    gains = [2 ** ((score - min(scores)) / (max(scores) - min(scores))) - 1 for score in scores]
    ranks = [1 + sum(b > a or (b == a and j < i) for j, b in enumerate(found)) for i, a in enumerate(found)]
    discounts = [1 / math.log(1 + rank) for rank in ranks]
    total = 0.0
    for i in range(len(found)):
        for j in range(i + 1, len(found)):
            two = Prompt([prompt.candidates[i], prompt.candidates[j]], prompt.confidence, prompt.margin)
            if len(found) > 2:
                two.confidence = 1.0
            value = weighted_dpo(loss, two, found[i] - found[j])
            total += abs(gains[i] - gains[j]) * abs(discounts[i] - discounts[j]) * value
    return total


def weighted_dpo(loss: Any, two: Prompt, difference: float) -> float:
    """dpo of one pair with the rewards it has in its list, and with all that pair losses share."""

    def of_pair(_: Any, pair: PlainPair) -> float:
        right_way = pair.chosen_score >= pair.rejected_score
        return softplus(-((difference if right_way else -difference) - pair.margin))

    return of_pairs(of_pair)(loss, [two])[0]


ORACLES: dict[str, Oracle] = {"nca": nca, "plackett_luce": plackett_luce, "lipo_lambda": lipo_lambda}

# Of BY_HAND: log-ratios 1 and -.5, gap 1.5; log(1 + e^-1.5) = .2014133
NUMBERS: list[tuple[str, dict[str, Any], float]] = [
    ("nca", {"beta": 1.0}, 1.2069310233673876),  # log(1 + e^-1) + log(1 + e) / 2 + log(1 + e^-.5) / 2: .3133 + .6566 + .2370
    ("plackett_luce", {"beta": 1.0}, 0.2014132779827524),  # of two it is dpo
    ("plackett_luce", {"beta": 0.1}, 0.6209570477895321),  # log(1 + e^-.15)
    ("lipo_lambda", {"beta": 1.0}, 0.10724367093151038),  # gains 1 and 0, ranks 1 and 2: (1 / log 2 - 1 / log 3) * .2014133
]
