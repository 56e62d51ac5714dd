"""Losses of the policy's own log-probabilities."""

from __future__ import annotations

import math
import statistics
from typing import Any

from losses.oracles.base import Oracle, PlainPair, Prompt, of_pairs, ratio, softplus

from dpo_lab.records import Aggregate


def simpo(loss: Any, pair: PlainPair) -> float:
    gamma = loss.gamma_ratio * loss.beta
    return softplus(-(loss.beta * pair.chosen_logp - loss.beta * pair.rejected_logp - gamma - pair.margin))


def cpo(loss: Any, pair: PlainPair) -> float:
    return softplus(-(loss.beta * (pair.chosen_logp - pair.rejected_logp) - pair.margin))


def orpo(loss: Any, pair: PlainPair) -> float:
    """Odds from probabilities, as the paper writes them: enough digits while those lie well between 0 and 1."""
    chosen, rejected = (math.exp(logp) / (1 - math.exp(logp)) for logp in (pair.chosen_logp, pair.rejected_logp))
    return loss.beta * math.log(1 + rejected / chosen * math.exp(pair.margin / loss.beta))


def alphapo(loss: Any, pair: PlainPair) -> float:
    chosen, rejected = ((1 - math.exp(logp) ** -loss.alpha) / loss.alpha for logp in (pair.chosen_logp, pair.rejected_logp))
    return softplus(-(loss.beta * (chosen - rejected - loss.gamma_ratio) - pair.margin))


def simper(loss: Any, pair: PlainPair) -> float:
    return math.exp(pair.rejected_logp) - math.exp(pair.chosen_logp)


def slic(loss: Any, pair: PlainPair) -> float:
    return max(0.0, loss.delta - pair.chosen_logp + pair.rejected_logp + pair.margin)


def alpha_dpo(loss: Any, prompts: list[Prompt]) -> list[float]:
    """After one step that consists of these prompts, whose averages are that step's own mean and deviation."""
    gaps = []
    for prompt in prompts:
        shortest = min(len(candidate.policy) for candidate in prompt.candidates)
        ratios = [ratio(loss, candidate, shortest) for candidate in prompt.candidates]
        gaps += [chosen - rejected for i, chosen in enumerate(ratios) for rejected in ratios[i + 1 :]]
    mean, deviation = statistics.fmean(gaps), statistics.stdev(gaps) if len(gaps) > 1 else 0.0

    def of_pair(loss: Any, pair: PlainPair) -> float:
        z = (pair.chosen_ratio - pair.rejected_ratio - mean) / deviation if deviation > 1e-6 else 0.0
        target = loss.gamma_ratio + loss.alpha * z
        return softplus(-(loss.beta * (pair.chosen_logp - pair.rejected_logp - target) - pair.margin))

    return of_pairs(of_pair)(loss, prompts)


ORACLES: dict[str, Oracle] = {
    "alpha_dpo": alpha_dpo,
    "alphapo": of_pairs(alphapo),
    "cpo": of_pairs(cpo),
    "orpo": of_pairs(orpo),
    "simper": of_pairs(simper),
    "simpo": of_pairs(simpo),
    "slic": of_pairs(slic),
}

# Of BY_HAND: log-probabilities are -3 and -4 as sums, -1.5 and -4 as means
NUMBERS: list[tuple[str, dict[str, Any], float]] = [
    ("simpo", {}, 0.011047744848593817),  # log(1 + e^-(2 * 2.5 - .5))
    ("simpo", {"gamma_ratio": 0.0}, 0.006715348489118068),  # log(1 + e^-5)
    ("simpo", {"aggregate": Aggregate.sum, "beta": 1.0, "gamma_ratio": 1.0}, 0.6931471805599453),  # 1 - 1 = 0: log 2
    ("cpo", {}, 2.144396660073571),  # log(1 + e^-.1) + 1.5
    ("cpo", {"nll": 0.0}, 0.6443966600735709),
    # odds ratio (e^-4 / (1 - e^-4)) / (e^-1.5 / (1 - e^-1.5)) = (e^1.5 - 1) / (e^4 - 1)
    ("orpo", {}, 1.506293642064082),  # 1.5 + .1 * log(1 + that)
    ("orpo", {"beta": 1.0, "nll": 0.0}, 0.06293642064082104),
    ("alphapo", {}, 4.1895960650203086e-06),  # rewards 4 * (1 - e^.375) and 4 * (1 - e): x = 2.5 * (4 * (e - e^.375) - .1)
    ("alphapo", {"alpha": -1.0, "beta": 1.0, "gamma_ratio": 0.0}, 0.5959744037991522),  # log(1 + e^-(e^-1.5 - e^-4))
    ("simper", {}, -0.20481452125969563),  # e^-4 - e^-1.5
    ("slic", {}, 0.15),  # a gap of 1 meets delta 1: .1 * 1.5 remains
    ("slic", {"delta": 2.0}, 1.15),
    ("slic", {"label_smoothing": 0.25}, 0.65),  # .75 * 0 + .25 * (1 + 1) + .15
    ("alpha_dpo", {}, 0.008614483762175558),  # one pair has no deviation: log(1 + e^-(2.5 * (2.5 - .6)))
]
